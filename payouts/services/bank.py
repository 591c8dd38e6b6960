"""Payouts at Modern Treasury: one payment order each, whatever is lost on the way.

The attempt and its key are committed before the call; after a doubt the order is looked up by our
reference before it is sent again with the same key. A webhook and the poller do the same thing:
read the order and take the steps that are missing.
"""

import logging
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from commerce.actor import Actor
from commerce.console.services import open_review
from commerce.crash import crash_point
from commerce.errors import ProviderError, Rejected, Unknown
from commerce.outbox import append
from commerce.outbox.breaker import while_open
from commerce.providers import modern_treasury
from commerce.providers.modern_treasury import PaymentOrder, Return
from commerce.states import transition
from payouts.models import AT_THE_BANK, PayeePolicy, Payout, Settlement
from payouts.rules.policy import WATCHED_AFTER_GIVEN_UP, WATCHED_AFTER_PAID, poll_delay
from payouts.rules.progress import Meaning, meaning, steps
from payouts.services.payees import lock_payee
from payouts.services.payouts import (
    GIVEN_UP,
    accept_payout,
    confirm_payout,
    fail_payout,
    return_payout,
    review_contradiction,
)

log = logging.getLogger(__name__)

# Looks in a row that nobody answered.
PATIENCE = 5
_REFUSED = (400, 404, 422)
_DEAD_RETURN = ("failed", "cancelled")


def submit_payout(*, payout_id: UUID, actor: Actor, at: datetime) -> None:
    """Order an approved payout at the bank, exactly once. Raises Retryable or Unknown to be called again."""
    payout = _mark_submitted(payout_id, actor, at)
    if payout.status not in ("submitted", "unknown"):
        return
    crash_point("payouts.before_send")
    bank = modern_treasury.client()
    # Also before the first attempt: a database restored to an earlier hour does not know of its last.
    order = bank.find_payment_order(payout.external_id)
    if order is None:
        order = _send(payout, bank, actor, at)
    crash_point("payouts.after_send")
    if order is not None:
        record_order(payout_id=payout.pk, order=order, actor=actor, at=at)
    crash_point("payouts.after_record")


@transaction.atomic(durable=True)
def _mark_submitted(payout_id: UUID, actor: Actor, at: datetime) -> Payout:
    payout = locked(payout_id)
    if payout.status != "approved":
        return payout
    return transition(payout, "submit", actor=actor, at=at, when=at, now=timezone.now())


def _send(
    payout: Payout, bank: modern_treasury.ModernTreasury, actor: Actor, at: datetime
) -> PaymentOrder | None:
    try:
        return bank.create_payment_order(
            external_id=payout.external_id,
            amount=payout.amount,
            receiving_account_id=payout.account.provider_id or "",
            key=payout.idempotency_key,
            statement_descriptor="PAYOUT",
            remittance_information=payout.external_id,
            metadata={"payout_id": str(payout.pk), "attempt": str(payout.attempt)},
        )
    except Rejected as error:
        if error.extra.get("provider_status") not in _REFUSED:
            raise
        # A key that is still being worked on may be refused too: what the bank has is not given back.
        if order := bank.find_payment_order(payout.external_id):
            return order
        _record_refusal(payout.pk, error, actor=actor, at=at)
        return None
    except Unknown as error:
        _record_doubt(payout.pk, error, actor=actor, at=at)
        raise


@transaction.atomic
def _record_doubt(payout_id: UUID, error: Unknown, *, actor: Actor, at: datetime) -> None:
    """No answer came; meanwhile a webhook or the poller may have told what became of it."""
    payout = locked(payout_id)
    if payout.status == "submitted":
        transition(payout, "lose_answer", actor=actor, at=at, error=str(error), now=timezone.now())


@transaction.atomic
def _record_refusal(payout_id: UUID, error: Rejected, *, actor: Actor, at: datetime) -> None:
    """The bank refused the order as it is; the same order would be refused again."""
    payout = locked(payout_id)
    policy = lock_payee(payout.payee_id)
    if payout.status in ("submitted", "unknown"):
        code = str(error.extra.get("provider_code") or error.code)
        fail_payout(payout, policy, code=code[:40], why=error.detail, final=True, actor=actor, at=at)


