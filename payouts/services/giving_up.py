"""Giving up a payout that was submitted and that the bank may not know: one asks, somebody else agrees.

Agreeing only appends an event. The relay handles it in the stream that sends the payout, behind its
sending: none is waiting when the bank is asked, and only what it does not know is failed. A process that
stood still in the sending can post it even afterwards, so the bank is asked on for some days.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from commerce.actor import Actor
from commerce.console.approvals import Operation, is_bound, register_operation, request_approval
from commerce.console.models import Approval, ApprovalStatus
from commerce.console.outbox_skip import after_skip
from commerce.errors import StateConflict
from commerce.outbox import append
from commerce.outbox.models import OutboxEvent, OutboxStream
from commerce.outbox.services import waiting_events
from commerce.providers import modern_treasury
from commerce.states import available
from payouts.models import WITHOUT_ORDER, PayeePolicy, Payout
from payouts.services.bank import locked, record_order
from payouts.services.payees import Mode, lock_payee, policy_of
from payouts.services.payouts import GIVEN_UP, UNSENT, fail_payout, review

OPERATION = "payouts.give_up"
MAKER, CHECKER = "payouts.request_giving_up", "payouts.approve_giving_up"
SENDING, SENDER = "payout.approved", "payouts.modern_treasury"


def request_giving_up(*, payout: Payout, actor: Actor, at: datetime, reason: str) -> Approval:
    """Ask that a payout without an order at the bank is failed, so that its money can be paid again.

    Nothing happens yet. StateConflict while it may still be sent.
    """
    actor.require(MAKER)
    if why := why_not_give_up(payout):
        raise StateConflict(why, state=payout.status)
    return request_approval(
        operation=OPERATION,
        arguments={"payout_id": str(payout.pk), "reason": reason},
        subject_type="payouts.payout",
        subject_id=payout.pk,
        reason=reason,
        actor=actor,
        at=at,
        value=payout.amount,
    )


def why_not_give_up(payout: Payout) -> str:
    """ "" or why nobody can ask for this payout to be given up."""
    if payout.status not in WITHOUT_ORDER:
        return (
            available(payout, "fail")
            or f"The bank has the order {payout.provider_id}: it says what becomes of it."
        )
    stream = OutboxStream.objects.filter(
        aggregate_type=Payout.aggregate_type, aggregate_id=str(payout.pk), group=SENDER
    ).first()
    if stream is None or not waiting_events(stream).filter(type=SENDING).exists():
        return ""
    if stream.parked_at:
        return "Its sending is parked and could go on: request a skip of it first, see Held up."
    return "The relay is still sending it, or trying to."


def giving_up_means(payout: Payout) -> str:
    """What giving it up would do, once somebody else agrees."""
    return (
        f"The bank is asked for {payout.external_id}. Only when it has no such order is the payout failed: "
        f"{payout.amount} is payable to {payout.payee} again, and {_leaves(policy_of(payout.payee_id))} "
        "When it has one, nothing is given up and the payout follows that order."
    )


def _leaves(policy: PayeePolicy) -> str:
    if policy.mode == Mode.ON_REQUEST:
        return "leaves with a new payout that somebody requests."
    when = f"on {policy.due_at:%-d %b %Y}" if policy.due_at else "when more is released to them"
    return (
        f"leaves with the next payout by policy, {when}, or with one that somebody requests before. To keep "
        "it here, change the policy to on request first."
    )


def give_up_payout(*, payout_id: UUID, reason: str, actor: Actor, at: datetime) -> None:
    """Fail a payout of which the bank knows nothing, or follow the order that it has.

    Raises Retryable to be called again; what was done already stays as it is.
    """
    payout = Payout.objects.get(pk=payout_id)
    if payout.status in WITHOUT_ORDER:
        order = modern_treasury.client().find_payment_order(payout.external_id)
        if order is not None:
            record_order(payout_id=payout_id, order=order, actor=actor, at=at)
        elif _fail(payout_id, reason, actor, at):
            return
    payout.refresh_from_db()
    # An order that does not fit has its review already, and the payout does not follow it.
    if payout.status not in ("failed", *WITHOUT_ORDER):
        _review_refusal(payout, actor=actor, at=at)


@transaction.atomic
def _fail(payout_id: UUID, reason: str, actor: Actor, at: datetime) -> bool:
    """Unless a webhook has told of an order since the bank was asked."""
    payout = locked(payout_id)
    policy = lock_payee(payout.payee_id)
    if payout.status not in WITHOUT_ORDER:
        return False
    fail_payout(payout, policy, code=GIVEN_UP, why=reason, final=True, actor=actor, at=at)
    return True


def _review_refusal(payout: Payout, *, actor: Actor, at: datetime) -> None:
    title = f"A payout of {payout.amount} to {payout.payee} was not given up"
    found = payout.provider_id or payout.external_id
    detail = (
        f"The bank has the order {found}, {payout.provider_status or 'of unknown state'}: the payout follows "
        "it. To stop it, speak with the bank."
    )
    review(payout, "payout_not_given_up", title, detail, actor=actor, at=at)


@after_skip(SENDING, group=SENDER)
def review_unsent(*, event: OutboxEvent, actor: Actor, at: datetime) -> None:
    """The money stays on its way to nowhere: somebody has to say what becomes of it."""
    payout = Payout.objects.select_related("payee").get(pk=event.aggregate_id)
    if payout.status in ("approved", *WITHOUT_ORDER):
        verb = "Cancel it" if payout.status == "approved" else "Give it up"
        title = f"The sending of a payout of {payout.amount} to {payout.payee} was skipped"
        detail = (
            f"{verb} on its page, or replay {event.type} to {SENDER}; until then its money is in transit."
        )
        review(payout, UNSENT, title, detail, actor=actor, at=at)


def _requested(approval: Approval) -> Payout:
    return Payout.objects.select_related("payee").get(pk=approval.arguments["payout_id"])


def _overtaken(approval: Approval) -> str:
    payout = _requested(approval)
    return (
        "" if payout.status in WITHOUT_ORDER else f"The payout is {payout.status.replace('_', ' ')} by now."
    )


def _run(*, approval: Approval, actor: Actor, at: datetime) -> Payout:
    """`actor` agrees. The lock keeps the payout where it stands until the event is appended."""
    payout = locked(UUID(approval.arguments["payout_id"]))
    if why := why_not_give_up(payout):
        raise StateConflict(why, state=payout.status)
    asked: dict[str, Any] = {"approval_id": str(approval.pk), "reason": approval.arguments["reason"]}
    append(
        Payout.aggregate_type,
        payout.pk,
        "payout.give_up_approved",
        payout.event_payload() | asked,
        at=at,
        actor=actor,
    )
    return payout


def _describe(approval: Approval) -> str:
    if not is_bound(approval):
        return "It is no longer what was requested, and cannot be approved."
    payout = _requested(approval)
    if approval.status == ApprovalStatus.PENDING:
        if why := _overtaken(approval):
            return f"{why} Approving it gives up nothing and closes the request."
        return giving_up_means(payout)
    return f"{payout.external_id}, {payout.amount} to {payout.payee}; its page says what became of it."


register_operation(
    Operation(
        name=OPERATION,
        label="Give up a payout",
        maker=MAKER,
        checker=CHECKER,
        run=_run,
        describe=_describe,
        overtaken=_overtaken,
    )
)
