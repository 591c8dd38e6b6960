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
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from celery.exceptions import SoftTimeLimitExceeded
from django.db import OperationalError, close_old_connections, transaction
from django.utils import timezone

from commerce.crash import crash_point
from commerce.errors import CommerceError, ProviderError
from commerce.logs import bound, redact
from commerce.outbox import breaker, catalog, claims, registry, timings
from commerce.outbox.breaker import Way, listening
from commerce.outbox.claims import Claimed, LeaseLost
from commerce.outbox.models import OutboxEvent, OutboxFailure, OutboxStream
from commerce.outbox.registry import BATCH, LOCAL, Handler, handler_of
from commerce.outbox.stopping import stopping

Effect = Callable[[Any], None]

log = logging.getLogger(__name__)

STREAMS_PER_CLAIM = {LOCAL: 20, BATCH: 1000}
ATTEMPTS_BEFORE_PARKING = 12
LONGEST_DELAY = 3600.0


@dataclass
class DrainReport:
    """What one drain did."""

    handled: int = 0
    retried: int = 0
    parked: int = 0
    streams: set[int] = field(default_factory=set)


def drain(
    *,
    lanes: list[str] | None = None,
    groups: list[str] | None = None,
    limit: int = 10_000,
    seconds: float = 300,
) -> DrainReport:
    """Deliver due events until none is left, about `limit` were handled, `seconds` have passed, or the
    process is told to end.

    A provider's streams are claimed one at a time: while one waits for an answer, the next is not
    held back with it.
    """
    report = DrainReport()
    deadline = time.monotonic() + seconds
    waiting = registry.lanes() if lanes is None else list(lanes)
    try:
        while waiting and report.handled < limit and not _is_over(deadline):
            waiting = [lane for lane in waiting if _drain_once(lane, groups, report, deadline)]
    finally:
        timings.flush()
    return report


def _drain_once(lane: str, groups: list[str] | None, report: DrainReport, deadline: float) -> bool:
    """Claim once and work on it; whether there was anything to claim."""
    way = Way.FREE if lane in STREAMS_PER_CLAIM else breaker.admit(lane, lease=claims.lease())
    if way is Way.CLOSED:
        return False
    token = uuid4()
    streams = claims.claim(token=token, lane=lane, limit=STREAMS_PER_CLAIM.get(lane, 1), groups=groups)
    if not streams:
        if way is Way.PROBE:
            breaker.unspent(lane)
        return False
    try:
        claims.read(streams)
        report.streams.update(stream.id for stream in streams)
        if lane != BATCH or not _together(streams, token, report):
            _one_by_one(streams, token, report, deadline, probe=way is Way.PROBE)
    finally:
        claims.let_go([stream for stream in streams if not stream.finished], token)
        claims.publish(streams)
    return True


def _is_over(deadline: float) -> bool:
    return stopping() or time.monotonic() >= deadline


def _together(streams: list[Claimed], token: UUID, report: DrainReport) -> bool:
    """Everything claimed in one transaction, or nothing of it: then each stream has to go by itself.

    Rows that somebody else has locked are not waited for: who holds one may wait for another of ours.
    """
    handled = 0
    try:
        with transaction.atomic():
            for effect, events in _waves(streams):
                started = time.perf_counter()
                effect(events)
                timings.observe(events, time.perf_counter() - started)
                handled += len(events)
            crash_point("outbox.before_batch_commit")
            claims.hold(streams, token, wait=False)
            claims.finish(streams)
            sole = [event for stream in streams for event in stream.events if _is_sole(event)]
            claims.publish_sole(sole)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:  # a handler's, a deadlock, a lost lease: each stream finds out by itself
        if isinstance(error, OperationalError):
            close_old_connections()
        said = redact(f"{type(error).__name__}: {error}")
        log.info("a batch goes one by one: %s", said, extra={"streams": len(streams)})
        return False
    for stream in streams:
        stream.reached, stream.finished = stream.last, True
    for event in sole:
        event.published_at = timezone.now()
    report.handled += handled
    return True


def _waves(streams: list[Claimed]) -> Iterator[tuple[Effect, list[OutboxEvent]]]:
    """Calls of batch handlers, each with the next events of every stream that are for the same one."""
    queues = [deque(stream.events) for stream in streams]
    while queues := [queue for queue in queues if queue]:
        wave: dict[Effect, list[OutboxEvent]] = defaultdict(list)
        for queue in queues:
            handler = handler_of(queue[0], queue[0].group)
            while queue and handler_of(queue[0], queue[0].group) == handler:
                event = queue.popleft()
                if handler:
                    wave[handler.effect].append(catalog.current(event))
        yield from wave.items()


