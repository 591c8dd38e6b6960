"""Settlements: from a paid invoice to legs, through seasoning, to money that is payable to its payees."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q, Sum

from commerce.actor import Actor
from commerce.console.services import open_review
from commerce.outbox import append
from commerce.states import transition
from ledger import services as ledger
from payouts.models import Settlement, SettlementLeg
from payouts.rules.splits import Share, check_shares, settlement_status

Leg = SettlementLeg.Status
_VERB = {
    "seasoning": "season",
    "released": "release",
    "completed": "complete",
    "held": "hold",
    "reversed": "reverse",
}


@transaction.atomic
def plan_settlement(*, invoice: dict[str, Any], actor: Actor, at: datetime) -> Settlement | None:
    """Split a paid invoice among its payees; `invoice` is the payload of `invoice.paid`.

    The collection has posted the money already. Tax and fee legs are final at once, the others season
    by a scheduled release. Once per invoice: a repetition returns the first settlement. An invoice of
    nothing has none.
    """
    shares = check_shares(
        invoice["total_minor"],
        [Share(leg["kind"], leg["payee_id"], leg["amount_minor"]) for leg in invoice["legs"]],
    )
    if not shares:
        return None
    settlement, created = Settlement.objects.get_or_create(
        invoice_id=invoice["invoice_id"],
        defaults={
            "invoice_number": invoice["number"],
            "contract_id": invoice["contract_id"],
            "contract_number": invoice["contract_number"],
            "buyer_id": invoice["buyer_id"],
            "currency": invoice["currency"],
            "total_minor": invoice["total_minor"],
            "transaction_id": invoice["transaction_id"],
            "paid_at": datetime.fromisoformat(invoice["paid_at"]),
            "seasoning_days": invoice["seasoning_days"],
        },
    )
    if not created:
        return settlement
    settlement = transition(settlement, "disburse", actor=actor, at=at)
    for share in shares:
        leg = SettlementLeg.objects.create(
            settlement=settlement,
            kind=share.kind,
            payee_id=share.payee_id,
            currency=settlement.currency,
            amount_minor=share.amount_minor,
        )
        _start(transition(leg, "fund", actor=actor, at=at), settlement, actor=actor, at=at)
    append("settlement", settlement.pk, "settlement.planned", settlement.event_payload(), at=at, actor=actor)
    follow_legs([settlement.pk], actor=actor, at=at)
    settlement.refresh_from_db()
    return settlement


def _start(leg: SettlementLeg, settlement: Settlement, *, actor: Actor, at: datetime) -> None:
    if not leg.is_for_payee:
        transition(leg, "keep", actor=actor, at=at, when=settlement.paid_at)
        return
    due_at = settlement.paid_at + timedelta(days=settlement.seasoning_days)
    release = ledger.schedule_release(
        owner=leg.payee_id,
        amount=leg.amount,
        due_at=due_at,
        source=leg.source,
        key=f"settlement-leg:{leg.pk}",
        at=at,
        actor=actor,
    )
    transition(leg, "season", actor=actor, at=at, release=release, releasable_at=due_at)


def release_legs(legs: Iterable[SettlementLeg], *, actor: Actor, at: datetime) -> None:
    """Mark legs whose money the ledger has released; those already past it are left alone."""
    waiting = SettlementLeg.objects.filter(
        pk__in=[leg.pk for leg in legs], status=Leg.SEASONING, release__status="released"
    )
    touched = set()
    for leg in waiting.select_for_update(of=("self",), no_key=True).order_by("pk"):
        leg = transition(leg, "mature", actor=actor, at=at)
        transition(leg, "release_to_payee", actor=actor, at=at, when=at)
        touched.add(leg.settlement_id)
    follow_legs(touched, actor=actor, at=at)


def unmarked_legs(payee_id: UUID, currency: str) -> list[SettlementLeg]:
    """A payee's legs whose money the ledger has released while their event is still on its way."""
    return list(
        SettlementLeg.objects.filter(
            payee_id=payee_id, currency=currency, status=Leg.SEASONING, release__status="released"
        )
    )


