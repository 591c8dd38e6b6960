"""Accounts in the console: balances at two instants, T-account, statement, and why a balance changed."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import URLPattern, path
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from commerce.console.as_of import as_of_banner, as_of_form, asked_instants
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import facts, table
from commerce.console.export_links import export_link
from commerce.console.format import admin_url, instant, link, money
from commerce.console.registry import register_panel
from commerce.errors import CommerceError, InvalidInput
from commerce.money import Money
from commerce.parties.models import Organization
from ledger import services
from ledger.admin.parts import day_of, sides
from ledger.admin.reports import trial_balance_view
from ledger.models import LedgerAccount
from ledger.rules.kinds import Kind, Side

MICROSECOND = timedelta(microseconds=1)


@admin.register(LedgerAccount)
class LedgerAccountAdmin(ConsoleAdmin):
    """Each owner's money by kind and currency. Balances are counted on the account's normal side."""

    icon = "account_balance_wallet"
    exported = ("ledger.balances", "ledger.accounts")
    list_display = ("kind_link", "owner_link", "currency", "posted", "set_aside", "available")
    list_display_links = ("kind_link",)
    list_filter = ("account_class", "kind")
    list_select_related = ("owner",)
    search_fields = ("owner__slug__exact", "owner__slug__startswith", "owner__id__exact")
    search_help_text = "The owner's id, or how its slug begins."
    fields = (
        "owner_link", "kind_link", "account_class", "normal_side", "currency", "posted", "set_aside",
        "available", "floor", "entries_posted", "opened",
    )  # fmt: skip

    menu = (("Trial balance", "balance", "admin:ledger_trial_balance"),)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(trial_balance_view)
        return [path("trial-balance/", view, name="ledger_trial_balance"), *super().get_urls()]

    def get_fields(self, request: HttpRequest, obj: LedgerAccount | None = None) -> list[str]:
        of_now = {"posted", "set_aside", "available", "entries_posted"} if asked_instants(request) else ()
        return [name for name in self.fields if name not in of_now]

    def get_queryset(self, request: HttpRequest) -> QuerySet[LedgerAccount]:
        return services.with_balances(super().get_queryset(request))

    @admin.display(description="Account")
    def kind_link(self, obj: LedgerAccount) -> str:
        return Kind(obj.kind).label

    @admin.display(description="Owner")
    def owner_link(self, obj: LedgerAccount) -> SafeString:
        return link(obj.owner)

    @admin.display(description="Normal side")
    def normal_side(self, obj: LedgerAccount) -> str:
        return obj.get_normal_display()

    @admin.display(description="Posted")
    def posted(self, obj: LedgerAccount) -> SafeString:
        (found,) = services.account_balances([obj])
        return money(found.posted.minor, obj.currency)

    @admin.display(description="Set aside")
    def set_aside(self, obj: LedgerAccount) -> SafeString:
        (found,) = services.account_balances([obj])
        held = found.posted - found.available
        return money(held.minor, obj.currency)

    @admin.display(description="Available")
    def available(self, obj: LedgerAccount) -> SafeString:
        (found,) = services.account_balances([obj])
        return money(found.available.minor, obj.currency)

    @admin.display(description="Condition")
    def floor(self, obj: LedgerAccount) -> SafeString | str:
        (first, *_) = obj.balances.all()
        if first.floor is None:
            return "none: takes every posting"
        return format_html("never below {}", money(first.floor, obj.currency))

    @admin.display(description="Entries")
    def entries_posted(self, obj: LedgerAccount) -> str:
        return f"{sum(row.version for row in obj.balances.all()):,}"

    @admin.display(description="Opened")
    def opened(self, obj: LedgerAccount) -> SafeString:
        return instant(obj.opened_at)


def _page_of(account: LedgerAccount, request: HttpRequest) -> services.Statement:
    """The statement's page that the address asks for: a period, a place in it, two instants."""
    first, last = day_of(request, "from"), day_of(request, "to")
    asked = asked_instants(request)
    ends = [last + timedelta(days=1)] if last else []
    if "valid_at" in asked:
        ends.append(asked["valid_at"] + MICROSECOND)
    return services.statement(
        account=account,
        before=_place(request),
        since=first,
        until=min(ends, default=None),
        known_at=asked.get("known_at"),
    )