def _is_sole(event: OutboxEvent) -> bool:
    """Whether the group that it is delivered to is the only one that gets it."""
    return [g for g in registry.groups_of(event.type) if handler_of(event, g)] == [event.group]


def _one_by_one(
    streams: list[Claimed], token: UUID, report: DrainReport, deadline: float, *, probe: bool
) -> None:
    for stream in streams:
        if _is_over(deadline):
            return
        try:
            _work(stream, token, report, deadline, probe=probe)
        except LeaseLost:
            log.warning("lease lost", extra={"stream": stream.id})


def _work(stream: Claimed, token: UUID, report: DrainReport, deadline: float, *, probe: bool) -> None:
    """Deliver what one leased stream holds, as far as time goes."""
    for event in stream.events:
        if _is_over(deadline):
            return
        handler = handler_of(event, stream.group)
        with bound(event_id=str(event.event_id), actor=f"system:{stream.group}"), listening() as line:
            try:
                _deliver(stream, event, handler, token)
            except LeaseLost:
                raise
            except SoftTimeLimitExceeded as error:  # the worker's, not the handler's fault: time is up
                _record_failure(stream, event, error, token, report, heard=line.heard, probe=probe)
                raise
            except Exception as error:  # the relay's edge: what a handler raises is kept, not lost
                _record_failure(stream, event, error, token, report, heard=line.heard, probe=probe)
                return
        report.handled += bool(handler)
        if line.heard:
            breaker.answered(stream.lane)
            probe = False
    if not stream.finished:
        with transaction.atomic():
            claims.hold([stream], token)
            claims.finish([stream])
        stream.finished = True
    if probe:
        breaker.unspent(stream.lane)


def _deliver(stream: Claimed, event: OutboxEvent, handler: Handler | None, token: UUID) -> None:
    """One effect and its cursor; with the last event that was read the lease ends as well."""
    remote = handler and stream.lane not in STREAMS_PER_CLAIM
    if handler and remote:
        claims.renew(stream, token)
        with timings.timed(event):
            handler.effect(catalog.current(event))
        crash_point("outbox.after_remote_effect")
    last = event is stream.events[-1]
    with transaction.atomic():
        if handler and not remote:
            with timings.timed(event):
                current = catalog.current(event)
                handler.effect([current] if stream.lane == BATCH else current)
            crash_point("outbox.before_local_commit")
        if last:
            claims.hold([stream], token)
            claims.finish([stream])
        else:
            claims.advance(stream, event.sequence, token)
    crash_point("outbox.after_commit")
    stream.reached, stream.finished = event.sequence, last


def _record_failure(
    stream: Claimed,
    event: OutboxEvent,
    error: Exception,
    token: UUID,
    report: DrainReport,
    *,
    heard: bool,
    probe: bool,
) -> None:
    if isinstance(error, OperationalError):
        close_old_connections()
    interrupted = isinstance(error, OperationalError | SoftTimeLimitExceeded)
    retryable = interrupted or (isinstance(error, CommerceError) and error.retryable)
    said = redact(f"{type(error).__name__}: {error}")
    outage = retryable and isinstance(error, ProviderError) and not heard
    excused = outage and breaker.failed(stream.lane, stream=stream.id, error=said, probe=probe)
    if heard:
        breaker.answered(stream.lane)
    with transaction.atomic():
        row = OutboxStream.objects.select_for_update(no_key=True).get(pk=stream.id)
        if row.lease_token != token:
            raise LeaseLost
        row.attempts += not excused
        row.last_error, row.last_tried_at, row.lease_token = said, timezone.now(), None
        if retryable and row.attempts < ATTEMPTS_BEFORE_PARKING:
            row.due_at = timezone.now() + backoff(row.attempts)
            report.retried += 1
        else:
            row.due_at, row.parked_at = None, timezone.now()
            row.parked_reason = f"{event.type} #{event.sequence}: {said}"
            report.parked += 1
        row.save()
        OutboxFailure.objects.create(
            stream_id=stream.id,
            event_id=event.event_id,
            type=event.type,
            group=stream.group,
            attempt=row.attempts,
            error=said,
            retryable=retryable,
            failed_at=row.last_tried_at,
        )
    stream.finished = True
    log.log(
        logging.WARNING if row.due_at else logging.ERROR,
        "event %s",
        "will be retried" if row.due_at else "parked its stream",
        extra={"type": event.type, "stream": stream.id, "attempts": row.attempts},
        exc_info=None if retryable else error,
    )


def backoff(attempt: int) -> timedelta:
    """Full jitter: anywhere between nothing and min(2^attempt seconds, an hour)."""
    return timedelta(seconds=random.uniform(0, min(2.0**attempt, LONGEST_DELAY)))  # noqa: S311
