"""What an operator may do to the relay: look, retry, park, resume, pause a provider, give up one event.

History is never rewound. Whatever somebody does here is in the transition log: who, why, when, and what
it changed. Giving up one event needs two people and is in `commerce.console.outbox_skip`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Case, Model, Q, QuerySet, When
from django.utils import timezone

from commerce.actor import Actor
from commerce.errors import Conflict, InvalidInput, NotFound, StateConflict
from commerce.models import TransitionLog
from commerce.outbox import breaker, registry
from commerce.outbox.claims import IS_FOR, WAITS_SINCE, lease
from commerce.outbox.events import nudge
from commerce.outbox.models import Circuit, OutboxEvent, OutboxStream
from commerce.outbox.traces import condition

PERMISSION = "outbox.operate_outboxstream"
MAY_APPROVE_SKIP = "outbox.approve_skip"

# Those of one aggregate as an append locks them.
_LOCKED_BY = ("aggregate_type", "aggregate_id", "group")
# Due by the clock that claims go by, and from the events themselves: what woke it, and when, may be what was
# lost. A stream that was parked while it was idle has nothing due.
_WAKE = f"""
UPDATE outbox_outboxstream s
SET parked_at = NULL, parked_reason = '', attempts = 0, pending_since = waiting.since,
    due_at = CASE WHEN waiting.since IS NOT NULL THEN now() END
FROM (
  SELECT s.id, (
    SELECT min(e.recorded_at) FROM outbox_outboxevent e
    WHERE e.aggregate_type = s.aggregate_type AND e.aggregate_id = s.aggregate_id
      AND e.sequence > s.cursor AND {IS_FOR}) AS since
  FROM outbox_outboxstream s WHERE s.id = ANY (%(ids)s) OFFSET 0
) waiting WHERE s.id = waiting.id RETURNING s.id, s.due_at
"""  # noqa: S608 - a constant

# The lanes that have something, one look into the index each; of each what is due, in hand and waiting, all
# counted by themselves. What is in hand is due within a lease: no later one is looked at for it.
_MOVING = f"""
WITH RECURSIVE lanes (lane) AS (
  (SELECT lane FROM outbox_outboxstream WHERE due_at IS NOT NULL ORDER BY lane LIMIT 1)
  UNION ALL
  SELECT (SELECT s.lane FROM outbox_outboxstream s WHERE s.due_at IS NOT NULL AND s.lane > lanes.lane
          ORDER BY s.lane LIMIT 1) FROM lanes WHERE lanes.lane IS NOT NULL
)
SELECT lanes.lane, count(*) FILTER (WHERE state = 'due'), count(*) FILTER (WHERE state = 'working'),
       count(*) FILTER (WHERE state = 'waiting'),
       GREATEST(0, EXTRACT(epoch FROM now() - min({WAITS_SINCE}) FILTER (WHERE state <> 'waiting')))
