"""Handing events to handlers: in order within a stream, streams beside each other.

A claim leases due streams with a fencing token; the holder of the token, and nobody else, may move
the cursor. A local effect and the cursor commit together; a remote effect runs outside any
transaction and is made harmless by its key and by look-up before resend. The cursor is written at
the end of the effect's transaction, never locked at its start: an append to the same aggregate
takes the head and then the group's row, and the other order would deadlock with it.
"""

import logging
import random
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings
from django.db import OperationalError, close_old_connections, connection, transaction
from django.utils import timezone

from commerce.crash import crash_point
from commerce.errors import CommerceError
from commerce.logs import bound, redact
from commerce.outbox.models import OutboxEvent, OutboxStream
from commerce.outbox.registry import Handler, handler_of, remote_groups, subscriptions

log = logging.getLogger(__name__)

STREAMS_PER_CLAIM = 20
EVENTS_PER_STREAM = 50
ATTEMPTS_BEFORE_PARKING = 12
LONGEST_DELAY = 3600.0

_CLAIM = """
UPDATE outbox_outboxstream s SET lease_token = %(token)s, lease_until = now() + %(lease)s
FROM (
  SELECT id FROM outbox_outboxstream
  WHERE due_at <= now() AND (lease_until IS NULL OR lease_until < now())
    AND (%(groups)s::text[] IS NULL OR "group" = ANY (%(groups)s))
    AND (%(remote)s::boolean IS NULL OR ("group" = ANY (%(remote_groups)s)) = %(remote)s)
  ORDER BY due_at LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
) due WHERE s.id = due.id RETURNING s.id
"""
_PUBLISH = """
UPDATE outbox_outboxevent e SET published_at = now()
WHERE e.published_at IS NULL
  AND (%(type)s::text IS NULL OR (e.aggregate_type, e.aggregate_id) = (%(type)s, %(id)s))
  AND NOT EXISTS (SELECT 1 FROM outbox_outboxstream s
                  WHERE s.aggregate_type = e.aggregate_type AND s.aggregate_id = e.aggregate_id
                    AND s.cursor < e.sequence AND (e.type || ' ' || s."group") = ANY (%(subscriptions)s))
"""


class LeaseLost(Exception):
    """Another worker holds the stream now; whatever was in hand is abandoned."""


@dataclass
class DrainReport:
    """What one drain did."""

    handled: int = 0
    retried: int = 0
    parked: int = 0
    streams: set[int] = field(default_factory=set)


def drain(
    *, limit: int = 10_000, groups: list[str] | None = None, remote: bool | None = None, seconds: float = 300
) -> DrainReport:
    """Deliver due events until none is left, `limit` were handled, or `seconds` have passed.

    `remote` chooses the groups that talk to providers, or all others. Those are claimed one stream at
    a time: while one waits for a slow provider, the next is not held back with it.
    """
    report = DrainReport()
    deadline = time.monotonic() + seconds
    while report.handled < limit and time.monotonic() < deadline:
        token = uuid4()
        claimed = _claim(token, groups, remote)
        if not claimed:
            break
        try:
            for stream_id in claimed:
                if time.monotonic() >= deadline:
                    break
                report.streams.add(stream_id)
                try:
                    _work(stream_id, token, report, deadline)
                except LeaseLost:
                    log.warning("lease lost", extra={"stream": stream_id})
        finally:
            _let_go(claimed, token)
    return report


def _claim(token: UUID, groups: list[str] | None, remote: bool | None) -> list[int]:
    arguments: dict[str, Any] = {
        "token": token,
        "lease": lease(),
        "groups": groups,
        "remote": remote,
        "remote_groups": remote_groups(),
        "limit": 1 if remote else STREAMS_PER_CLAIM,
    }
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, arguments)
        return [row[0] for row in cursor.fetchall()]


def _let_go(stream_ids: list[int], token: UUID) -> None:
    """Leave what was claimed and not worked on to whoever comes next, before its lease would end."""
    held = OutboxStream.objects.filter(pk__in=stream_ids, lease_token=token)
    held.update(lease_token=None, lease_until=None)


