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
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from celery.exceptions import SoftTimeLimitExceeded
from django.db import InterfaceError, InternalError, OperationalError, close_old_connections, transaction
from django.db.models.functions import Now
from django.utils import timezone

from commerce.crash import crash_point
from commerce.errors import CommerceError, ProviderError
from commerce.logs import bound, redact
from commerce.outbox import breaker, catalog, claims, registry, timings
from commerce.outbox.breaker import Admission, Way, listening
from commerce.outbox.claims import Claimed, LeaseLost, WorkerLost
from commerce.outbox.models import OutboxEvent, OutboxFailure, OutboxStream
from commerce.outbox.registry import BATCH, LOCAL, handler_of, receivers_of
from commerce.outbox.stopping import stopping

Effect = Callable[[Any], None]

log = logging.getLogger(__name__)

STREAMS_PER_CLAIM = {LOCAL: 20, BATCH: 1000}
ATTEMPTS_BEFORE_PARKING = 12
LONGEST_DELAY = 3600.0
LONGEST_ERROR = 4000
# As after this many attempts waits a stream whose failure could not be written down.
UNRECORDED = 6
# The server's or the connection's fault, not the handler's.
DATABASE_ERRORS = (OperationalError, InternalError, InterfaceError)


@dataclass
class DrainReport:
    """What one drain did."""

    handled: int = 0
    retried: int = 0
    parked: int = 0


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
    sizes = dict(STREAMS_PER_CLAIM)
    waiting = registry.lanes() if lanes is None else list(lanes)
    try:
        while waiting and report.handled < limit and not _is_over(deadline):
            waiting = [lane for lane in waiting if _drain_once(lane, groups, sizes, report, deadline)]
    finally:
        timings.flush()
    return report


def _drain_once(
    lane: str, groups: list[str] | None, sizes: dict[str, int], report: DrainReport, deadline: float
) -> bool:
    """Claim once and work on it; whether there was anything to claim."""
    admission = Admission() if lane in STREAMS_PER_CLAIM else breaker.admit(lane, lease=claims.lease())
    if admission.way is Way.CLOSED:
        return False
    token = uuid4()
    streams: list[Claimed] = []
    try:
        streams = claims.claim(token=token, lane=lane, limit=sizes.get(lane, 1), groups=groups)
        _work_on(_of_this_lane(streams, token), lane, sizes, token, report, deadline, admission.way)
    finally:
        if streams:
            claims.let_go([stream for stream in streams if not stream.finished], token)
            claims.publish(streams)
        if admission.way is Way.PROBE:
            breaker.unspent(lane, until=admission.until)
    return bool(streams)


def _of_this_lane(streams: list[Claimed], token: UUID) -> list[Claimed]:
    """How an effect runs is for the code to say, not for a row that an older release has written."""
    lanes = registry.group_lanes()
    elsewhere = [stream for stream in streams if lanes.get(stream.group, stream.lane) != stream.lane]
    claims.change_lanes(elsewhere, token, lanes)
    return [stream for stream in streams if not stream.finished]


def _work_on(
    streams: list[Claimed],
    lane: str,
    sizes: dict[str, int],
    token: UUID,
    report: DrainReport,
    deadline: float,
    way: Way,
) -> None:
    if not streams:
        return
    claims.read(streams)
    alone = streams
    if lane == BATCH:
        sizes[lane] = _next_size(streams)
        # What has failed before would fail the others with it.
        alone = [stream for stream in streams if stream.attempts]
        alone += _together([stream for stream in streams if not stream.attempts], token, report)
    _one_by_one(alone, token, report, deadline, probe=way is Way.PROBE)


def _next_size(streams: list[Claimed]) -> int:
    """As many streams as one read can serve: those it has nothing for are claimed for nothing."""
    served = sum(bool(stream.events) for stream in streams)
    wanted = served if served < len(streams) else 2 * served
    return min(max(wanted, STREAMS_PER_CLAIM[LOCAL]), STREAMS_PER_CLAIM[BATCH])


def _is_over(deadline: float) -> bool:
    return stopping() or time.monotonic() >= deadline


def _together(streams: list[Claimed], token: UUID, report: DrainReport) -> list[Claimed]:
    """Everything in one transaction, or nothing of it: then each half by itself. Returns who has to go alone.

    Rows that somebody else has locked are not waited for: who holds one may wait for another of ours.
    """
    if not streams:
        return []
    calls: list[tuple[list[OutboxEvent], float]] = []
    try:
        with transaction.atomic():
            for effect, events in _waves(streams):
                started = time.perf_counter()
                effect(events)
                calls.append((events, time.perf_counter() - started))
            crash_point("outbox.before_batch_commit")
            claims.hold(streams, token, wait=False)
            claims.finish(streams)
            sole = [event for stream in streams for event in stream.events if _is_sole(event)]
            claims.publish_sole(sole)
    except SoftTimeLimitExceeded as error:  # time is up for all of them: next time each goes alone
        said = f"{_said(error)} in a batch of {len(streams)} streams"
        claims.cut_off(streams, token, error=said, for_=backoff(1))
        report.retried += len(streams)
        raise
    except DATABASE_ERRORS:
        close_old_connections()
        return streams
    except Exception as error:  # a handler's, or a lost lease: whose it is, the halves find out
        log.info("a batch goes in halves: %s", _said(error), extra={"streams": len(streams)})
        if len(streams) == 1:
            return streams
        half = len(streams) // 2
        return _together(streams[:half], token, report) + _together(streams[half:], token, report)
    for events, seconds in calls:
        timings.observe(events, seconds)
        report.handled += len(events)
    for stream in streams:
        stream.reached, stream.finished = stream.last, True
    for event in sole:
        event.published_at = timezone.now()
    return []


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
    return receivers_of(event) == [event.group]


