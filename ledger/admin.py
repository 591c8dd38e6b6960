"""The ledger in the console: accounts with their statements, transactions with their legs, releases.

Everything is read-only; releases can be held, lifted and cancelled through their services.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, time, timedelta
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin
from django.db.models import Count, Min, Prefetch, Q, QuerySet, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils.dateparse import parse_date
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from commerce import clock, states
from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import cash_flow, facts, nothing, table
from commerce.console.export_links import export_link
from commerce.console.format import (
    NOTHING,
    aggregate_label,
    badge,
    instant,
    link,
    money,
    shortened,
    subject,
    subject_link,
)
from commerce.console.registry import (
    Card,
    CardValue,
    Hit,
    Section,
    register_card,
    register_panel,
    register_search,
    register_section,
)
from commerce.errors import InvalidInput
from commerce.parties.models import Organization
from ledger import services
from ledger.models import LedgerAccount, LedgerEntry, LedgerHold, LedgerRelease, LedgerTransaction
from ledger.rules.kinds import Kind

CASH_DAYS = 14
POSTINGS_SHOWN = 50
Leg = LedgerEntry | LedgerHold


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
        "owner_link", "kind_link", "account_class", "normal", "currency", "posted", "set_aside", "available",
        "floor", "entries_posted", "opened",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[LedgerAccount]:
        return services.with_balances(super().get_queryset(request))

    @admin.display(description="Account")
    def kind_link(self, obj: LedgerAccount) -> str:
        return Kind(obj.kind).label

    @admin.display(description="Owner")
    def owner_link(self, obj: LedgerAccount) -> SafeString:
        return link(obj.owner)

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


@admin.register(LedgerTransaction)
class LedgerTransactionAdmin(ConsoleAdmin):
    """What was posted, why and by whom. Nothing here ever changes; a correction is a reversal."""

    icon = "receipt"
    exported = ("ledger.transactions", "ledger.entries")
    list_display = ("shown_recipe", "meaning", "shown_status", "amount", "source_link", "effective")
    list_display_links = ("shown_recipe",)
    list_filter = ("status",)
    search_fields = ("id__exact", "key__exact", "key__startswith", "source__exact")
    search_help_text = "Id, key or how it begins, or source."
    fields = (
        "shown_recipe", "shown_status", "amount", "cause", "effective", "recorded", "actor", "chain",
        "description", "explanation", "key",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[LedgerTransaction]:
        legs = [
            Prefetch(name, model.objects.select_related("account__owner").order_by("account", "pk"))
            for name, model in (("entries", LedgerEntry), ("holds", LedgerHold))
        ]
        return super().get_queryset(request).prefetch_related(*legs)

    @admin.display(description="Recipe")
    def shown_recipe(self, obj: LedgerTransaction) -> str:
        return obj.recipe_name

    @admin.display(description="What it means")
    def meaning(self, obj: LedgerTransaction) -> str:
        return obj.description or obj.explanation

    @admin.display(description="In general")
    def explanation(self, obj: LedgerTransaction) -> str:
        return obj.explanation

    @admin.display(description="Status")
    def shown_status(self, obj: LedgerTransaction) -> SafeString:
        return badge(obj.status)

    @admin.display(description="Amount")
    def amount(self, obj: LedgerTransaction) -> SafeString:
        sums = _sums(_legs(obj))
        amounts = ((money(debit, currency),) for currency, (debit, _) in sums.items())
        return format_html_join(" ", "{}", amounts) or NOTHING

    @admin.display(description="Cause")
    def source_link(self, obj: LedgerTransaction) -> SafeString:
        return subject_link(*_subject_of(obj.source))

    @admin.display(description="Cause")
    def cause(self, obj: LedgerTransaction) -> SafeString:
        return subject(*_subject_of(obj.source))

    @admin.display(description="Effective")
    def effective(self, obj: LedgerTransaction) -> SafeString:
        return instant(obj.effective_at)

    @admin.display(description="Recorded")
    def recorded(self, obj: LedgerTransaction) -> SafeString:
        return instant(obj.recorded_at)

    @admin.display(description="Chain")
    def chain(self, obj: LedgerTransaction) -> SafeString:
        related = LedgerTransaction.objects.filter(
            Q(reverses=obj) | Q(resolves=obj) | Q(pk__in=[obj.reverses_id, obj.resolves_id])
        )
        words = ((_relation(obj, other), link(other)) for other in related)
        return format_html_join(" · ", "{} {}", words) or NOTHING


def _subject_of(source: str) -> tuple[str, str]:
    """ "contract:<id>:v3" as what a link is made from: the model's label and the id."""
    kind, pk, *_ = [*source.split(":"), ""]
    return aggregate_label(kind), pk


