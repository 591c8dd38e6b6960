"""The trial balance's page, and what home says of the ledger: balances by class, cash in and out."""

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from commerce import clock
from commerce.console.as_of import as_of_banner, as_of_form, asked_instants
from commerce.console.charts import cash_flow, nothing, table
from commerce.console.export_links import export_link
from commerce.console.format import badge, money
from commerce.console.registry import Section, register_section
from commerce.errors import StateConflict
from commerce.money import CURRENCIES, STABLECOINS
from ledger import services
from ledger.models import LedgerAccount
from ledger.rules.kinds import Kind
from ledger.services.reports import TrialRow

CASH_DAYS = 14
ROWS_SHOWN = 500
_LISTED_BY = {"kind": "kind__exact", "class": "account_class__exact"}
_PAGES = {"owner": "admin:parties_organization_change", "account": "admin:ledger_ledgeraccount_change"}


def trial_balance_view(request: HttpRequest) -> HttpResponse:
    """Every balance on the side where it stands, at the instants and by the groups of the address."""
    if not request.user.has_perm("ledger.view_ledgeraccount"):
        raise PermissionDenied
    asked = asked_instants(request)
    by = request.GET.get("by", "")
    by = by if by in services.GROUPINGS else "kind"
    currency = request.GET.get("currency", "")
    currency = currency if currency in CURRENCIES | STABLECOINS else ""
    try:
        trial = services.trial_balance(
            at=asked.get("valid_at"), known_at=asked.get("known_at"), by=by, currency=currency or None
        )
    except StateConflict as error:
        messages.error(request, str(error))
        return HttpResponseRedirect(reverse("admin:ledger_trial_balance"))
    held = LedgerAccount.objects.order_by("currency").values_list("currency", flat=True).distinct()
    more = format_html(
        "{}{}",
        _choice("by", "By", list(services.GROUPINGS), by),
        _choice("currency", "Currency", held, currency, "all"),
    )
    context = {
        **admin.site.each_context(request),
        "title": "Trial balance",
        "banner": as_of_banner("Balances are", asked, reverse("admin:ledger_trial_balance")),
        "form": as_of_form(asked, more),
        "tables": [
            {"currency": total.debit.currency, "body": _trial_table(trial, total, by)}
            for total in trial.totals
        ],
        "nothing": nothing("Every account with a balance stands here, once something is posted."),
        "export": export_link(
            request,
            "ledger.balances",
            at=f"{asked['valid_at']:%Y-%m-%dT%H:%M:%S}" if "valid_at" in asked else "",
            currency=currency,
        )
        if "known_at" not in asked
        else "",
    }
    return TemplateResponse(request, "ledger/trial_balance.html", context)


def _trial_table(trial: services.TrialBalance, total: Any, by: str) -> SafeString:
    currency = total.debit.currency
    rows = [row for row in trial.rows if row.currency == currency]
    counted = by != "account"
    shown = table(
        [by.capitalize(), *([">Accounts"] if counted else []), ">Debit", ">Credit", ">Balance"],
        (
            (
                _group(row, by),
                *([f"{row.accounts:,}"] if counted else []),
                money(row.debit.minor, currency) if row.debit.minor else "",
                money(row.credit.minor, currency) if row.credit.minor else "",
                money(row.balance.minor, currency),
            )
            for row in rows[:ROWS_SHOWN]
        ),
        total=(
            "Total",
            *([f"{sum(row.accounts for row in rows):,}"] if counted else []),
            money(total.debit.minor, currency),
            money(total.credit.minor, currency),
            badge("balances", "good") if total.balances else badge("does not balance", "bad"),
        ),
    )
    hidden = len(rows) - ROWS_SHOWN
    if hidden <= 0:
        return shown
    more = '{}<p class="c-help">{} more groups are in the total; the export has all.</p>'
    return format_html(more, shown, f"{hidden:,}")


def _group(row: TrialRow, by: str) -> SafeString:
    """A group's name, leading to its accounts."""
    if by in _PAGES:
        url = reverse(_PAGES[by], args=[row.key])
    else:
        url = f"{reverse('admin:ledger_ledgeraccount_changelist')}?{urlencode({_LISTED_BY[by]: row.key})}"
    return format_html('<a class="c-link" href="{}">{}</a>', url, row.label)


def _choice(name: str, label: str, values: Any, chosen: str, none: str = "") -> SafeString:
    options = [*([("", none)] if none else []), *((value, value) for value in values)]
    return format_html(
        '<div><label for="{0}">{1}</label><p><select id="{0}" name="{0}">{2}</select></p></div>',
        name,
        label,
        format_html_join(
            "",
            '<option value="{}"{}>{}</option>',
            ((value, SafeString(" selected" if value == chosen else ""), word) for value, word in options),
        ),
    )


def _balances_section(request: HttpRequest) -> SafeString:
    """What the platform owns, owes and earned: every account summed by kind."""
    sums = (
        LedgerAccount.objects.values("account_class", "kind", "normal", "currency")
        .annotate(signed=Sum("balances__posted"), accounts=Count("pk", distinct=True))
        .order_by("account_class", "currency", "kind")
    )
    shown = table(
        ["Class", "Kind", ">Accounts", ">Balance"],
        (
            (
                row["account_class"].capitalize(),
                Kind(row["kind"]).label,
                f"{row['accounts']:,}",
                money(row["signed"] if row["normal"] == "credit" else -row["signed"], row["currency"]),
            )
            for row in sums
        ),
        empty="The first posting opens the first account.",
    )
    return format_html(
        '{}<p class="c-buttons"><a class="c-button" href="{}">Trial balance</a></p>',
        shown,
        reverse("admin:ledger_trial_balance"),
    )


def _cash_section(request: HttpRequest) -> SafeString:
    """Cash in and out at the bank, per day and currency, by business time."""
    today = clock.now().date()
    first = today - timedelta(days=CASH_DAYS - 1)
    moved = services.moved_by_day(kind=Kind.CASH_BANK, first=first, last=today)
    by_day = {(row.debit.currency, row.day): (row.debit.minor, row.credit.minor) for row in moved}
    days = [first + timedelta(days=number) for number in range(CASH_DAYS)]
    charts = [
        (cash_flow([(day, *by_day.get((currency, day), (0, 0))) for day in days], currency),)
        for currency in dict.fromkeys(currency for currency, _ in by_day)
    ]
    return format_html_join("", "{}", charts) or nothing(f"No cash moved in these {CASH_DAYS} days.")


register_section(
    Section(
        key="ledger.balances",
        title="Balances by class",
        render=_balances_section,
        permission="ledger.view_ledgeraccount",
        order=10,
    )
)
register_section(
    Section(
        key="ledger.cash",
        title="Cash in and out, 14 days",
        render=_cash_section,
        permission="ledger.view_ledgerentry",
        order=20,
    )
)