FROM lanes CROSS JOIN LATERAL (
  (SELECT *, 'due' AS state FROM outbox_outboxstream
   WHERE lane = lanes.lane AND due_at <= now() ORDER BY due_at LIMIT %(most)s)
  UNION ALL
  (SELECT *, 'working' FROM outbox_outboxstream WHERE lane = lanes.lane AND due_at > now()
   AND due_at <= now() + %(lease)s AND lease_token IS NOT NULL ORDER BY due_at LIMIT %(most)s)
  UNION ALL
  (SELECT *, 'waiting' FROM outbox_outboxstream
   WHERE lane = lanes.lane AND due_at > now() AND lease_token IS NULL ORDER BY due_at LIMIT %(most)s)
) moving GROUP BY lanes.lane
"""  # noqa: S608 - a constant
PARKED = """
WITH RECURSIVE lanes (lane) AS (
  (SELECT lane FROM outbox_outboxstream WHERE parked_at IS NOT NULL ORDER BY lane LIMIT 1)
  UNION ALL
  SELECT (SELECT s.lane FROM outbox_outboxstream s WHERE s.parked_at IS NOT NULL AND s.lane > lanes.lane
          ORDER BY s.lane LIMIT 1) FROM lanes WHERE lanes.lane IS NOT NULL
)
SELECT lanes.lane, parked.count FROM lanes CROSS JOIN LATERAL (
  SELECT count(*) FROM (
    SELECT FROM outbox_outboxstream WHERE lane = lanes.lane AND parked_at IS NOT NULL LIMIT %(most)s
  ) first
) parked WHERE lanes.lane IS NOT NULL
"""


@dataclass(frozen=True)
class Lane:
    """Depth and age of what one worker kind drains, in streams and seconds, and whether its line is open.

    `oldest_due_seconds`: of what is due or in hand, since when the longest waits for something to be tried.
    """

    lane: str
    due: int
    working: int
    waiting: int
    parked: int
    oldest_due_seconds: float
    circuit: str


@dataclass(frozen=True)
class Status:
    """Depth and age of the relay, in events, streams and seconds."""

    due: int
    waiting: int
    parked: int
    unpublished: int
    oldest_due_seconds: float
    lanes: list[Lane]


def status(*, most: int | None = None) -> Status:
    """How far behind the relay is. Reads partial indexes only.

    With `most` nothing of a lane is counted any further, so that a longer queue is no slower to look at.
    """
    arguments: dict[str, Any] = {"most": most, "lease": lease()}
    with connection.cursor() as cursor:
        cursor.execute(_MOVING, arguments)
        moving = {lane: figures for lane, *figures in cursor.fetchall()}
        cursor.execute(PARKED, arguments)
        parked = dict(cursor.fetchall())
    circuits = {circuit.lane: circuit for circuit in Circuit.objects.all()}
    lanes = []
    for lane in sorted({*registry.lanes(), *moving, *parked}):
        due, working, waiting, age = moving.get(lane, (0, 0, 0, 0))
        line = line_of(circuits.get(lane))
        lanes.append(Lane(lane, due, working, waiting, parked.get(lane, 0), float(age), line))
    return Status(
        due=sum(lane.due for lane in lanes),
        waiting=sum(lane.waiting for lane in lanes),
        parked=sum(lane.parked for lane in lanes),
        unpublished=OutboxEvent.objects.filter(published_at__isnull=True)[:most].count(),
        oldest_due_seconds=max((lane.oldest_due_seconds for lane in lanes), default=0.0),
        lanes=lanes,
    )


def line_of(circuit: Circuit | None) -> str:
    """ "paused" by a person, "open" while a provider does not answer, else "closed" as it should be."""
    if circuit and circuit.paused_at:
        return "paused"
    return "open" if circuit and circuit.opened_at else "closed"


def parked_streams(*, group: str = "", type: str = "", error: str = "") -> QuerySet[OutboxStream]:
    """Streams that a person must look at, by subscriber, event they stand at, words of the error."""
    found = OutboxStream.objects.filter(parked_at__isnull=False)
    if group:
        found = found.filter(group=group)
    if type:
        found = found.filter(parked_reason__startswith=f"{type} #")
    return found.filter(parked_reason__contains=error) if error else found


def parked_like(stream: OutboxStream) -> QuerySet[OutboxStream]:
    """The streams of its group that are parked for the very same error; not those that a person parked."""
    if not stream.parked_at or not stream.last_error:
        return OutboxStream.objects.none()
    same = parked_streams(group=stream.group).filter(last_error=stream.last_error)
    return same.filter(parked_reason__endswith=stream.last_error)


def waiting_events(stream: OutboxStream) -> QuerySet[OutboxEvent]:
    """What its group has still to be given, in order. The bound keeps old partitions out of the search."""
    heard = ~Q(headers__has_key="for") & Q(type__in=registry.types_of(stream.group))
    found = OutboxEvent.objects.filter(
        heard | Q(headers__for__contains=stream.group),
        aggregate_type=stream.aggregate_type,
        aggregate_id=stream.aggregate_id,
        sequence__gt=stream.cursor,
    )
    if stream.pending_since:
        found = found.filter(recorded_at__gte=stream.pending_since)
    return found.order_by("sequence")


def blocking_event(stream: OutboxStream) -> OutboxEvent | None:
    """The event a stream stands at: the first after its cursor that its group handles."""
    return waiting_events(stream).first()


@transaction.atomic
def retry_stream(*, stream: OutboxStream, actor: Actor, at: datetime, reason: str = "") -> OutboxStream:
    """Make a stream due now, its back-off forgotten."""
    row = locked(stream, actor)
    if why := why_not_retry(row):
        raise StateConflict(why)
    before, row.lease_token = condition(row), None
    return go_on(row, "retry", before, actor=actor, at=at, reason=reason)


def why_not_retry(stream: OutboxStream) -> str:
    if stream.parked_at:
        return "The stream is parked: resume it instead."
    if stream.due_at is None:
        return "Nothing waits in this stream."
    if stream.lease_token and stream.due_at > timezone.now():
        return "A worker holds the stream now; it is due again when its lease ends."
    return ""


@transaction.atomic
def park_stream(*, stream: OutboxStream, actor: Actor, at: datetime, reason: str) -> OutboxStream:
    """Stop delivering a stream until somebody resumes it. Its events stay where they are."""
    row = locked(stream, actor)
    if why := why_not_park(row):
        raise StateConflict(why)
    _require_reason(reason)
    before = condition(row)
    row.parked_at, row.parked_reason, row.due_at = timezone.now(), f"{actor}: {reason}", None
    row.lease_token = None
    row.save()
    _change(row, "park", before, "parked", actor=actor, at=at, reason=reason).save()
    return row


def why_not_park(stream: OutboxStream) -> str:
    """What it is parked for must not be lost under a second reason."""
    return f"The stream is parked already: {stream.parked_reason}" if stream.parked_at else ""


@transaction.atomic
def resume_stream(*, stream: OutboxStream, actor: Actor, at: datetime, reason: str = "") -> OutboxStream:
    """Deliver a parked stream again, from the event it stopped at."""
    row = locked(stream, actor)
    if not row.parked_at:
        raise StateConflict("The stream is not parked.")
    return go_on(row, "resume", "parked", actor=actor, at=at, reason=reason)


@transaction.atomic
def resume_streams(
    *,
    streams: QuerySet[OutboxStream],
    expected: int,
    actor: Actor,
    at: datetime,
    reason: str,
    most: int | None = None,
    first: OutboxStream | None = None,
) -> int:
    """Let all of these parked streams go on together, or `most` with `first`; returns how many go on.

    Conflict, and none, when they are not as many as seen.
    """
    actor.require(PERMISSION)
    parked = streams.filter(parked_at__isnull=False)
    ahead = [Case(When(pk=first.pk, then=0), default=1)] if first else []
    among = parked.filter(pk__in=parked.order_by(*ahead, *_LOCKED_BY).values("pk")[:most])
    rows = list(among.order_by(*_LOCKED_BY).select_for_update(no_key=True))
    found = parked.count() if len(rows) == most else len(rows)
    if found != expected:
        raise Conflict(
            f"{found} streams match, not {expected}: look again.",
            code="count_changed",
            expected=expected,
            found=found,
        )
    after = _wake(rows)
    TransitionLog.objects.bulk_create(
        (_change(row, "resume", "parked", after[row.pk], actor=actor, at=at, reason=reason) for row in rows),
        batch_size=1000,
    )
    nudge({row.lane for row in rows})
    return len(rows)


def why_not_skip(stream: OutboxStream, event_id: UUID | None = None) -> str:
    """Empty, or why the event that a stream stands at, and that is `event_id`, cannot be skipped."""
    event = blocking_event(stream)
    if event is None:
        return "The stream stands at no event."
    if event_id and event.event_id != event_id:
        return f"The stream went on: it stands at {event.type} #{event.sequence} now."
    return "" if stream.parked_at else "Only a parked stream can go on without its event: park it first."


@transaction.atomic
def pause_lane(*, lane: str, actor: Actor, at: datetime, reason: str) -> Circuit:
    """Send nothing to a provider until somebody lets its line go on. What is under way is finished."""
    actor.require(PERMISSION)
    known = registry.providers()
    if lane not in known:
        raise InvalidInput(
            f"{lane!r} is no provider's line; there are {', '.join(known)}.", pointer="/lane", code="no_line"
        )
    _require_reason(reason)
    row, _ = Circuit.objects.select_for_update().get_or_create(lane=lane)
    if row.paused_at:
        raise StateConflict(f"{lane} is paused already: {row.paused_reason}")
    before = line_of(row)
    row.paused_at, row.paused_reason = timezone.now(), f"{actor}: {reason}"
    row.save(update_fields=["paused_at", "paused_reason"])
    _change(row, "pause", before, "paused", actor=actor, at=at, reason=reason).save()
    return row


@transaction.atomic
def resume_lane(*, lane: str, actor: Actor, at: datetime, reason: str = "") -> Circuit:
    """End a pause. A circuit that had opened meanwhile asks the provider at once."""
    actor.require(PERMISSION)
    row = Circuit.objects.select_for_update().filter(lane=lane, paused_at__isnull=False).first()
    if row is None:
        raise StateConflict(f"{lane} is not paused.")
    row.paused_at, row.paused_reason = None, ""
    row.save(update_fields=["paused_at", "paused_reason"])
    _change(row, "resume", "paused", line_of(row), actor=actor, at=at, reason=reason).save()
    breaker.unspent(lane)
    nudge([lane])
    return row


def streams_by_id(ids: Iterable[int]) -> list[OutboxStream]:
    """Groups' streams, in the order in which they are locked. NotFound when one of them does not exist."""
    wanted = set(ids)
    found = list(OutboxStream.objects.filter(pk__in=wanted).exclude(group="").order_by(*_LOCKED_BY))
    if missing := wanted - {stream.pk for stream in found}:
        raise NotFound(f"There is no stream {', '.join(map(str, sorted(missing)))}.", pointer="/streams")
    return found