def _relation(one: LedgerTransaction, other: LedgerTransaction) -> str:
    if other.pk == one.reverses_id:
        return "reverses"
    if other.pk == one.resolves_id:
        return "resolves"
    if other.reverses_id == one.pk:
        return "reversed by"
    return "settled by" if other.status == LedgerTransaction.Status.POSTED else "discarded by"


@admin.register(LedgerRelease)
class LedgerReleaseAdmin(ConsoleAdmin):
    """Payees' money on its way from Pay-in Holding to Payable."""

    icon = "hourglass_bottom"
    list_display = ("release_name", "owner_link", "shown_amount", "shown_status", "due", "source_link")
    list_filter = ("status",)
    list_select_related = ("owner",)
    search_fields = ("id__exact", "key__exact", "source__exact")
    search_help_text = "Id, key or source."
    fields = ("owner_link", "shown_amount", "shown_status", "due", "scheduled", "posting", "cause", "key")
    object_actions = (
        ObjectAction(
            "hold",
            "Hold",
            permission="ledger.hold_ledgerrelease",
            run=lambda *, obj, **context: services.hold_release(release=obj, **context) and None,
            available=lambda obj: states.available(obj, "hold"),
            consequences=lambda obj: f"{obj} stays in Pay-in Holding until the hold is lifted.",
        ),
        ObjectAction(
            "lift",
            "Lift hold",
            permission="ledger.hold_ledgerrelease",
            run=lambda *, obj, **context: services.lift_release(release=obj, **context) and None,
            available=lambda obj: states.available(obj, "lift"),
            consequences=lambda obj: f"{obj} is released {_when(obj)}, and may then be paid out.",
        ),
        ObjectAction(
            "cancel",
            "Cancel",
            permission="ledger.cancel_ledgerrelease",
            run=lambda *, obj, **context: services.cancel_release(release=obj, **context) and None,
            available=lambda obj: states.available(obj, "cancel"),
            consequences=lambda obj: f"{obj} is never released. The money stays in Pay-in Holding for good.",
            danger=True,
        ),
    )

    @admin.display(description="Release")
    def release_name(self, obj: LedgerRelease) -> str:
        return shortened(str(obj.pk))

    @admin.display(description="Cause")
    def source_link(self, obj: LedgerRelease) -> SafeString:
        return subject_link(*_subject_of(obj.source))

    @admin.display(description="Cause")
    def cause(self, obj: LedgerRelease) -> SafeString:
        return subject(*_subject_of(obj.source))

    @admin.display(description="Payee")
    def owner_link(self, obj: LedgerRelease) -> SafeString:
        return link(obj.owner)

    @admin.display(description="Amount")
    def shown_amount(self, obj: LedgerRelease) -> SafeString:
        return money(obj.amount_minor, obj.currency)

    @admin.display(description="Status")
    def shown_status(self, obj: LedgerRelease) -> SafeString:
        return badge(obj.status, "busy" if obj.status == LedgerRelease.Status.SCHEDULED else "")

    @admin.display(description="Due")
    def due(self, obj: LedgerRelease) -> SafeString:
        return instant(obj.due_at)

    @admin.display(description="Scheduled")
    def scheduled(self, obj: LedgerRelease) -> SafeString:
        return instant(obj.scheduled_at)

    @admin.display(description="Posted by")
    def posting(self, obj: LedgerRelease) -> SafeString:
        return link(obj.transaction)


def _when(release: LedgerRelease) -> str:
    if release.due_at <= clock.now():
        return "at once"
    return f"on {release.due_at.day} {release.due_at:%B %Y}"


def _legs(transaction: LedgerTransaction) -> list[Leg]:
    pending = transaction.status == LedgerTransaction.Status.PENDING
    return [*transaction.holds.all()] if pending else [*transaction.entries.all()]