def _as_of_panel(account: LedgerAccount, request: HttpRequest) -> SafeString:
    asked = asked_instants(request)
    if not asked:
        return as_of_form(asked)
    (found,) = services.account_balances([account], at=asked.get("valid_at"), known_at=asked.get("known_at"))
    return format_html(
        "{}{}{}",
        as_of_banner("Balance and entries are", asked, admin_url(account)),
        as_of_form(asked),
        facts({"Balance": money(found.posted.minor, account.currency)}),
    )


def _t_panel(account: LedgerAccount, request: HttpRequest) -> SafeString:
    """Debits left, credits right, oldest first, between what the account held before and after them."""
    lines = list(reversed(_page_of(account, request).lines))
    if not lines:
        return SafeString("")
    opening, closing = lines[0].balance - lines[0].amount, lines[-1].balance
    halves = []
    for side in Side:
        own = [line for line in lines if (line.entry.amount > 0) is (side == Side.CREDIT)]
        moved = sum(abs(line.entry.amount) for line in own)
        rows: list[tuple[Any, ...]] = [
            (
                instant(line.entry.effective_at),
                link(line.entry.transaction, line.entry.transaction.recipe_name),
                money(abs(line.entry.amount), account.currency),
            )
            for line in own
        ]
        if side == account.normal:
            rows.insert(0, ("", "Opening", money(opening.minor, account.currency)))
            total = ("", "Closing", money(closing.minor, account.currency))
        else:
            total = ("", f"Sum of {len(own)}", money(moved, account.currency))
        halves.append(
            table(
                ["Effective", f"{side.value.capitalize()}s", ">Amount"],
                rows,
                empty=f"No {side.value}s here.",
                total=total,
            )
        )
    return format_html('<div class="c-t"><div>{}</div><div>{}</div></div>', *halves)


def _statement_panel(account: LedgerAccount, request: HttpRequest) -> SafeString:
    """Newest first; the balance of each line is that of the whole account, whatever period is chosen."""
    first, last = day_of(request, "from"), day_of(request, "to")
    page = _page_of(account, request)
    rows = (
        (
            instant(line.entry.effective_at),
            link(line.entry.transaction, line.entry.transaction.recipe_name),
            line.entry.transaction.description or line.entry.transaction.explanation,
            *sides(line.entry.amount, account.currency),
            money(line.balance.minor, account.currency),
        )
        for line in page.lines
    )
    chosen = {name: day.date().isoformat() for name, day in (("from", first), ("to", last)) if day}
    kept = {name: at.isoformat() for name, at in asked_instants(request).items()}
    older = urlencode({**chosen, **kept, "before": page.before})
    return format_html(
        "{}{}{}{}",
        _period(chosen, kept, page),
        table(
            ["Effective", "Transaction", "What it means", ">Debit", ">Credit", ">Balance"],
            rows,
            empty="No entries here. The first posting to this account begins its statement.",
        ),
        format_html('<p class="c-buttons"><a class="c-button" href="?{}">Older entries</a></p>', older)
        if page.before
        else "",
        ""
        if kept
        else export_link(request, "ledger.statement", account_id=account.pk, **_bounds(first, last)),
    )


def _bounds(first: datetime | None, last: datetime | None) -> dict[str, str]:
    """The days of the page as the instants of an export."""
    until = last + timedelta(days=1) if last else None
    return {
        name: f"{instant:%Y-%m-%dT%H:%M:%S}"
        for name, instant in (("since", first), ("until", until))
        if instant
    }


_PERIOD = """<form method="get" class="c-toolbar">{}
<label>From <input type="date" name="from" value="{}"></label>
<label>to <input type="date" name="to" value="{}"></label>
<button class="c-button">Show</button></form>{}"""


def _period(chosen: dict[str, str], kept: dict[str, str], page: services.Statement) -> SafeString:
    currency = page.account.currency
    return format_html(
        _PERIOD,
        format_html_join("", '<input type="hidden" name="{}" value="{}">', kept.items()),
        chosen.get("from", ""),
        chosen.get("to", ""),
        facts(
            {
                "Opening": money(page.opening.minor, currency),
                "Closing": money(page.closing.minor, currency),
                **({"Begins, older entries are archived": instant(page.begins)} if page.begins else {}),
            }
        ),
    )


def _place(request: HttpRequest) -> services.Place | None:
    try:
        return services.Place.parse(request.GET.get("before", ""))
    except InvalidInput:
        return None