def go_on(
    row: OutboxStream, name: str, before: str, *, actor: Actor, at: datetime, reason: str
) -> OutboxStream:
    """Make a locked stream due, and note who did what to it and why."""
    row.save()
    _change(row, name, before, _wake([row])[row.pk], actor=actor, at=at, reason=reason).save()
    row.refresh_from_db()
    nudge([row.lane])
    return row


def locked(stream: OutboxStream, actor: Actor, permission: str = PERMISSION) -> OutboxStream:
    actor.require(permission)
    return OutboxStream.objects.select_for_update().get(pk=stream.pk)


def _wake(rows: list[OutboxStream]) -> dict[int, str]:
    """Second of two statements, after the locks; how each row is then."""
    arguments: dict[str, Any] = {"ids": [row.pk for row in rows], "subscriptions": registry.subscriptions()}
    with connection.cursor() as cursor:
        cursor.execute(_WAKE, arguments)
        return {id_: "due" if due_at else "idle" for id_, due_at in cursor.fetchall()}


def _change(
    row: Model, name: str, before: str, after: str, *, actor: Actor, at: datetime, reason: str
) -> TransitionLog:
    return TransitionLog(
        model=row._meta.label_lower,
        object_id=str(row.pk),
        field="condition",
        name=name,
        source=before,
        target=after,
        actor=str(actor),
        reason=reason,
        request_id=actor.request_id,
        at=at,
    )


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise InvalidInput("Say why.", pointer="/reason", code="required")
