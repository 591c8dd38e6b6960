"""Maker and checker: an operation that somebody requests and somebody else lets run.

An app registers an `Operation` where its `ready()` finds it. `request_approval` binds operation,
subject and arguments by a hash; `approve` compares it and runs the operation in the transaction that
records the approval, so that neither can be without the other.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, transaction
from django.db.models import Model

from commerce import states
from commerce.actor import Actor
from commerce.console.models import Approval, ApprovalStatus
from commerce.errors import CommerceError, Conflict, InvalidInput, NotFound, PermissionDenied, StateConflict
from commerce.money import Money
from commerce.outbox import append

LIFETIME = timedelta(days=7)


@dataclass(frozen=True)
class Operation:
    """Something that only two people together may do.

    `run(*, approval, actor, at)` reads `approval.arguments`, calls one service with the checker as its
    actor and returns the row that this made, or None. `describe(approval)` says in words and numbers
    what would happen. `maker` and `checker` are the permissions of the two. `overtaken(approval)` is ""
    or why what was requested can never be done any more: something else came before it.
    """

    name: str
    label: str
    maker: str
    checker: str
    run: Callable[..., Model | None]
    describe: Callable[[Approval], str]
    lifetime: timedelta = LIFETIME
    overtaken: Callable[[Approval], str] | None = None


_operations: dict[str, Operation] = {}


def register_operation(operation: Operation) -> None:
    """Make an operation known. ImproperlyConfigured when its name already means another one."""
    if _operations.setdefault(operation.name, operation) != operation:
        raise ImproperlyConfigured(f"There is another operation {operation.name}.")


def operations() -> list[Operation]:
    return list(_operations.values())


def operation_of(approval: Approval) -> Operation:
    """The operation an approval is for. NotFound when no application registers it any more."""
    return _known(approval.operation)


def describe(approval: Approval) -> str:
    """What approving does or did; a failure to say so is said instead."""
    try:
        return operation_of(approval).describe(approval)
    except CommerceError as error:
        return str(error)


def digest(*, operation: str, subject_type: str, subject_id: str, arguments: dict[str, Any]) -> str:
    """SHA-256 of what is to be done, as canonical JSON, in hexadecimal."""
    return hashlib.sha256(_canonical([operation, subject_type, subject_id, arguments]).encode()).hexdigest()


def is_bound(approval: Approval) -> bool:
    """Whether operation, subject and arguments are still what was requested."""
    return approval.sha256 == digest(
        operation=approval.operation,
        subject_type=approval.subject_type,
        subject_id=approval.subject_id,
        arguments=approval.arguments,
    )


@transaction.atomic
def request_approval(
    *,
    operation: str,
    arguments: dict[str, Any],
    subject_type: str,
    subject_id: Any,
    reason: str,
    actor: Actor,
    at: datetime,
    expires_at: datetime | None = None,
    key: str | None = None,
    value: Money | None = None,
) -> Approval:
    """Ask for a second person. `arguments` are JSON without fractions: amounts in minor units.

    `value` is what is at stake, for those who choose what to look at first. The same `key` and content
    again is the first request, whatever became of it; Conflict for other content under the key, and
    while the same already waits.
    """
    known, key = _known(operation), key or ""
    actor.require(known.maker)
    expires_at = expires_at or at + known.lifetime
    if not reason.strip():
        raise InvalidInput("Say why.", pointer="/reason", code="required")
    if expires_at <= at:
        raise InvalidInput("An approval expires later than it is requested.", pointer="/expires_at")
    what: dict[str, Any] = {
        "operation": operation,
        "subject_type": subject_type.lower(),
        "subject_id": str(subject_id),
        "arguments": _checked(arguments),
    }
    what["sha256"] = digest(**what)
    if found := _earlier(what, key, actor, at):
        return found
    try:
        with transaction.atomic():
            approval = Approval.objects.create(
                **what,
                title=known.label,
                key=key,
                reason=reason,
                value_minor=value.minor if value else None,
                currency=value.currency if value else "",
                maker=str(actor),
                maker_name=_name(actor),
                requested_at=at,
                expires_at=expires_at,
            )
    except IntegrityError:
        if found := _earlier(what, key, actor, at):
            return found
        raise
    append(
        approval.aggregate_type,
        approval.pk,
        "approval.requested",
        approval.event_payload(),
        at=at,
        actor=actor,
    )
    return approval


@transaction.atomic
def approve(*, approval: Approval, actor: Actor, at: datetime, reason: str = "") -> Approval:
    """Agree to what somebody else requested, and do it: both, or neither when its service refuses.

    What was overtaken is not done: its request is closed and comes back cancelled, with why as its decision.
    """
    row = _locked(approval)
    operation = operation_of(row)
    _may_check(row, operation, actor)
    if why := ends_waiting(row, at):
        raise StateConflict(why, state=row.status)
    if not is_bound(row):
        raise Conflict("This is not what was requested: its hash differs.", code="approval_tampered")
    if why := overtaken(row):
        return _close_overtaken(row, why, at)
    result = operation.run(approval=row, actor=actor, at=at)
    return states.transition(
        row, "approve", actor=actor, at=at, reason=reason, by=str(actor), by_name=_name(actor),
        decided_at=at, why=reason, result=result,
    )  # fmt: skip


@transaction.atomic
def reject(*, approval: Approval, actor: Actor, at: datetime, reason: str) -> Approval:
    """Refuse what somebody else requested; nothing is done."""
    row = _locked(approval)
    _may_check(row, operation_of(row), actor)
    return states.transition(
        row, "reject", actor=actor, at=at, reason=reason, by=str(actor), by_name=_name(actor),
        decided_at=at, why=reason,
    )  # fmt: skip


@transaction.atomic
def cancel(*, approval: Approval, actor: Actor, at: datetime, reason: str = "") -> Approval:
    """Withdraw a request; whoever may make one may."""
    row = _locked(approval)
    actor.require(operation_of(row).maker)
    return states.transition(row, "cancel", actor=actor, at=at, reason=reason, decided_at=at, why=reason)


def expire_overdue(*, at: datetime, actor: Actor, limit: int = 500) -> int:
    """End the requests that nobody decided in time; returns how many."""
    overdue = Approval.objects.filter(status=ApprovalStatus.PENDING, expires_at__lte=at)
    expired = 0
    for approval in overdue.order_by("expires_at")[:limit]:
        try:
            states.transition(approval, "expire", actor=actor, at=at, decided_at=at)
        except StateConflict:  # decided since it was read
            continue
        expired += 1
    return expired


def close_overtaken(*, at: datetime) -> int:
    """End the requests for what can never be done any more; returns how many."""
    closable = [name for name, operation in _operations.items() if operation.overtaken]
    waiting = Approval.objects.filter(status=ApprovalStatus.PENDING, operation__in=closable)
    closed = 0
    for approval in waiting.order_by("id").iterator():
        if not (is_bound(approval) and (why := overtaken(approval))):
            continue
        try:
            _close_overtaken(approval, why, at)
        except StateConflict:  # decided since it was read
            continue
        closed += 1
    return closed


def overtaken(approval: Approval) -> str:
    """ "" or why what was requested can never be done any more."""
    judge = operation_of(approval).overtaken
    return judge(approval) if judge else ""


def ends_waiting(approval: Approval, at: datetime) -> str:
    """Empty while the request may be approved, else a sentence that says why not."""
    if why := states.available(approval, "approve"):
        return why
    return "" if at < approval.expires_at else f"It expired on {approval.expires_at:%Y-%m-%d at %H:%M} UTC."


def bars(approval: Approval, actor: Actor) -> str:
    """Empty when `actor` may be the checker, its permission aside, else a sentence that says why not."""
    if actor.type == "system":
        return "A system approves nothing: a person must."
    if approval.maker == str(actor):
        return "Who requested something may not decide it: somebody else must."
    return ""


def _close_overtaken(approval: Approval, why: str, at: datetime) -> Approval:
    """Whoever noticed need not be somebody who may withdraw it."""
    system = Actor.system("approvals")
    return states.transition(approval, "cancel", actor=system, at=at, reason=why, decided_at=at, why=why)


def _known(name: str) -> Operation:
    if name not in _operations:
        raise NotFound(f"There is no operation {name!r} to approve.", code="unknown_operation")
    return _operations[name]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _checked(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments as they will come back out of the database. InvalidInput when they would not be the same."""

    def refuse(_: str) -> None:
        raise ValueError("a fraction has no exact form here; use minor units or a string")

    try:
        text = _canonical(arguments)
        text.encode()
        kept: dict[str, Any] = json.loads(text, parse_float=refuse)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"These arguments cannot be kept: {error}.", pointer="/arguments") from error
    if r"\u0000" in text.replace(r"\\", "") or kept != arguments:
        raise InvalidInput("These arguments would change when they are kept.", pointer="/arguments")
    return kept


