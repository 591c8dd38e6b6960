"""What the contract page shows: another instant, lines, terms, the log, and its place on the home page."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Min
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from commerce import clock
from commerce.console.as_of import asked_instants
from commerce.console.format import admin_url, badge, instant, link, money
from commerce.console.registry import (
    Card,
    CardValue,
    Hit,
    TimelineRow,
    register_card,
    register_panel,
    register_search,
    register_timeline,
)  # fmt: skip
from commerce.money import exponent
from commerce.parties.models import Organization
from contracts import services
from contracts.admin.actions import title_of
from contracts.models import Contract
from contracts.rules import fold, pricing
from contracts.rules.state import ContractState, Price, difference

EDITS_SHOWN = 20
TIMELINE_SHOWN = 100


@dataclass(frozen=True)
class View:
    """The state that the page shows; `asked` when it is not the present one."""

    state: ContractState
    valid_at: datetime
    known_at: datetime | None
    asked: bool


def view_of(contract: Contract, request: HttpRequest) -> View:
    asked = asked_instants(request)
    valid_at = asked.get("valid_at", clock.now())
    if not asked:
        return View(contract.current, contract.projected_at, None, asked=False)
    state = fold.fold(services.contract_edits(contract.pk), valid_at=valid_at, known_at=asked.get("known_at"))
    return View(state, valid_at, asked.get("known_at"), asked=True)


def other_instant(contract: Contract, request: HttpRequest) -> SafeString:
    view = view_of(contract, request)
    form = format_html(
        '<form method="get" class="c-facts"><div><label for="valid_at">Valid at (UTC)</label>'
        '<p><input type="datetime-local" id="valid_at" name="valid_at" value="{}"></p></div>'
        '<div><label for="known_at">As known at (UTC)</label>'
        '<p><input type="datetime-local" id="known_at" name="known_at" value="{}"></p></div>'
        '<p><button class="c-button" type="submit">Show</button></p></form>',
        f"{view.valid_at:%Y-%m-%dT%H:%M}" if view.asked else "",
        f"{view.known_at:%Y-%m-%dT%H:%M}" if view.known_at else "",
    )
    if not view.asked:
        return form
    banner = format_html(
        '<p class="c-notice c-warn" role="status">Lines and terms below as of {}, as known {}: {}. '
        '<a class="c-link" href="{}">Back to now</a></p>',
        instant(view.valid_at),
        instant(view.known_at) if view.known_at else "now",
        badge(view.state.status) if view.state.exists else "the contract did not exist",
        admin_url(contract),
    )
    return banner + form


def lines(contract: Contract, request: HttpRequest) -> SafeString:
    state = view_of(contract, request).state
    if not state.lines:
        return format_html('<p class="c-nothing">{}</p>', "Lines appear here when products are added.")
    sellers = Organization.objects.in_bulk(state.seller_ids)
    period = pricing.billing_period(state.billing.anchor_day, contract.start_at, contract.projected_at)
    rows = format_html_join(
        "",
        "<tr><td>{}</td><td>{}</td><td>{}</td><td class='c-right'>{}</td><td class='c-right'>{}</td>"
        "<td class='c-right'>{}</td></tr>",
        (
            (
                line.product_code,
                link(sellers.get(line.seller_id)),
                _line_status(state, line.line_id),
                line.quantity if line.kind == "recurring" else "as used",
                f"{_rate(line.price)} / {line.unit.replace('_', '-')}",
                money(
                    pricing.prorate(line.price.minor_rate * line.quantity, period.full, period.full),
                    state.currency,
                )
                if line.kind == "recurring" and line.live
                else "—",
            )
            for line in state.lines.values()
        ),
    )
    net, tax = pricing.expected_period_total(state, period)
    return format_html(
        '<div class="c-scroll"><table class="c-table"><thead><tr><th>Product</th><th>Seller</th>'
        '<th>State</th><th class="c-right">Quantity</th><th class="c-right">Price</th>'
        '<th class="c-right">Per month</th></tr>'
        "</thead><tbody>{}</tbody><tfoot><tr><td colspan='5'>Expected from {} to {}, tax {}, usage apart</td>"
        "<td class='c-right'>{}</td></tr></tfoot></table></div>",
        rows,
        instant(period.start),
        instant(period.end),
        money(tax, state.currency),
        money(net, state.currency),
    )


def _rate(price: Price) -> str:
    """ "18,000.00 USD", with as many digits as the rate has and at least the currency's."""
    digits = max(exponent(price.currency), -int(price.rate.normalize().as_tuple().exponent))
    return f"{price.rate:,.{digits}f} {price.currency}"


def _line_status(state: ContractState, line_id: Any) -> SafeString:
    if not state.lines[line_id].live:
        return badge("removed", "bad")
    if any(hold.covers(line_id) for hold in state.holds):
        return badge("suspended")
    return badge("live", "good")