def _work(stream_id: int, token: UUID, report: DrainReport, deadline: float) -> None:
    """Deliver what one leased stream holds, as far as time goes, then give the lease back."""
    stream = OutboxStream.objects.get(pk=stream_id)
    events = list(
        OutboxEvent.objects.filter(
            aggregate_type=stream.aggregate_type, aggregate_id=stream.aggregate_id, sequence__gt=stream.cursor
        ).order_by("aggregate_type", "aggregate_id", "sequence")[:EVENTS_PER_STREAM]
    )
    try:
        for event in events:
            if time.monotonic() >= deadline:
                break
            event.group = stream.group
            handler = handler_of(event.type, stream.group)
            with bound(event_id=str(event.event_id), actor=f"system:{stream.group}"):
                try:
                    _deliver(event, handler, stream_id, token)
                except LeaseLost:
                    raise
                except SoftTimeLimitExceeded as error:  # the worker's, not the handler's fault: time is up
                    _record_failure(event, error, stream_id, token, report)
                    raise
                except Exception as error:  # the relay's edge: what a handler raises is kept, not lost
                    _record_failure(event, error, stream_id, token, report)
                    return
            report.handled += bool(handler)
        _give_back(stream_id, token)
    finally:
        publish_settled(aggregate=(stream.aggregate_type, stream.aggregate_id))


def _deliver(event: OutboxEvent, handler: Handler | None, stream_id: int, token: UUID) -> None:
    if handler and handler.remote:
        _renew(stream_id, token)
        handler.effect(event)
        crash_point("outbox.after_remote_effect")
    with transaction.atomic():
        if handler and not handler.remote:
            handler.effect(event)
            crash_point("outbox.before_local_commit")
        moved = OutboxStream.objects.filter(pk=stream_id, lease_token=token).update(
            cursor=event.sequence, attempts=0, last_error="", last_tried_at=timezone.now()
        )
        if not moved:
            raise LeaseLost
    crash_point("outbox.after_commit")


def publish_settled(*, aggregate: tuple[str, str] | None = None) -> int:
    """Set `published_at` on events that every subscribed group has dealt with; return how many.

    Runs after the cursors have committed. A crash in between leaves events unmarked: the tick
    calls this without an aggregate and finds them by the partial index.
    """
    type_, id_ = aggregate or (None, None)
    with connection.cursor() as cursor:
        cursor.execute(_PUBLISH, {"type": type_, "id": id_, "subscriptions": subscriptions()})
        return cursor.rowcount


def _renew(stream_id: int, token: UUID) -> None:
    held = OutboxStream.objects.filter(pk=stream_id, lease_token=token)
    if not held.update(lease_until=timezone.now() + lease()):
        raise LeaseLost


def _locked(stream_id: int, token: UUID) -> OutboxStream:
    stream = OutboxStream.objects.select_for_update(no_key=True).get(pk=stream_id)
    if stream.lease_token != token:
        raise LeaseLost
    return stream


def _give_back(stream_id: int, token: UUID) -> None:
    """End the lease. Lock first, then look for newer events in a second statement: an append that
    waits for this lock would otherwise find its wake-up cleared."""
    with transaction.atomic():
        stream = _locked(stream_id, token)
        more = OutboxEvent.objects.filter(
            aggregate_type=stream.aggregate_type, aggregate_id=stream.aggregate_id, sequence__gt=stream.cursor
        ).exists()
        stream.due_at = timezone.now() if more else None
        stream.lease_token = stream.lease_until = None
        stream.save(update_fields=["due_at", "lease_token", "lease_until"])


def _record_failure(
    event: OutboxEvent, error: Exception, stream_id: int, token: UUID, report: DrainReport
) -> None:
    interrupted = isinstance(error, OperationalError | SoftTimeLimitExceeded)
    retryable = interrupted or (isinstance(error, CommerceError) and error.retryable)
    if isinstance(error, OperationalError):
        close_old_connections()
    with transaction.atomic():
        stream = _locked(stream_id, token)
        stream.attempts += 1
        stream.last_error = redact(f"{type(error).__name__}: {error}")
        stream.last_tried_at = timezone.now()
        stream.lease_token = stream.lease_until = None
        if retryable and stream.attempts < ATTEMPTS_BEFORE_PARKING:
            stream.due_at = timezone.now() + backoff(stream.attempts)
            report.retried += 1
        else:
            stream.due_at, stream.parked_at = None, timezone.now()
            stream.parked_reason = f"{event.type} #{event.sequence}: {stream.last_error}"
            report.parked += 1
        stream.save()
    log.log(
        logging.WARNING if stream.due_at else logging.ERROR,
        "event %s",
        "will be retried" if stream.due_at else "parked its stream",
        extra={"type": event.type, "stream": stream_id, "attempts": stream.attempts},
        exc_info=None if retryable else error,
    )


def lease() -> timedelta:
    """How long a stream is held; longer than a task may run, and so than any one effect."""
    return timedelta(seconds=settings.OUTBOX_LEASE_SECONDS)


def backoff(attempt: int) -> timedelta:
    """Full jitter: anywhere between nothing and min(2^attempt seconds, an hour)."""
    return timedelta(seconds=random.uniform(0, min(2.0**attempt, LONGEST_DELAY)))  # noqa: S311
