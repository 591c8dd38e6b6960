"""What an operator may do to the relay: look, retry, park, resume, replay. History is never rewound."""

from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction
from django.utils import timezone

from commerce.actor import Actor
from commerce.errors import StateConflict
from commerce.outbox.events import append, nudge
from commerce.outbox.models import OutboxEvent, OutboxStream
from commerce.outbox.registry import handler_of

PERMISSION = "outbox.operate_outboxstream"


@dataclass(frozen=True)
class Status:
    """Depth and age of the relay, in events, streams and seconds."""

    due: int
    waiting: int
    parked: int
    unpublished: int
    oldest_due_seconds: float


def status() -> Status:
    """How far behind the relay is. Reads partial indexes only."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT count(*) FILTER (WHERE due_at <= now()),
                      count(*) FILTER (WHERE due_at > now() AND lease_token IS NULL),
                      COALESCE(EXTRACT(epoch FROM now() - min(due_at) FILTER (WHERE due_at <= now())), 0)
               FROM outbox_outboxstream WHERE due_at IS NOT NULL"""
        )
        due, waiting, age = cursor.fetchone()
    return Status(
        due=due,
        waiting=waiting,
        parked=OutboxStream.objects.filter(parked_at__isnull=False).count(),
        unpublished=OutboxEvent.objects.filter(published_at__isnull=True).count(),
        oldest_due_seconds=float(age),
    )


@transaction.atomic
def retry_stream(*, stream: OutboxStream, actor: Actor, at: datetime, reason: str = "") -> OutboxStream:
    """Make a stream due now, its back-off forgotten."""
    row = _locked(stream, actor)
    if row.parked_at:
        raise StateConflict("The stream is parked: resume it instead.")
    row.due_at, row.attempts = timezone.now(), 0
    row.save(update_fields=["due_at", "attempts"])
    nudge([row.lane])
    return row


@transaction.atomic
def park_stream(*, stream: OutboxStream, actor: Actor, at: datetime, reason: str) -> OutboxStream:
    """Stop delivering a stream until somebody resumes it. Its events stay where they are."""
    row = _locked(stream, actor)
    row.parked_at, row.parked_reason, row.due_at = timezone.now(), f"{actor}: {reason}", None
    row.lease_token = None
    row.save()
    return row


@transaction.atomic
def resume_stream(*, stream: OutboxStream, actor: Actor, at: datetime, reason: str = "") -> OutboxStream:
    """Deliver a parked stream again, from the event it stopped at."""
    row = _locked(stream, actor)
    if not row.parked_at:
        raise StateConflict("The stream is not parked.")
    row.parked_at, row.parked_reason, row.attempts, row.due_at = None, "", 0, timezone.now()
    row.save()
    nudge([row.lane])
    return row


@transaction.atomic
def replay_event(*, event: OutboxEvent, actor: Actor, at: datetime, reason: str) -> OutboxEvent:
    """Append a copy of `event` at the end of its stream, with the original as its cause."""
    actor.require(PERMISSION)
    return append(
        event.aggregate_type,
        event.aggregate_id,
        event.type,
        event.payload,
        at=event.occurred_at,
        actor=actor,
        version=event.version,
        causation_id=event.event_id,
    )


def blocking_event(stream: OutboxStream) -> OutboxEvent | None:
    """The event a stream stands at: the first after its cursor that its group handles."""
    events = OutboxEvent.objects.filter(
        aggregate_type=stream.aggregate_type, aggregate_id=stream.aggregate_id, sequence__gt=stream.cursor
    ).order_by("sequence")[:100]
    return next((event for event in events if handler_of(event.type, stream.group)), None)


def _locked(stream: OutboxStream, actor: Actor) -> OutboxStream:
    actor.require(PERMISSION)
    return OutboxStream.objects.select_for_update().get(pk=stream.pk)