def terms(contract: Contract, request: HttpRequest) -> SafeString:
    state = view_of(contract, request).state
    settlement, payment = state.terms.settlement, state.terms.payment
    downpayment = state.terms.commitment.downpayment
    partner = Organization.objects.filter(pk=settlement.partner_id).first() if settlement.partner_id else None
    facts = [
        ("Billing", f"monthly in arrears, from day {state.billing.anchor_day}"),
        ("Due", f"{payment.net_days} days net, {payment.grace_days} of grace"),
        ("Collection", payment.collection.replace("_", " ")),
        ("Invoices by", payment.invoice_source.replace("_", " ")),
        ("Tax", _percent(state.terms.tax.rate)),
        ("Fee", f"{_percent(settlement.fee_rate)} of the net"),
        ("Seasoning", f"{settlement.seasoning_days} days"),
        ("Downpayment", money(downpayment.amount_minor, downpayment.currency) if downpayment else "none"),
        *([("Partner", format_html("{}, {} of the fee", link(partner), _percent(settlement.partner_share)))]
          if partner else []),
        *(("Hold", format_html("{} since {}, billing {}", hold.reason.replace("_", " "), instant(hold.since),
                               "goes on" if hold.billing == "continue" else "stopped"))
          for hold in state.holds),
    ]  # fmt: skip
    return format_html(
        '<dl class="c-facts">{}</dl>', format_html_join("", "<div><dt>{}</dt><dd>{}</dd></div>", facts)
    )


def _percent(share: Any) -> str:
    return f"{(share * 100).normalize():f} %"


def log(contract: Contract, request: HttpRequest) -> SafeString:
    """The newest versions, each with what it changed at the instant it takes effect."""
    edits = services.contract_edits(contract.pk)
    rows = []
    for edit in reversed(edits[-EDITS_SHOWN:]):
        earlier = [other for other in edits if other.seq < edit.seq]
        before = fold.fold(earlier, valid_at=edit.effective_at)
        after = fold.fold([*earlier, edit], valid_at=edit.effective_at)
        rows.append(
            (
                format_html('<a class="c-link" href="{}">#{}</a>', _edit_url(edit.id), edit.seq),
                title_of(edit.operation, edit.payload),
                _changes(before, after) if edit.seq > 1 else "the draft",
                instant(edit.effective_at),
                instant(edit.recorded_at),
                edit.actor,
                edit.reason or "—",
            )
        )
    return format_html(
        '<div class="c-scroll"><table class="c-table"><thead><tr><th>Version</th><th>Operation</th>'
        "<th>Changed</th><th>Effective</th><th>Recorded</th><th>By</th><th>Reason</th></tr></thead>"
        "<tbody>{}</tbody></table></div>",
        format_html_join("", "<tr>" + "<td>{}</td>" * 7 + "</tr>", rows),
    )


def _changes(before: ContractState, after: ContractState) -> SafeString:
    old, new = difference(before, after)
    return format_html_join(
        "",
        '<div>{}: <del class="c-none">{}</del> {}</div>',
        (
            (_named(path, after), _in_words(old.get(path, "")), _in_words(new.get(path, "—")))
            for path in {**old, **new}
            if "_id" not in path
        ),
    )


def _in_words(value: Any) -> str:
    """A value of the state without its punctuation: signatures by name, holds by reason."""
    if isinstance(value, dict):
        return str(value.get("name") or value.get("reason") or ", ".join(map(_in_words, value.values())))
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value)) or "none"
    return str(value).replace("_", " ")


def _named(path: str, state: ContractState) -> str:
    """ "/lines/<id>/quantity" as "h100-server quantity"."""
    for line_id, line in state.lines.items():
        path = path.replace(f"/lines/{line_id}", f"/{line.product_code}")
    return path.strip("/").replace("/", " ").replace("_", " ")


def _edit_url(edit_id: Any) -> str:
    return reverse("admin:contracts_contractedit_change", args=[edit_id])


def timeline(contract: Contract) -> Iterator[TimelineRow]:
    for edit in reversed(services.contract_edits(contract.pk)[-TIMELINE_SHOWN:]):
        yield TimelineRow(
            at=edit.effective_at,
            kind="contract",
            title=f"{title_of(edit.operation, edit.payload)} (version {edit.seq})",
            detail=edit.reason,
            actor=edit.actor,
            url=_edit_url(edit.id),
        )


def search(term: str) -> Iterator[Hit]:
    for contract in Contract.objects.filter(number__startswith=term.upper()).order_by("number")[:10]:
        yield Hit(f"{contract.number} ({contract.get_status_display()})", admin_url(contract), "contract")


def waiting(request: HttpRequest) -> CardValue:
    rows = Contract.objects.filter(status=Contract.Status.PENDING_ACTIVATION)
    oldest = rows.aggregate(oldest=Min("projected_at"))["oldest"]
    return CardValue(count=rows.count(), oldest=oldest)


register_panel("contracts.contract", title="Lines", render=lines, order=1)
register_panel("contracts.contract", title="Terms", render=terms, order=2)
register_panel("contracts.contract", title="Versions", render=log, order=40)
register_panel("contracts.contract", title="At another instant", render=other_instant, order=0)
register_timeline("contracts.contract", timeline)
register_search(search, permission="contracts.view_contract")
register_card(
    Card(
        key="contracts.pending_activation",
        title="Signed, not live",
        url=lambda: reverse("admin:contracts_contract_changelist") + "?status__exact=pending_activation",
        load=waiting,
        empty="Every signed contract is live.",
        permission="contracts.view_contract",
        order=60,
    )
)