def _one_by_one(
    streams: list[Claimed], token: UUID, report: DrainReport, deadline: float, *, probe: bool
) -> None:
    """That what went wrong in one stream cannot even be recorded is no other stream's trouble.

    Those that have failed come last, the worst at the end: who dies of one has done the others.
    """
    for stream in sorted(streams, key=lambda stream: stream.attempts):
        if _is_over(deadline):
            return
        try:
            _work(stream, token, report, deadline, probe=probe)
        except LeaseLost:
            log.warning("lease lost", extra={"stream": stream.id})
        except (SoftTimeLimitExceeded, *DATABASE_ERRORS):
            raise
        except Exception:  # the edge of a stream, as the worker's is the edge of its task
            log.exception("a failure could not be recorded", extra={"stream": stream.id})
            claims.let_go([stream], token, for_=backoff(UNRECORDED))
            stream.finished = True


def _work(stream: Claimed, token: UUID, report: DrainReport, deadline: float, *, probe: bool) -> None:
    """Deliver what one leased stream holds, as far as time goes."""
    remote = stream.lane not in STREAMS_PER_CLAIM
    for event in stream.events:
        if _is_over(deadline) or (remote and breaker.is_paused(stream.lane)):
            return
        handled = False
        with _bound(event, stream.group), listening() as line:
            try:
                handled = _deliver(stream, event, token)
            except LeaseLost:
                raise
            except SoftTimeLimitExceeded as error:  # the worker's, not the handler's fault: time is up
                _record_failure(stream, event, error, token, report, heard=line.heard, probe=probe)
                raise
            except Exception as error:  # the relay's edge: what a handler raises is kept, not lost
                _record_failure(stream, event, error, token, report, heard=line.heard, probe=probe)
                return
        report.handled += handled
        if line.heard:
            breaker.answered(stream.lane)
            probe = False
    if not stream.finished:
        with transaction.atomic():
            claims.hold([stream], token)
            claims.finish([stream])
        stream.finished = True


def _bound(event: OutboxEvent, group: str) -> AbstractContextManager[None]:
    """What is logged and appended while a group handles an event names the event and its request."""
    request_id = event.headers.get("request_id", "")
    return bound(event_id=str(event.event_id), request_id=request_id, actor=f"system:{group}")


def _deliver(stream: Claimed, event: OutboxEvent, token: UUID) -> bool:
    """One effect, if there is one, and its cursor; with the last event that was read the lease ends too."""
    handler = handler_of(event, stream.group)
    remote = handler and stream.lane not in STREAMS_PER_CLAIM
    if handler and stream.attempts >= ATTEMPTS_BEFORE_PARKING:
        raise WorkerLost
    if handler and (remote or stream.attempts):
        claims.renew(stream, token)
    if handler and remote:
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
    stream.reached, stream.finished, stream.attempts = event.sequence, last, 0
    return handler is not None


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
    if isinstance(error, DATABASE_ERRORS):
        close_old_connections()
    interrupted = isinstance(error, (SoftTimeLimitExceeded, *DATABASE_ERRORS))
    retryable = interrupted or (isinstance(error, CommerceError) and error.retryable)
    said = _said(error)
    outage = retryable and isinstance(error, ProviderError) and not heard
    excused = outage and breaker.failed(stream.lane, stream=stream.id, error=said, probe=probe)
    if heard:
        breaker.answered(stream.lane)
    with transaction.atomic():
        row = OutboxStream.objects.select_for_update(no_key=True).get(pk=stream.id)
        if row.lease_token != token:
            raise LeaseLost
        row.attempts = min(stream.attempts + (not excused), ATTEMPTS_BEFORE_PARKING)
        again = retryable and row.attempts < ATTEMPTS_BEFORE_PARKING
        row.last_error, row.last_tried_at, row.lease_token = said, timezone.now(), None
        row.due_at = Now() + backoff(row.attempts) if again else None
        if not again:
            row.parked_at = row.last_tried_at
            row.parked_reason = f"{event.type} #{event.sequence}: {said}"
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
    report.retried += again
    report.parked += not again
    log.log(
        logging.WARNING if again else logging.ERROR,
        "event %s",
        "will be retried" if again else "parked its stream",
        extra={"type": event.type, "stream": stream.id, "attempts": row.attempts},
        exc_info=None if retryable else error,
    )


def _said(error: Exception) -> str:
    """An error in words that a database takes: a provider may say anything, at any length."""
    said = f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
    return redact(said)[:LONGEST_ERROR]


def backoff(attempt: int) -> timedelta:
    """Full jitter: anywhere between nothing and min(2^attempt seconds, an hour)."""
    return timedelta(seconds=random.uniform(0, min(2.0**attempt, LONGEST_DELAY)))  # noqa: S311