def _earlier(what: dict[str, Any], key: str, actor: Actor, at: datetime) -> Approval | None:
    """The request that `key` names, if any. Conflict while the same waits under another key or none."""
    named = Approval.objects.filter(key=key).first() if key else None
    if named:
        if named.sha256 != what["sha256"]:
            raise Conflict(f"The key {key!r} names another request.", code="key_reused")
        return named
    same = {name: value for name, value in what.items() if name != "arguments"}
    waiting = Approval.objects.filter(status=ApprovalStatus.PENDING, **same).first()
    if waiting and key and waiting.key == key:  # its twin has committed since the look for the key
        return waiting
    if waiting and waiting.expires_at > at:
        raise Conflict(
            f"The same waits for approval already, requested by {waiting.maker_name}.",
            code="approval_pending",
            approval_id=str(waiting.pk),
        )
    if waiting:
        states.transition(waiting, "expire", actor=actor, at=at, decided_at=at)
    return None


def _name(actor: Actor) -> str:
    return actor.label or str(actor)


def _locked(approval: Approval) -> Approval:
    return Approval.objects.select_for_update(of=("self",), no_key=True).get(pk=approval.pk)


def _may_check(approval: Approval, operation: Operation, actor: Actor) -> None:
    actor.require(operation.checker)
    if why := bars(approval, actor):
        raise PermissionDenied(why, code="own_approval")
