"""What payouts show elsewhere in the console: cards on the home page, panels, a timeline, search."""

from collections.abc import Callable, Iterator

from django.db import models
from django.db.models import Count, Min, Q, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from commerce import clock
from commerce.console.base import state_changes
from commerce.console.format import admin_url
from commerce.console.panels import approvals_of, provider_messages
from commerce.console.registry import (
    Card,
    CardValue,
    Hit,
    TimelineRow,
    register_card,
    register_panel,
    register_search,
    register_timeline,
)
from commerce.models import TransitionLog
from ledger.admin import postings
from ledger.models import LedgerTransaction
from payouts import services
from payouts.admin.stepper import render_items, render_legs, render_payouts, render_settlements
from payouts.models import Payout, Settlement, SettlementLeg


def _card(
    queryset: Callable[[], models.QuerySet], oldest: str, minor: str
) -> Callable[[HttpRequest], CardValue]:
    def load(request: HttpRequest) -> CardValue:
        rows = queryset().order_by().values("currency")
        found = list(rows.annotate(count=Count("pk"), oldest=Min(oldest), value=Sum(minor)))
        return CardValue(
            count=sum(row["count"] for row in found),
            oldest=min((row["oldest"] for row in found), default=None),
            value={row["currency"]: row["value"] for row in found},
        )

    return load


def _list(model: str, query: str) -> Callable[[], str]:
    return lambda: f"{reverse(f'admin:payouts_{model}_changelist')}?{query}"


def _stuck() -> models.QuerySet:
    """Held, or with a leg whose seasoning is over and which has not been released."""
    late = SettlementLeg.objects.filter(status="seasoning", releasable_at__lt=clock.now())
    return Settlement.objects.filter(
        Q(status="held") | Q(status="seasoning", pk__in=late.values("settlement"))
    )


register_card(
    Card(
        "payouts.approval",
        "Payouts to approve",
        _list("payout", "status__exact=needs_approval"),
        _card(lambda: Payout.objects.filter(status="needs_approval"), "requested_at", "amount_minor"),
        empty="No payout waits for a second person.",
        permission="payouts.view_payout",
        order=10,
    )
)
register_card(
    Card(
        "payouts.unknown",
        "Payouts without an answer",
        _list("payout", "answer=missing"),
        _card(services.unanswered_payouts, "requested_at", "amount_minor"),
        empty="The bank has answered for every payout.",
        permission="payouts.view_payout",
        order=20,
    )
)
register_card(
    Card(
        "payouts.failed",
        "Failed and returned payouts",
        _list("payout", "status__in=failed,returned"),
        _card(services.unresolved_payouts, "requested_at", "amount_minor"),
        empty="Every payout that came back has been paid since.",
        permission="payouts.view_payout",
        order=21,
    )
)
register_card(
    Card(
        "payouts.settlements",
        "Stuck settlements",
        _list("settlement", "status__exact=held"),
        _card(_stuck, "paid_at", "total_minor"),
        empty="No settlement is held or late.",
        permission="payouts.view_settlement",
        order=22,
    )
)

register_panel("payouts.settlement", title="Legs", render=render_legs)
register_panel("payouts.settlementleg", title="Payouts", render=render_payouts)
register_panel("payouts.payout", title="What it pays", render=render_items)
register_panel(
    "payouts.payout",
    title="Requests to give it up",
    render=lambda payout, request: approvals_of("payouts.payout", payout.pk),
    order=1,
    permission="console.view_approval",
)
register_panel(
    "payouts.payout",
    title="Ledger",
    render=lambda payout, request: postings([f"payout:{payout.pk}"]),
    order=20,
    permission="ledger.view_ledgertransaction",
)
register_panel(
    "payouts.payout",
    title="Messages from the bank",
    render=lambda payout, request: provider_messages("modern_treasury", payout.provider_id),
    order=30,
    permission="providers.view_providerevent",
)
register_panel(
    "contracts.contract",
    title="Settlements",
    render=lambda contract, request: render_settlements(
        contract_id=contract.pk, empty="A settlement appears here when an invoice of this contract is paid."
    ),
    order=30,
    permission="payouts.view_settlement",
)
register_panel(
    "billing.invoice",
    title="Settlement",
    render=lambda invoice, request: render_settlements(
        invoice_id=invoice.pk, empty="The money is divided when the invoice is paid."
    ),
    order=30,
    permission="payouts.view_settlement",
)


def _settlement_of(transaction: LedgerTransaction, request: HttpRequest) -> SafeString:
    """Where a collection's money goes on to; other transactions have no such block."""
    kind, _, invoice = transaction.source.partition(":")
    if kind != "invoice":
        return SafeString()
    return render_settlements(invoice_id=invoice, empty="The settlement is planned in a moment.")


register_panel(
    "ledger.ledgertransaction",
    title="Settlement",
    render=_settlement_of,
    order=30,
    permission="payouts.view_settlement",
)


def _journey(settlement: Settlement) -> Iterator[TimelineRow]:
    """What its legs and their payouts went through."""
    legs = {str(leg.pk): f"{leg.kind} leg" for leg in settlement.legs.all()}
    payouts = Payout.objects.filter(items__leg__settlement=settlement).values_list("pk", flat=True)
    subjects = legs | {str(pk): "payout" for pk in payouts}
    rows = TransitionLog.objects.filter(
        model__in=["payouts.settlementleg", "payouts.payout"], object_id__in=list(subjects)
    )
    for row in rows.order_by("-id")[:100]:
        title = f"{row.source} → {row.target}".replace("_", " ")
        yield TimelineRow(row.at, subjects[row.object_id], title, row.reason, row.actor)


register_timeline("payouts.settlement", state_changes)
register_timeline("payouts.settlement", _journey)


def _search_payouts(term: str) -> Iterator[Hit]:
    for payout in Payout.objects.filter(Q(external_id=term) | Q(provider_id=term)).select_related("payee")[
        :5
    ]:
        yield Hit(str(payout), admin_url(payout), "payout")


def _search_settlements(term: str) -> Iterator[Hit]:
    for settlement in Settlement.objects.filter(Q(invoice_number=term) | Q(contract_number=term))[:10]:
        yield Hit(str(settlement), admin_url(settlement), "settlement")


register_search(_search_payouts, permission="payouts.view_payout")
register_search(_search_settlements, permission="payouts.view_settlement")
