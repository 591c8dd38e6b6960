"""Accounting periods and seals in the console: closing with its consequences, reopening by two people."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from commerce import clock
from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import table
from commerce.console.format import badge, instant, link, money, number
from commerce.console.registry import register_panel
from ledger import services
from ledger.models import LedgerPeriod, LedgerPeriodBalance, LedgerSeal
from ledger.rules.kinds import Kind

ADJUSTMENTS_SHOWN = 50
BALANCES_SHOWN = 200
TONES = {"open": "busy", "closing": "warn", "closed": "good"}


def _close(*, obj: LedgerPeriod, **context: Any) -> str:
    period = services.begin_closing(month=obj.starts_on, **context)
    return f"{period} is being closed; the page says when its balances are proved and kept."


def _ask_to_reopen(*, obj: LedgerPeriod, **context: Any) -> str:
    services.request_reopening(period=obj, **context)
    return f"{obj} is opened again when a second person approves it."


def _closing_means(period: LedgerPeriod) -> str:
    seen = services.outlook(month=period.starts_on, at=clock.now())
    moved = [
        f"{total.accounts:,} accounts moved {total.debit} debit and {total.credit} credit."
        for total in seen.moved
    ]
    values = " and ".join(str(value) for value in seen.unreleased_value)
    return "\n".join(
        [
            f"From now on postings for {period} are recorded in the first open month, and say so.",
            *moved,
            f"Pending transactions: {seen.pending:,}. When they are posted, it is at their own instant.",
            f"Releases due in it and not released: {seen.unreleased:,}{f', {values}' if values else ''}.",
            f"Review items from before its end that nobody resolved: {seen.reviews:,}.",
        ]
    )


def _reopening_means(period: LedgerPeriod) -> str:
    return (
        f"Nothing happens until a second person approves it. Then postings for {period} are its own again; "
        f"the balances kept of {period.balances.count():,} accounts go, to be written when it is closed. "
        f"{services.adjustments(period).count():,} postings that adjust it stay where they are."
    )


@admin.register(LedgerPeriod)
class LedgerPeriodAdmin(ConsoleAdmin):
    """Months of business time. What is posted for a closed one goes to the first open one and says so."""

    icon = "calendar_month"
    list_display = ("month", "state", "first_day", "last_day")
    list_display_links = ("month",)
    list_filter = ("status",)
    search_fields = ("id__exact", "starts_on__exact")
    search_help_text = "The id, or the first day, as 2027-03-01."
    fields = ("month", "state", "first_day", "last_day", "accounts_kept", "adjusted_by")
    object_actions = (
        ObjectAction(
            "close",
            "Close",
            permission="ledger.close_ledgerperiod",
            run=_close,
            available=lambda obj: services.why_not_close(month=obj.starts_on, at=clock.now()),
            consequences=_closing_means,
        ),
        ObjectAction(
            "reopen",
            "Ask to reopen",
            permission="ledger.request_reopening",
            run=_ask_to_reopen,
            available=services.why_not_reopen,
            consequences=_reopening_means,
            danger=True,
        ),
    )

    @admin.display(description="Month")
    def month(self, obj: LedgerPeriod) -> str:
        return str(obj)

    @admin.display(description="State")
    def state(self, obj: LedgerPeriod) -> SafeString:
        return badge(obj.status, TONES[obj.status])

    @admin.display(description="From")
    def first_day(self, obj: LedgerPeriod) -> SafeString:
        return instant(obj.starts_at)

    @admin.display(description="Until, excluded")
    def last_day(self, obj: LedgerPeriod) -> SafeString:
        return instant(obj.ends_at)

    @admin.display(description="Accounts kept")
    def accounts_kept(self, obj: LedgerPeriod) -> str:
        return f"{obj.balances.count():,}"

    @admin.display(description="Adjusted later by")
    def adjusted_by(self, obj: LedgerPeriod) -> str:
        return f"{services.adjustments(obj).count():,} postings"


def _balances_panel(period: LedgerPeriod, request: HttpRequest) -> SafeString:
    """The period's own trial balance, account by account."""
    kept = LedgerPeriodBalance.objects.filter(period=period).select_related("account__owner")
    rows = list(kept.order_by("account")[: BALANCES_SHOWN + 1])
    shown = table(
        ["Account", "Owner", ">Opening", ">Debit", ">Credit", ">Closing"],
        (
            (
                link(row.account, Kind(row.account.kind).label),
                link(row.account.owner),
                money(row.account.on_normal_side(row.opening), row.account.currency),
                money(row.debit, row.account.currency),
                money(row.credit, row.account.currency),
                money(row.account.on_normal_side(row.closing), row.account.currency),
            )
            for row in rows[:BALANCES_SHOWN]
        ),
        empty="What each account opened, moved and closed with is kept here when the month is closed.",
    )
    if len(rows) <= BALANCES_SHOWN:
        return shown
    return format_html(
        '{}<p class="c-help">The first {} accounts; the trial balance of the last day has all of them.</p>',
        shown,
        BALANCES_SHOWN,
    )


def _adjustments_panel(period: LedgerPeriod, request: HttpRequest) -> SafeString:
    return table(
        ["Transaction", "Meant for", "Posted at", "By"],
        (
            (link(row), instant(row.meant_at), instant(row.effective_at), row.actor)
            for row in services.adjustments(period)[:ADJUSTMENTS_SHOWN]
        ),
        empty="No posting was meant for this month after it was closed.",
    )


@admin.register(LedgerSeal)
class LedgerSealAdmin(ConsoleAdmin):
    """Blocks of the chain that shows tampering: each covers its transactions and the seal before it."""

    icon = "verified_user"
    list_display = ("name", "covers_until", "counted", "counted_entries", "sealed")
    list_display_links = ("name",)
    ordering = ("-number",)
    search_fields = ("number__exact",)
    search_help_text = "The seal's number."
    fields = ("name", "covers_until", "counted", "counted_entries", "sealed", "own_hash", "previous_hash")

    def get_queryset(self, request: HttpRequest) -> QuerySet[LedgerSeal]:
        return super().get_queryset(request).defer("members")

    @admin.display(description="Seal")
    def name(self, obj: LedgerSeal) -> str:
        return str(obj)

    @admin.display(description="Covers what was recorded until")
    def covers_until(self, obj: LedgerSeal) -> SafeString:
        return instant(obj.until)

    @admin.display(description="Transactions")
    def counted(self, obj: LedgerSeal) -> SafeString:
        return number(obj.transactions)

    @admin.display(description="Entries")
    def counted_entries(self, obj: LedgerSeal) -> SafeString:
        return number(obj.entries)

    @admin.display(description="Sealed")
    def sealed(self, obj: LedgerSeal) -> SafeString:
        return instant(obj.sealed_at)

    @admin.display(description="Hash")
    def own_hash(self, obj: LedgerSeal) -> SafeString:
        return format_html('<span class="c-mono">{}</span>', bytes(obj.hash).hex())

    @admin.display(description="Hash before it")
    def previous_hash(self, obj: LedgerSeal) -> SafeString | str:
        previous = bytes(obj.previous).hex()
        return format_html('<span class="c-mono">{}</span>', previous) if previous else "it is the first"


register_panel("ledger.ledgerperiod", title="Balances", render=_balances_panel, order=10)
register_panel("ledger.ledgerperiod", title="Adjustments", render=_adjustments_panel, order=20)