@transaction.atomic
def record_order(
    *, payout_id: UUID, order: PaymentOrder, actor: Actor, at: datetime, returned: Return | None = None
) -> Payout:
    """Take the steps that bring a payout to what its payment order says, in any order and number of times."""
    payout = locked(payout_id)
    policy = lock_payee(payout.payee_id)
    returned = order.current_return or returned
    seen = _seen(order, returned)
    path = steps(payout.status, seen)
    found: dict[str, Any] = {"provider_status": order.status}
    if payout.failure_code == GIVEN_UP:
        found |= {"next_poll_at": None}
    Payout.objects.filter(pk=payout.pk).update(**found)
    if wrong := _differences(payout, order, returned if seen is Meaning.RETURNED else None):
        review_contradiction(payout, wrong, actor=actor, at=at)
    elif path is None:
        detail = f"The order {order.id} is {order.status} at the bank, the payout is {payout.status} here."
        review_contradiction(payout, detail, actor=actor, at=at)
    else:
        for step in path:
            payout = _take(step, payout, policy, order, returned, actor=actor, at=at)
    return payout


def _seen(order: PaymentOrder, returned: Return | None) -> Meaning:
    """What the order amounts to. A return counts before the order tells of it; a notice never does."""
    if returned and returned.is_notice:
        return Meaning.UNCLEAR if order.status == "returned" else meaning(order.status)
    if returned and returned.status not in _DEAD_RETURN:
        return Meaning.RETURNED
    return meaning(order.status)


def _differences(payout: Payout, order: PaymentOrder, returned: Return | None) -> str:
    if order.external_id != payout.external_id or order.direction != "credit":
        return f"The order {order.id} is not the one for {payout.external_id}."
    if payout.failure_code == GIVEN_UP and meaning(order.status) is not Meaning.FAILED:
        return f"It was given up, and the bank has the order {order.id} for it, which is {order.status}."
    if payout.provider_id not in ("", order.id):
        return f"There is a second order, {order.id} beside {payout.provider_id}."
    if order.amount != payout.amount:
        return f"The order {order.id} pays {order.amount} instead of {payout.amount}."
    if returned and returned.amount != payout.amount:
        return f"{returned.amount} came back of {payout.amount}."
    return ""


def _take(
    step: str,
    payout: Payout,
    policy: PayeePolicy,
    order: PaymentOrder,
    returned: Return | None,
    *,
    actor: Actor,
    at: datetime,
) -> Payout:
    if step == "accept":
        return accept_payout(payout, provider_id=order.id, actor=actor, at=at)
    if step == "confirm":
        return confirm_payout(payout, actor=actor, at=at)
    if step == "fail":
        code, why = order.status, order.failure_reason
        return fail_payout(payout, policy, code=code, why=why, final=False, actor=actor, at=at)
    return return_payout(
        payout,
        policy,
        code=returned.code if returned else "",
        why=returned.reason if returned else "",
        return_id=returned.id if returned else "",
        actor=actor,
        at=at,
    )


def read_order(*, order_id: str, actor: Actor, at: datetime, returned: Return | None = None) -> None:
    """Something happened to a payment order: fetch it and follow it."""
    order = modern_treasury.client().payment_order(order_id)
    if payout := Payout.objects.filter(external_id=order.external_id).first():
        record_order(payout_id=payout.pk, order=order, returned=returned, actor=actor, at=at)
    elif order.direction == "credit":
        open_review(
            kind="unknown_payment_order",
            subject_type="modern_treasury.payment_order",
            subject_id=order.id,
            title=f"The bank pays out {order.amount} on an order that we did not make",
            detail=f"Order {order.id} carries the reference {order.external_id or 'none'}.",
            evidence={"order_id": order.id, "status": order.status, "type": order.type},
            value=order.amount,
            at=at,
            actor=actor,
        )


def read_return(*, return_id: str, actor: Actor, at: datetime) -> None:
    """Something came back: when it is a payment order's money, follow the order."""
    returned = modern_treasury.client().get_return(return_id)
    if returned.returnable_type == "payment_order" and returned.returnable_id:
        read_order(order_id=returned.returnable_id, returned=returned, actor=actor, at=at)