@transaction.atomic
def hold_leg(*, leg: SettlementLeg, actor: Actor, at: datetime, reason: str) -> SettlementLeg:
    """Keep a seasoning leg from being released until the hold is lifted."""
    leg = transition(leg, "hold", actor=actor, at=at, reason=reason)
    if leg.release and leg.release.status == "scheduled":
        ledger.hold_release(release=leg.release, actor=actor, at=at, reason=reason)
    follow_legs([leg.settlement_id], actor=actor, at=at)
    return leg


@transaction.atomic
def lift_leg(*, leg: SettlementLeg, actor: Actor, at: datetime, reason: str) -> SettlementLeg:
    """End a hold; the money is released at the instant it always had, or now if that has passed."""
    leg = transition(leg, "lift", actor=actor, at=at, reason=reason)
    if leg.release and leg.release.status != "scheduled":
        ledger.lift_release(release=leg.release, actor=actor, at=at, reason=reason)
    follow_legs([leg.settlement_id], actor=actor, at=at)
    return leg


@transaction.atomic
def follow_release(*, leg_id: UUID, actor: Actor, at: datetime) -> None:
    """Bring a leg in line with its release, which was held, lifted or cancelled in the ledger."""
    leg = SettlementLeg.objects.select_for_update(of=("self",), no_key=True).get(pk=leg_id)
    release = leg.release
    stopped = release is not None and release.status in ("held", "cancelled")
    if leg.status == Leg.SEASONING and stopped:
        transition(leg, "hold", actor=actor, at=at, reason="Its release was stopped in the ledger.")
    elif leg.status == Leg.HELD and not stopped:
        transition(leg, "lift", actor=actor, at=at, reason="Its release goes on in the ledger.")
    if release is not None and release.status == "cancelled":
        open_review(
            kind="release_cancelled",
            subject_type="payouts.settlement",
            subject_id=str(leg.settlement_id),
            title=f"The release of {leg.amount} to {leg.payee} was cancelled",
            detail="The money stays in Pay-In Holding until somebody moves it.",
            evidence=leg.event_payload(),
            value=leg.amount,
            at=at,
            actor=actor,
        )
    follow_legs([leg.settlement_id], actor=actor, at=at)


def settle_legs(leg_ids: Iterable[UUID], *, actor: Actor, at: datetime) -> None:
    """Legs wholly paid by payouts that are paid become paid out, those no longer so open again.

    Call it with the payee locked: two payouts may share a leg.
    """
    paid = Sum("items__amount_minor", filter=Q(items__payout__status="paid"), default=0)
    covered = dict(SettlementLeg.objects.filter(pk__in=leg_ids).annotate(paid=paid).values_list("pk", "paid"))
    legs = SettlementLeg.objects.filter(pk__in=covered).order_by("pk")
    touched = set()
    for leg in legs.select_for_update(of=("self",), no_key=True):
        whole = covered[leg.pk] == leg.amount_minor
        if whole and leg.status == Leg.RELEASED:
            transition(leg, "pay_out", actor=actor, at=at)
        elif not whole and leg.status == Leg.PAID_OUT:
            transition(leg, "reopen", actor=actor, at=at)
        touched.add(leg.settlement_id)
    follow_legs(touched, actor=actor, at=at)


def follow_legs(settlement_ids: Iterable[UUID], *, actor: Actor, at: datetime) -> None:
    """Move settlements to the state that their legs add up to."""
    rows = Settlement.objects.filter(pk__in=list(settlement_ids)).order_by("pk")
    for settlement in rows.select_for_update(of=("self",), no_key=True):
        target = settlement_status(settlement.legs.values_list("kind", "status"))
        if target != settlement.status:
            transition(settlement, _VERB[target], actor=actor, at=at)