def _pending_panel(account: LedgerAccount, request: HttpRequest) -> SafeString:
    if asked_instants(request):  # what was set aside at another instant is not kept
        return SafeString("")
    holds = account.holds.filter(transaction__resolutions__isnull=True).select_related("transaction")
    return table(
        ["Since", "Transaction", ">Debit", ">Credit"],
        (
            (
                instant(hold.transaction.effective_at),
                link(hold.transaction),
                *sides(hold.amount, account.currency),
            )
            for hold in holds.order_by("-id")[:50]
        ),
        empty="Nothing is set aside.",
    )


def _owner_panel(organization: Organization, request: HttpRequest) -> SafeString:
    return table(
        ["Account", ">Posted", ">Available"],
        (
            (
                link(found.account, Kind(found.account.kind).label),
                money(found.posted.minor, found.account.currency),
                money(found.available.minor, found.account.currency),
            )
            for found in services.balances(owner=organization.pk)
        ),
        empty="No account yet. The first posting for this organization opens it.",
    )


_SINCE = """<form method="get" class="c-toolbar">
<label>Since <input type="date" name="since" value="{}"></label>
<label>until the end of <input type="date" name="until" value="{}"></label>
<button class="c-button">Explain</button></form>"""


def _explain_panel(account: LedgerAccount, request: HttpRequest) -> SafeString:
    if asked_instants(request):
        return SafeString("")
    since, last = day_of(request, "since"), day_of(request, "until")
    form = format_html(
        _SINCE, since.date().isoformat() if since else "", last.date().isoformat() if last else ""
    )
    if since is None:
        hint = "Choose a day: what moved the balance since then is shown by cause, largest first."
        return format_html('{}<p class="c-nothing">{}</p>', form, hint)
    try:
        why = services.explain(account=account, since=since, until=last + timedelta(days=1) if last else None)
    except CommerceError as error:
        return format_html('{}<p class="c-notice c-bad" role="alert">{}</p>', form, error)
    return format_html("{}{}{}{}{}{}", form, _change(why), _looked_at(why), *_parts(why), _largest(why))


def _change(why: services.Explanation) -> SafeString:
    return facts(
        {"Opening": _money(why.opening), "Change": _money(why.change), "Closing": _money(why.closing)}
    )


def _looked_at(why: services.Explanation) -> SafeString:
    if why.looked_from is None:
        return SafeString("")
    return format_html(
        '<p class="c-notice">There are many entries in this time. The newest {} were looked at, from {} on; '
        "what moved before them is one line, and is not among the largest movements. "
        "Choose a shorter time to see all of it.</p>",
        f"{services.LOOKED_AT:,}",
        instant(why.looked_from),
    )


def _parts(why: services.Explanation) -> list[SafeString]:
    """The change by recipe and by what stood on the other side; each list sums to it."""
    earlier = [("Earlier, not looked at", "", _money(why.earlier))] if why.looked_from else []
    return [
        format_html(
            "<h3>{}</h3>{}",
            title,
            table(
                [column, ">Transactions", ">Change"],
                [*((part.label, f"{part.transactions:,}", _money(part.change)) for part in parts), *earlier],
                empty="Nothing moved this account in this time.",
                total=("Change", "", _money(why.change)) if parts else (),
            ),
        )
        for title, column, parts in (
            ("By recipe", "Recipe", why.by_recipe),
            ("By the accounts on the other side", "Kind", why.by_counter),
        )
    ]


def _largest(why: services.Explanation) -> SafeString:
    if not why.largest:
        return SafeString("")
    shown = table(
        ["Effective", "Transaction", "What it means", ">Change"],
        (
            (
                instant(movement.transaction.effective_at),
                link(movement.transaction, movement.transaction.recipe_name),
                movement.transaction.description or movement.transaction.explanation,
                _money(movement.change),
            )
            for movement in why.largest
        ),
    )
    return format_html("<h3>Largest movements</h3>{}", shown)


def _money(amount: Money) -> SafeString:
    return money(amount.minor, amount.currency)


register_panel("ledger.ledgeraccount", title="As of", render=_as_of_panel, order=5)
register_panel("ledger.ledgeraccount", title="T-account", render=_t_panel, order=8)
register_panel("ledger.ledgeraccount", title="Statement", render=_statement_panel, order=10)
register_panel("ledger.ledgeraccount", title="Explain this balance", render=_explain_panel, order=15)
register_panel("ledger.ledgeraccount", title="Set aside, pending", render=_pending_panel, order=20)
register_panel(
    "parties.organization",
    title="Ledger accounts",
    render=_owner_panel,
    order=20,
    permission="ledger.view_ledgeraccount",
)
