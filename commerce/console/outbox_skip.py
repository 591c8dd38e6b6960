"""Giving up one event of a parked stream: somebody who operates asks, somebody else agrees.

The request is bound to the stream and the event it stands at. Both are people who signed in: a
command line or a key that asked in nobody's name would let one person be two.
"""

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from commerce.actor import Actor
from commerce.console.approvals import Operation, is_bound, register_operation, request_approval
from commerce.console.models import Approval, ApprovalStatus
from commerce.errors import NotFound, PermissionDenied, StateConflict
from commerce.outbox import services
from commerce.outbox.models import OutboxEvent, OutboxSkip, OutboxStream
from commerce.outbox.replay import value_of
from commerce.outbox.retention import find_event

OPERATION = "outbox.skip"

Follow = TypeVar("Follow", bound=Callable[..., None])

_after: dict[tuple[str, str], Callable[..., None]] = {}


def after_skip(type_: str, *, group: str) -> Callable[[Follow], Follow]:
    """Have `follow(*, event, actor, at)` take up what a skipped event leaves undone, in the transaction
    that skips it."""

    def register(follow: Follow) -> Follow:
        _after[type_, group] = follow
        return follow

    return register


def request_skip(*, stream: OutboxStream, actor: Actor, at: datetime, reason: str) -> Approval:
    """Ask that a parked stream goes on without the event it stands at. Nothing is skipped yet."""
    actor.require(services.PERMISSION)
    if actor.type != "user":
        raise PermissionDenied("Only a person may ask for an event to be skipped.", code="needs_person")
    event = services.blocking_event(stream)
    if event is None or (why := services.why_not_skip(stream)):
        raise StateConflict(why if event else "The stream stands at no event.")
    return request_approval(
        operation=OPERATION,
        arguments={"stream_id": stream.pk, "event_id": str(event.event_id), "reason": reason},
        subject_type="outbox.outboxstream",
        subject_id=stream.pk,
        reason=reason,
        actor=actor,
        at=at,
        value=value_of(event),
    )


def meaning(stream: OutboxStream, event: OutboxEvent) -> str:
    """What skipping an event would do, and what it would leave to people."""
    value = value_of(event)
    worth = f", {value}," if value else ""
    return (
        f"{stream.group} is never given {event.type} #{event.sequence} of {event.aggregate_type} "
        f"{event.aggregate_id}{worth} and its stream goes on after it. What it would have done has "
        "to be done by hand; no money moves. The event counts as published some seconds later. It is parked "
        f"for: {stream.parked_reason}"
    )


def _requested(approval: Approval) -> tuple[OutboxStream, OutboxEvent]:
    stream = OutboxStream.objects.get(pk=approval.arguments["stream_id"])
    return stream, find_event(UUID(approval.arguments["event_id"]))


def _overtaken(approval: Approval) -> str:
    """A month that a stream stands in does not leave, so that whoever asks for an event of it is late."""
    try:
        stream, event = _requested(approval)
    except NotFound as archived:
        return str(archived)
    if stream.cursor < event.sequence:
        return ""
    return f"The stream is past {event.type} #{event.sequence} already."


def _run(*, approval: Approval, actor: Actor, at: datetime) -> OutboxSkip:
    """`actor` agrees to what the maker of the approval asked for. StateConflict when the stream stands
    elsewhere by now. Whatever the effect was for has to be done by hand."""
    stream, event = _requested(approval)
    row = services.locked(stream, actor, services.MAY_APPROVE_SKIP)
    if actor.type != "user" or not approval.maker.startswith("user:") or approval.maker == str(actor):
        raise PermissionDenied("An event is skipped by two people: neither one alone.", code="needs_two")
    if why := services.why_not_skip(row, event.event_id):
        raise StateConflict(why)
    reason = approval.arguments["reason"]
    skip = OutboxSkip.objects.create(
        stream=row,
        event_id=event.event_id,
        sequence=event.sequence,
        type=event.type,
        group=row.group,
        error=row.parked_reason,
        reason=reason,
        requested_by=approval.maker,
        approved_by=str(actor),
        skipped_at=at,
    )
    row.cursor, row.last_error = event.sequence, ""
    services.go_on(row, "skip", "parked", actor=actor, at=at, reason=reason)
    if follow := _after.get((event.type, row.group)):
        follow(event=event, actor=actor, at=at)
    return skip


def _describe(approval: Approval) -> str:
    if not is_bound(approval):
        return "It is no longer what was requested, and cannot be approved."
    if approval.result_id:
        done = OutboxSkip.objects.get(pk=approval.result_id)
        return f"{done.group} without {done.type} #{done.sequence}."
    stream, event = _requested(approval)
    if approval.status != ApprovalStatus.PENDING:
        return f"{stream.group} without {event.type} #{event.sequence}."
    if why := _overtaken(approval):
        return f"{why} Approving it skips nothing and closes the request."
    return meaning(stream, event)


register_operation(
    Operation(
        name=OPERATION,
        label="Skip an event",
        maker=services.PERMISSION,
        checker=services.MAY_APPROVE_SKIP,
        run=_run,
        describe=_describe,
        overtaken=_overtaken,
    )
)