def request_poll(*, payout: Payout, actor: Actor, at: datetime) -> bool:
    """Ask for a look at the bank soon; False when there is nothing to look at."""
    actor.require("payouts.poll_payout")
    if payout.status not in (*AT_THE_BANK, "paid"):
        return False
    with transaction.atomic():
        Payout.objects.filter(pk=payout.pk).update(next_poll_at=timezone.now())
        append("payout", payout.pk, "payout.poll_requested", payout.event_payload(), at=at, actor=actor)
    return True


def request_settlement_poll(*, settlement: Settlement, actor: Actor, at: datetime) -> None:
    """Ask for a look at every payout of a settlement soon. Touches no payout, whose lock comes first."""
    actor.require("payouts.poll_payout")
    with transaction.atomic():
        payload = settlement.event_payload()
        append("settlement", settlement.pk, "settlement.poll_requested", payload, at=at, actor=actor)


def poll_settlement(*, settlement_id: UUID, actor: Actor, at: datetime) -> None:
    """Read the orders of a settlement's payouts at the bank."""
    payouts = Payout.objects.filter(items__leg__settlement=settlement_id).distinct()
    for payout_id in payouts.values_list("pk", flat=True):
        poll_payout(payout_id=payout_id, actor=actor, at=at)


def poll_payouts(*, at: datetime, actor: Actor, limit: int = 200) -> int:
    """Look at every order whose next look has come; returns how many were read. For lost webhooks.

    While the bank's line is paused or open nothing is asked, unless it is as a probe; the rest waits when it
    stops answering.
    """
    due = list(Payout.objects.due_for_poll(timezone.now()).values_list("pk", flat=True)[:limit])
    read = in_vain = 0
    for id_ in while_open(modern_treasury.NAME, due):
        try:
            if poll_payout(payout_id=id_, actor=actor, at=at):
                read, in_vain = read + 1, 0
        except ProviderError as error:
            log.warning("payout not polled: %s", error, extra={"payout": str(id_)})
            in_vain = 0 if isinstance(error, Rejected) else in_vain + 1
        if in_vain == PATIENCE:
            break
    return read


def poll_payout(*, payout_id: UUID, actor: Actor, at: datetime) -> bool:
    """Read one payout's order at the bank, after setting when to look again. False when nobody has to look.

    Raises Rejected, Retryable or Unknown as the bank answered, or did not.
    """
    payout = _claim_poll(payout_id, at)
    if payout is None:
        return False
    bank = modern_treasury.client()
    try:
        if payout.provider_id:
            order = bank.payment_order(payout.provider_id)
        else:
            found = bank.find_payment_order(payout.external_id)
            if found is None:
                return True
            order = found
    except ProviderError as error:
        Payout.objects.filter(pk=payout.pk).update(last_error=str(error))
        raise
    record_order(payout_id=payout.pk, order=order, actor=actor, at=at)
    return True


@transaction.atomic
def _claim_poll(payout_id: UUID, at: datetime) -> Payout | None:
    """Move the next look forward, so that a crash or a second poller does not look twice."""
    payout = locked(payout_id)
    if payout.next_poll_at is None or payout.watched_since is None:
        return None
    now = timezone.now()
    paid = payout.status == "paid"
    delay = poll_delay(
        now - payout.watched_since, paid=paid, shortest=timedelta(seconds=settings.POLL_SECONDS)
    )
    Payout.objects.filter(pk=payout.pk).update(
        next_poll_at=now + delay if _watched(payout, at) else None, polls=F("polls") + 1
    )
    return payout


def _watched(payout: Payout, at: datetime) -> bool:
    """What is paid may come back for a while, and what was given up be ordered after all."""
    if payout.status == "paid" and payout.paid_at:
        return at - payout.paid_at <= WATCHED_AFTER_PAID
    if payout.status == "failed" and payout.failed_at:
        return at - payout.failed_at <= WATCHED_AFTER_GIVEN_UP
    return True


def locked(payout_id: UUID) -> Payout:
    """A payout whose row is ours until the transaction ends, with its account and payee."""
    rows = Payout.objects.select_for_update(of=("self",), no_key=True).select_related("account", "payee")
    return rows.get(pk=payout_id)
