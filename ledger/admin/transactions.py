"""Transactions in the console: legs, cause, what took them back or settled them, and their seal."""

from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Prefetch, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import table
from commerce.console.format import NOTHING, badge, instant, link, money, subject, subject_link
from commerce.console.registry import Hit, register_panel, register_search
from ledger import services
from ledger.admin.parts import Leg, legs_of, sides, subject_of, sums_of
from ledger.admin.reversals import reversal_action
from ledger.models import LedgerEntry, LedgerHold, LedgerSeal, LedgerTransaction
from ledger.rules.kinds import Kind

POSTINGS_SHOWN = 50
CHAIN_SHOWN = 50


@admin.register(LedgerTransaction)
class LedgerTransactionAdmin(ConsoleAdmin):
    """What was posted, why and by whom. Nothing here ever changes; a correction is a reversal."""

    icon = "receipt"
    exported = ("ledger.transactions", "ledger.entries")
    list_display = ("shown_recipe", "meaning", "shown_status", "amount", "source_link", "effective")
    list_display_links = ("shown_recipe",)
    list_filter = ("status",)
    search_fields = ("id__exact", "key__exact", "source__exact")
    search_help_text = "Id, key or source."
    fields = (
        "shown_recipe", "shown_status", "amount", "cause", "effective", "recorded", "adjusts", "sealed_by",
        "actor", "description", "explanation", "key",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[LedgerTransaction]:
        return with_legs(super().get_queryset(request))

    def get_object_actions(self, request: HttpRequest, obj: LedgerTransaction) -> tuple[ObjectAction, ...]:
        return (reversal_action(obj),)

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
        sums = sums_of(legs_of(obj))
        amounts = ((money(debit, currency),) for currency, (debit, _) in sums.items())
        return format_html_join(" ", "{}", amounts) or NOTHING

    @admin.display(description="Cause")
    def source_link(self, obj: LedgerTransaction) -> SafeString:
        return subject_link(*subject_of(obj.source))

    @admin.display(description="Cause")
    def cause(self, obj: LedgerTransaction) -> SafeString:
        return subject(*subject_of(obj.source))

    @admin.display(description="Effective")
    def effective(self, obj: LedgerTransaction) -> SafeString:
        return instant(obj.effective_at)

    @admin.display(description="Recorded")
    def recorded(self, obj: LedgerTransaction) -> SafeString:
        return instant(obj.recorded_at)

    @admin.display(description="Adjusts")
    def adjusts(self, obj: LedgerTransaction) -> SafeString:
        if obj.adjusts_period is None:
            return NOTHING
        return format_html("{}, meant for {}", link(obj.adjusts_period), instant(obj.meant_at))

    @admin.display(description="Sealed by")
    def sealed_by(self, obj: LedgerTransaction) -> SafeString | str:
        seals = LedgerSeal.objects.defer("members").filter(until__gte=obj.recorded_at)
        seal = seals.order_by("until").first()
        return link(seal) if seal else "no seal yet"


def with_legs(transactions: QuerySet[LedgerTransaction]) -> QuerySet[LedgerTransaction]:
    """The same transactions, read together with their legs and the owners of these."""
    return transactions.prefetch_related(
        *(
            Prefetch(name, model.objects.select_related("account__owner").order_by("account", "pk"))
            for name, model in (("entries", LedgerEntry), ("holds", LedgerHold))
        )
    )


def _chain_of(transaction: LedgerTransaction) -> tuple[list[LedgerTransaction], bool]:
    """What it began with, all that settles, discards or reverses from there; whether there is more of it."""
    way = [transaction]
    while (before := way[0].resolves or way[0].reverses) is not None:
        way.insert(0, before)
    found = {row.pk: row for row in way}
    latest = {way[0].pk}
    while latest:
        room = max(CHAIN_SHOWN - len(found), 0)
        following = LedgerTransaction.objects.filter(Q(reverses__in=latest) | Q(resolves__in=latest))
        rows = list(with_legs(following).exclude(pk__in=found).order_by("id")[: room + 1])
        found |= {row.pk: row for row in rows[:room]}
        if len(rows) > room:
            return list(found.values()), True
        latest = {row.pk for row in found.values() if (row.reverses_id or row.resolves_id) in latest}
    return list(found.values()), False


def _relation(row: LedgerTransaction) -> str:
    if row.reverses_id:
        return "reverses"
    if row.resolves_id:
        return "settles" if row.status == LedgerTransaction.Status.POSTED else "discards"
    return ""


def _chain_panel(transaction: LedgerTransaction, request: HttpRequest) -> SafeString:
    """From the first transaction down; what is indented settles, discards or reverses what is above it."""
    chain, more = _chain_of(transaction)
    if len(chain) == 1:
        return SafeString("")
    children: dict[Any, list[LedgerTransaction]] = {}
    for row in chain[1:]:
        children.setdefault(row.reverses_id or row.resolves_id, []).append(row)
    left = services.sums_left(row for row in chain if row.status == LedgerTransaction.Status.POSTED)

    def rows(row: LedgerTransaction, depth: int) -> Iterator[tuple[Any, ...]]:
        amounts = ((money(debit, c),) for c, (debit, _) in sums_of(legs_of(row)).items())
        name = format_html("<strong>{}</strong>", row) if row.pk == transaction.pk else link(row)
        yield (
            format_html(
                '<span class="c-level-{}"><span class="c-none">{}</span> {}</span>',
                min(depth, 4),
                _relation(row),
                name,
            ),
            badge(row.status),
            format_html_join(" ", "{}", amounts) or NOTHING,
            format_html_join(" ", "{}", ((money(m.minor, m.currency),) for m in left.get(row.pk, ()))),
            instant(row.effective_at),
        )
        for child in sorted(children.get(row.pk, ()), key=lambda child: child.pk):
            yield from rows(child, depth + 1)

    shown = table(["Transaction", "Status", ">Amount", ">Left to reverse", "Effective"], rows(chain[0], 0))
    if not more:
        return shown
    return format_html(
        '{}<p class="c-help">The chain is longer: {} of its transactions are shown. '
        "What is left to reverse counts all.</p>",
        shown,
        len(chain),
    )


def _legs_panel(transaction: LedgerTransaction, request: HttpRequest) -> SafeString:
    legs = legs_of(transaction)
    rows = [
        (
            link(leg.account, Kind(leg.account.kind).label),
            link(leg.account.owner),
            *sides(leg.amount, leg.account.currency),
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
        for currency, (debit, credit) in sums_of(legs).items()
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
                    " ", "{}", ((money(d, c),) for c, (d, _) in sums_of(row.entries.all()).items())
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


register_panel("ledger.ledgertransaction", title="Entries", render=_legs_panel, order=10)
register_panel("ledger.ledgertransaction", title="Chain", render=_chain_panel, order=20)
register_search(_search, permission="ledger.view_ledgertransaction")
