"""What a contract should bill: the lines of one period, and what operations would change of them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from urllib.parse import urlencode

from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from commerce import clock
from commerce.console.as_of import within_calendar
from commerce.console.charts import nothing, table
from commerce.console.format import NOTHING, link, money
from commerce.parties.models import Organization
from contracts import services
from contracts.admin.instants import view_of
from contracts.models import Contract
from contracts.rules.lines import DesiredLine, Difference, LineKind
from contracts.rules.periods import Period
from contracts.rules.state import ContractState

KINDS: dict[LineKind, str] = {
    "recurring": "recurring",
    "usage": "usage so far",
    "one_off": "once",
    "discount": "discount",
    "sla_credit": "credit for missed uptime",
    "true_up": "true-up of the commitment",
    "overage": "beyond the commitment",
    "early_fee": "early fee",
    "principal": "instalment, principal",
    "interest": "instalment, interest",
    "financing_payoff": "payoff of the loan",
    "financing_fee": "fee of the loan",
}
_TICK = timedelta(microseconds=1)


def bill_of_period(contract: Contract, request: HttpRequest) -> SafeString:
    """The desired lines of the period that `?period=` is in, else of the one that the page shows."""
    view = view_of(contract, request)
    state = view.state
    if state.start_at is None:
        return nothing("It was not known then.")
    asked = _asked(request) or max(view.valid_at, state.start_at)
    period = state.period(asked)
    lines = services.desired(
        contract.pk, start=period.start, end=period.end, at=clock.now(), known_at=view.known_at
    )
    sellers = Organization.objects.in_bulk({line.seller_id for line in lines if line.seller_id})
    currency = state.currency
    net, tax = sum(line.net_minor for line in lines), sum(line.tax_minor for line in lines)
    rows = [_row(line, sellers.get(line.seller_id) if line.seller_id else None, currency) for line in lines]
    shown = table(
        ["Product", "What", "Seller", "From", "To", ">Quantity", ">Net", ">Tax"],
        rows,
        empty="Nothing is billed for this period.",
        total=("In all", "", "", "", "", "", money(net, currency), money(tax, currency)),
    )
    return format_html("{}{}", _steps(request, state, period), shown)


def shown_differences(found: Sequence[Difference], currency: str) -> SafeString:
    """What each line comes to in each period, before and after, without tax; and the tax of it all."""
    rows = [
        (
            _day(one.owed.period_start),
            one.product,
            KINDS[one.owed.kind],
            money(one.net_before, currency),
            money(one.net_after, currency),
            money(one.net_minor, currency),
            money(one.tax_minor, currency),
        )
        for one in found
    ]
    sums = [
        sum(amounts)
        for amounts in zip(
            *((one.net_before, one.net_after, one.net_minor, one.tax_minor) for one in found), strict=True
        )
    ]
    return table(
        ["Period from", "Product", "What", ">Before", ">After", ">Difference", ">Of its tax"],
        rows,
        empty="No bill changes, up to the end of the next period.",
        total=("In all", "", "", *(money(minor, currency) for minor in sums)) if rows else (),
    )


def _row(line: DesiredLine, seller: Organization | None, currency: str) -> tuple[object, ...]:
    whole = line.end if line.end > line.start else None
    return (
        line.product or NOTHING,
        KINDS[line.kind],
        link(seller),
        _day(line.start),
        _day(whole) if whole else NOTHING,
        f"{line.quantity.normalize():,f}",
        money(line.net_minor, currency),
        money(line.tax_minor, currency),
    )


def _steps(request: HttpRequest, state: ContractState, period: Period) -> SafeString:
    """Which period this is, and the ways to its neighbours."""
    kept = {name: request.GET[name] for name in ("valid_at", "known_at") if request.GET.get(name)}

    def to(at: datetime, word: str) -> SafeString:
        query = urlencode({"tab": "what-it-bills", **kept, "period": f"{at:%Y-%m-%dT%H:%M:%S}"})
        return format_html('<a class="c-button" href="?{}">{}</a>', query, word)

    first = state.start_at is None or period.start <= state.start_at
    back = "" if first else to(state.period(period.start - _TICK).start, "Before")
    return format_html(
        '<div class="c-toolbar">{}<strong>{} – {}</strong>{}</div>',
        back,
        _day(period.start),
        _day(period.end),
        to(period.end, "After"),
    )


def _asked(request: HttpRequest) -> datetime | None:
    try:
        return within_calendar(datetime.fromisoformat(request.GET.get("period", "")))
    except ValueError:
        return None


def _day(at: datetime) -> str:
    clock = "" if (at.hour, at.minute, at.second) == (0, 0, 0) else f" {at:%H:%M:%S}"
    return f"{at.day} {at:%b %Y}{clock}"