def _sums(legs: Iterable[Leg]) -> dict[str, tuple[int, int]]:
    """Debits and credits per currency."""
    sums: dict[str, tuple[int, int]] = {}
    for leg in legs:
        debit, credit = sums.get(leg.account.currency, (0, 0))
        sums[leg.account.currency] = (debit - min(leg.amount, 0), credit + max(leg.amount, 0))
    return sums


def _sides(signed: int, currency: str) -> tuple[SafeString | str, SafeString | str]:
    """A credit-positive amount in its column: debit or credit."""
    return (money(-signed, currency), "") if signed < 0 else ("", money(signed, currency))


def _legs_panel(transaction: LedgerTransaction, request: HttpRequest) -> SafeString:
    legs = _legs(transaction)
    rows = [
        (
            link(leg.account, Kind(leg.account.kind).label),
            link(leg.account.owner),
            *_sides(leg.amount, leg.account.currency),
            _balance_after(leg),
        )
        for leg in legs
    ]
    totals = [
        (
            format_html("<strong>Sum in {}</strong>", currency),
            "balances" if debit == credit else badge("does not balance", "bad"),
            money(debit, currency),
            money(credit, currency),
            "",
        )
        for currency, (debit, credit) in _sums(legs).items()
    ]
    return table(
        ["Account", "Owner", ">Debit", ">Credit", ">Balance after"],
        [*rows, *totals],
        empty="It moved nothing: what was set aside was given back.",
    )


def _balance_after(leg: Leg) -> SafeString | str:
    if isinstance(leg, LedgerHold):
        return "not yet"
    if leg.account.stripes > 1:  # what is kept is one stripe's
        return NOTHING
    return money(leg.account.on_normal_side(leg.balance_after), leg.account.currency)


def _statement_panel(account: LedgerAccount, request: HttpRequest) -> SafeString:
    """Newest first; the balance of each line is that of the whole account, whatever period is chosen."""
    first, last = _day(request, "from"), _day(request, "to")
    page = services.statement(
        account=account, before=_place(request), since=first, until=last + timedelta(days=1) if last else None
    )
    rows = (
        (
            instant(line.entry.effective_at),
            link(line.entry.transaction, line.entry.transaction.recipe_name),
            line.entry.transaction.description or line.entry.transaction.explanation,
            *_sides(line.entry.amount, account.currency),
            money(line.balance.minor, account.currency),
        )
        for line in page.lines
    )
    chosen = {name: day.date().isoformat() for name, day in (("from", first), ("to", last)) if day}
    older = urlencode({**chosen, "before": page.before})
    return format_html(
        "{}{}{}{}",
        _period(chosen, page),
        table(
            ["Effective", "Transaction", "What it means", ">Debit", ">Credit", ">Balance"],
            rows,
            empty="No entries here. The first posting to this account begins its statement.",
        ),
        format_html('<p class="c-buttons"><a class="c-button" href="?{}">Older entries</a></p>', older)
        if page.before
        else "",
        export_link(request, "ledger.statement", account_id=account.pk, **_bounds(first, last)),
    )


def _bounds(first: datetime | None, last: datetime | None) -> dict[str, str]:
    """The days of the page as the instants of an export."""
    until = last + timedelta(days=1) if last else None
    return {
        name: f"{instant:%Y-%m-%dT%H:%M:%S}"
        for name, instant in (("since", first), ("until", until))
        if instant
    }


_PERIOD = """<form method="get" class="c-toolbar">
<label>From <input type="date" name="from" value="{}"></label>
<label>to <input type="date" name="to" value="{}"></label>
<button class="c-button">Show</button></form>{}"""


def _period(chosen: dict[str, str], page: services.Statement) -> SafeString:
    currency = page.account.currency
    return format_html(
        _PERIOD,
        chosen.get("from", ""),
        chosen.get("to", ""),
        facts(
            {"Opening": money(page.opening.minor, currency), "Closing": money(page.closing.minor, currency)}
        ),
    )


def _place(request: HttpRequest) -> services.Place | None:
    try:
        return services.Place.parse(request.GET.get("before", ""))
    except InvalidInput:
        return None


def _day(request: HttpRequest, name: str) -> datetime | None:
    """Midnight UTC of the day in the query; None when there is none or it is no day."""
    try:
        day = parse_date(request.GET.get(name, ""))
    except ValueError:
        return None
    return datetime.combine(day, time.min, UTC) if day else None


def _pending_panel(account: LedgerAccount, request: HttpRequest) -> SafeString:
    holds = account.holds.filter(transaction__resolutions__isnull=True).select_related("transaction")
    return table(
        ["Since", "Transaction", ">Debit", ">Credit"],
        (
            (
                instant(hold.transaction.effective_at),
                link(hold.transaction),
                *_sides(hold.amount, account.currency),
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


def postings(sources: Iterable[str]) -> SafeString:
    """What some causes did to the ledger; applications show it on their own pages."""
    found = LedgerTransaction.objects.filter(source__in=list(sources)).order_by("-id")[:POSTINGS_SHOWN]
    legs = Prefetch("entries", LedgerEntry.objects.select_related("account"))
    return table(
        ["Transaction", "Description", "Status", ">Amount", "Effective"],
        (
            (
                link(row, row.recipe_name),
                row.description or row.explanation,
                badge(row.status),
                format_html_join(
                    " ", "{}", ((money(d, c),) for c, (d, _) in _sums(row.entries.all()).items())
                ),
                instant(row.effective_at),
            )
            for row in found.prefetch_related(legs)
        ),
        empty="It has not moved money yet.",
    )


def _search(term: str) -> Iterator[Hit]:
    try:
        exact = Q(pk=UUID(term))
    except ValueError:
        exact = Q(key=term) | Q(source=term)
    for row in LedgerTransaction.objects.filter(exact)[:10]:
        yield Hit(str(row), reverse("admin:ledger_ledgertransaction_change", args=[row.pk]), "transaction")


def _held(request: HttpRequest) -> CardValue:
    rows = list(
        LedgerRelease.objects.filter(status=LedgerRelease.Status.HELD)
        .values("currency")
        .annotate(count=Count("pk"), oldest=Min("due_at"), minor=Sum("amount_minor"))
        .order_by("currency")
    )
    now = clock.now()
    return CardValue(
        count=sum(row["count"] for row in rows),
        oldest=min((row["oldest"] for row in rows if row["oldest"] <= now), default=None),
        value={row["currency"]: row["minor"] for row in rows},
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
    return format_html("{}{}", shown, export_link(request, "ledger.balances"))


def _cash_section(request: HttpRequest) -> SafeString:
    """Cash in and out at the bank, per day and currency, by business time."""
    today = clock.now().date()
    first = today - timedelta(days=CASH_DAYS - 1)
    moved = (
        LedgerEntry.objects.filter(
            account__kind=Kind.CASH_BANK, effective_at__gte=datetime.combine(first, time.min, UTC)
        )
        .values("account__currency", "effective_at__date")
        .annotate(out=Sum("amount", filter=Q(amount__gt=0)), into=Sum("amount", filter=Q(amount__lt=0)))
        .order_by("account__currency")
    )
    by_day = {
        (row["account__currency"], row["effective_at__date"]): (-(row["into"] or 0), row["out"] or 0)
        for row in moved
    }
    days = [first + timedelta(days=number) for number in range(CASH_DAYS)]
    charts = [
        (cash_flow([(day, *by_day.get((currency, day), (0, 0))) for day in days], currency),)
        for currency in dict.fromkeys(currency for currency, _ in by_day)
    ]
    return format_html_join("", "{}", charts) or nothing(f"No cash moved in these {CASH_DAYS} days.")


register_panel("ledger.ledgeraccount", title="Statement", render=_statement_panel, order=10)
register_panel("ledger.ledgeraccount", title="Set aside, pending", render=_pending_panel, order=20)
register_panel("ledger.ledgertransaction", title="Entries", render=_legs_panel, order=10)
register_panel(
    "parties.organization",
    title="Ledger accounts",
    render=_owner_panel,
    order=20,
    permission="ledger.view_ledgeraccount",
)
register_search(_search, permission="ledger.view_ledgertransaction")
register_card(
    Card(
        key="ledger.held",
        title="Releases on hold",
        url=lambda: reverse("admin:ledger_ledgerrelease_changelist") + "?status__exact=held",
        load=_held,
        empty="No payee waits for a decision.",
        permission="ledger.view_ledgerrelease",
        order=40,
    )
)
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
