"""The relay's statements: claim streams, read what waits in them, move cursors, end leases, publish.

A claim sets a fencing token and moves `due_at` to the end of the lease, so that its cost depends on
neither the backlog nor on what others hold. Only the holder of the token can move a cursor.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models.functions import Now

from commerce.outbox.models import OutboxEvent, OutboxStream
from commerce.outbox.registry import group_lanes, subscriptions

EVENTS_PER_STREAM = 50
EVENTS_PER_CLAIM = 3000
LEFT_AT_ONCE = 10_000


class LeaseLost(Exception):
    """Another worker holds the stream now; whatever was in hand is abandoned."""


class WorkerLost(Exception):
    """A lease that nobody ended."""

    def __init__(self) -> None:
        super().__init__("whoever had it in hand ended, or could not give it back within the lease.")


LOST = f"{WorkerLost.__name__}: {WorkerLost()}"
# Whether an event is for a stream's group: as was written into it, known here or not.
IS_FOR = """COALESCE(e.headers -> 'for' ? s."group",
                (e.type || ' ' || s."group") = ANY (%(subscriptions)s))"""
# Since when a stream that is due, or in somebody's hand, waits to be tried: given back untried, it is no
# younger. One that has failed is late from its next attempt on.
WAITS_SINCE = "CASE WHEN attempts = 0 THEN GREATEST(pending_since, last_tried_at) ELSE due_at END"
# A token that is still there when its lease is over is a dead worker's, or of one that was too slow or found
# the row locked when it gave it back. Which of its streams it died of, a dead one could not say: each of them
# is an attempt behind, and `renew` counts from then on.
# A subquery that locks rows up to a limit could be run more than once by a join; a common table is not.
_CLAIM = """
WITH due AS MATERIALIZED (
  SELECT id FROM outbox_outboxstream
  WHERE due_at <= now() AND lane = %(lane)s AND (%(groups)s::text[] IS NULL OR "group" = ANY (%(groups)s))
  ORDER BY due_at LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE outbox_outboxstream s
SET lease_token = %(token)s, due_at = now() + %(lease)s,
    attempts = CASE WHEN s.lease_token IS NULL THEN s.attempts ELSE GREATEST(s.attempts, 1) END,
    last_error = CASE WHEN s.lease_token IS NULL OR s.attempts > 0 THEN s.last_error ELSE %(lost)s END
WHERE s.id = ANY (ARRAY(SELECT id FROM due))
RETURNING s.id, s.aggregate_type, s.aggregate_id, s."group", s.lane, s.cursor, s.pending_since, now(),
          s.attempts
"""
# `oldest` and `until` are written into the statements, so that other months are not even planned for. Whose
# `pending_since` has sunk below the one, or who is still at work after the other, reads with the next claim.
# `pending_since` as of this statement: since the claim an older transaction may have appended and lowered it.
_READ = """
SELECT e.*, claimed.id AS stream_id, s.pending_since AS since
FROM unnest(%(ids)s::bigint[], %(cursors)s::bigint[]) WITH ORDINALITY claimed (id, cursor, place)
JOIN outbox_outboxstream s
  ON s.id = claimed.id AND s.pending_since >= %(oldest)s AND clock_timestamp() < %(until)s
CROSS JOIN LATERAL (
  SELECT * FROM outbox_outboxevent
  WHERE aggregate_type = s.aggregate_type AND aggregate_id = s.aggregate_id AND recorded_at >= %(oldest)s
    AND recorded_at < %(until)s AND sequence > claimed.cursor AND recorded_at >= s.pending_since
  ORDER BY aggregate_type, aggregate_id, sequence LIMIT %(per_stream)s
) e
ORDER BY claimed.place, e.sequence LIMIT %(limit)s
"""
_ADVANCE = """
UPDATE outbox_outboxstream
SET cursor = %(cursor)s, attempts = 0, last_error = '', last_tried_at = clock_timestamp()
WHERE id = %(id)s AND lease_token = %(token)s
"""
_LOCK = """
SELECT id FROM outbox_outboxstream WHERE id = ANY (%(ids)s) AND lease_token = %(token)s
FOR NO KEY UPDATE {wait}
"""
# Second of two statements, after the lock: in one, an append that waits for it would lose its wake-up.
# OFFSET keeps the look for newer events a single one.
_FINISH = """
UPDATE outbox_outboxstream s
SET cursor = done.cursor, attempts = 0, last_error = '', last_tried_at = clock_timestamp(),
    lease_token = NULL,
    due_at = CASE WHEN done.more THEN now() END,
    pending_since = CASE WHEN done.more THEN s.pending_since END
FROM (
  SELECT held.id, reached.cursor,
  held.pending_since < %(oldest)s OR clock_timestamp() >= %(until)s OR EXISTS (
    SELECT FROM outbox_outboxevent e
    WHERE e.aggregate_type = held.aggregate_type AND e.aggregate_id = held.aggregate_id
      AND e.sequence > reached.cursor AND e.recorded_at >= held.pending_since
      AND e.recorded_at >= %(oldest)s AND e.recorded_at < %(until)s) AS more
  FROM unnest(%(ids)s::bigint[], %(cursors)s::bigint[]) reached (id, cursor)
  JOIN outbox_outboxstream held ON held.id = reached.id
  OFFSET 0
) done WHERE s.id = done.id AND s.id = ANY (%(ids)s)
"""
_CUT_OFF = """
UPDATE outbox_outboxstream
SET lease_token = NULL, due_at = now() + %(pause)s, attempts = attempts + 1, last_error = %(error)s,
    last_tried_at = clock_timestamp()
WHERE id = ANY (ARRAY(
  SELECT id FROM outbox_outboxstream WHERE id = ANY (%(ids)s) AND lease_token = %(token)s
  FOR NO KEY UPDATE SKIP LOCKED))
"""
_LET_GO = """
UPDATE outbox_outboxstream SET lease_token = NULL, due_at = now() + %(pause)s
WHERE id = ANY (ARRAY(
  SELECT id FROM outbox_outboxstream WHERE id = ANY (%(ids)s) AND lease_token = %(token)s
  FOR NO KEY UPDATE SKIP LOCKED))
"""
# An event with no other group: nobody else's cursor has to be waited for, nor looked at.
_PUBLISH_SOLE = """
UPDATE outbox_outboxevent SET published_at = now()
WHERE id = ANY (%(ids)s) AND recorded_at >= %(oldest)s AND recorded_at <= %(newest)s AND published_at IS NULL
"""
# Rows that another worker is marking are left to it: two that wait for each other would be a deadlock.
_PUBLISH = """
UPDATE outbox_outboxevent e SET published_at = now()
FROM (
  SELECT e.id, e.recorded_at FROM outbox_outboxevent e {handled}
  WHERE e.published_at IS NULL AND NOT EXISTS (
    SELECT FROM outbox_outboxstream s
    WHERE s.aggregate_type = e.aggregate_type AND s.aggregate_id = e.aggregate_id
      AND s.cursor < e.sequence AND {is_for})
  FOR NO KEY UPDATE OF e SKIP LOCKED
) settled WHERE e.id = settled.id AND e.recorded_at = settled.recorded_at {within}
"""
_WITHIN = "AND e.recorded_at >= %(oldest)s AND e.recorded_at <= %(newest)s"
# A part of what is left, from anywhere in it: behind a parked backlog the rest has its turn too.
_PUBLISH_LEFT = _PUBLISH.format(
    within="",
    is_for=IS_FOR,
    handled="""
  JOIN (SELECT id FROM outbox_outboxevent WHERE published_at IS NULL AND id >= (
          SELECT min(id) + floor(random() * GREATEST(max(id) - min(id) - %(part)s, 0))
          FROM outbox_outboxevent WHERE published_at IS NULL)
        ORDER BY id LIMIT %(part)s) part ON part.id = e.id""",
)
_PUBLISH_HANDLED = _PUBLISH.format(
    within=_WITHIN,
    is_for=IS_FOR,
    handled=f"""
  JOIN unnest(%(types)s::text[], %(aggregates)s::text[], %(cursors)s::bigint[], %(reached)s::bigint[],
              %(since)s::timestamptz[]) handled (type, aggregate, cursor, reached, since)
    ON e.aggregate_type = handled.type AND e.aggregate_id = handled.aggregate
   AND e.sequence > handled.cursor AND e.sequence <= handled.reached AND e.recorded_at >= handled.since
   {_WITHIN}""",
)
_ASSIGN = """
UPDATE outbox_outboxstream s SET lane = now_by.lane
FROM unnest(%(groups)s::text[], %(lanes)s::text[]) now_by ("group", lane)
WHERE s."group" = now_by."group" AND s.lane <> now_by.lane
"""


# What was recorded so much before what a claim knew of, or after it, is found without a second claim. A
# clock of the database that was ahead and went back does not hide events: partitions are made for months.
EARLIER, LATER = timedelta(hours=1), timedelta(days=31)


@dataclass
class Claimed:
    """One leased stream and the first events after its cursor."""

    id: int
    aggregate_type: str
    aggregate_id: str
    group: str
    lane: str
    cursor: int
    pending_since: datetime
    claimed_at: datetime
    attempts: int
    events: list[OutboxEvent] = field(default_factory=list)
    reached: int = 0
    finished: bool = False

    def __post_init__(self) -> None:
        self.reached = self.cursor

    @property
    def last(self) -> int:
        """Sequence of the last event read, or where the cursor is."""
        return self.events[-1].sequence if self.events else self.cursor

    @property
    def unpublished(self) -> list[OutboxEvent]:
        """What was handled and is not known to be published."""
        return [e for e in self.events if e.sequence <= self.reached and e.published_at is None]


def claim(*, token: UUID, lane: str, limit: int, groups: list[str] | None = None) -> list[Claimed]:
    """Lease up to `limit` due streams of a lane, the longest due first."""
    arguments: dict[str, Any] = {
        "token": token,
        "lease": lease(),
        "lane": lane,
        "groups": groups,
        "limit": limit,
        "lost": LOST,
    }
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, arguments)
        return [Claimed(*row) for row in cursor.fetchall()]


def read(streams: list[Claimed]) -> None:
    """Fill in each stream's next events, at most `EVENTS_PER_STREAM` each and `EVENTS_PER_CLAIM` in all."""
    arguments = {
        **_columns(streams),
        **_bounds(streams),
        "per_stream": EVENTS_PER_STREAM,
        "limit": EVENTS_PER_CLAIM,
    }
    by_id = {stream.id: stream for stream in streams}
    rows: Any = OutboxEvent.objects.raw(_READ, arguments)
    for event in rows:
        stream = by_id[event.stream_id]
        event.group, stream.pending_since = stream.group, event.since
        stream.events.append(event)


def advance(stream: Claimed, sequence: int, token: UUID) -> None:
    """Move one cursor to an event that was handled. LeaseLost if the stream is no longer ours."""
    with connection.cursor() as cursor:
        cursor.execute(_ADVANCE, {"id": stream.id, "cursor": sequence, "token": token})
        if not cursor.rowcount:
            raise LeaseLost


def hold(streams: list[Claimed], token: UUID, *, wait: bool = True) -> None:
    """Lock the rows until the transaction ends. LeaseLost if one is no longer ours, or, unless we `wait`,
    locked by somebody else."""
    ids = [stream.id for stream in streams]
    with connection.cursor() as cursor:
        cursor.execute(_LOCK.format(wait="" if wait else "SKIP LOCKED"), {"ids": ids, "token": token})
        if cursor.rowcount != len(ids):
            raise LeaseLost


def finish(streams: list[Claimed]) -> None:
    """Move the cursors to the last event read and end the leases of rows that this transaction `hold`s.

    What holds newer events stays due.
    """
    arguments: dict[str, Any] = {
        **_bounds(streams),
        "ids": [stream.id for stream in streams],
        "cursors": [stream.last for stream in streams],
    }
    with connection.cursor() as cursor:
        cursor.execute(_FINISH, arguments)


def renew(stream: Claimed, token: UUID) -> None:
    """By the database's clock, as everything about leases: machines need not agree on the time.

    What has failed before counts its attempt in advance: if its worker dies of it, nobody else could.
    """
    change: dict[str, Any] = {"due_at": Now() + lease()}
    if stream.attempts:
        change |= {"attempts": stream.attempts + 1, "last_error": LOST}
    if not OutboxStream.objects.filter(pk=stream.id, lease_token=token).update(**change):
        raise LeaseLost


def let_go(streams: list[Claimed], token: UUID, *, for_: timedelta = timedelta(0)) -> None:
    """Leave what was claimed and not worked on to whoever comes next, or comes in a while.

    A row that somebody has locked is left until its lease ends: waiting for it could be a deadlock.
    """
    if streams:
        ids = [stream.id for stream in streams]
        arguments: dict[str, Any] = {"ids": ids, "token": token, "pause": for_}
        with connection.cursor() as cursor:
            cursor.execute(_LET_GO, arguments)


def cut_off(streams: list[Claimed], token: UUID, *, error: str, for_: timedelta) -> None:
    """End an attempt of all of them together, of which nobody knows whose fault it was."""
    ids = [stream.id for stream in streams]
    arguments: dict[str, Any] = {"ids": ids, "token": token, "error": error, "pause": for_}
    with connection.cursor() as cursor:
        cursor.execute(_CUT_OFF, arguments)
    for stream in streams:
        stream.finished = True


def change_lanes(streams: list[Claimed], token: UUID, lanes: dict[str, str]) -> None:
    """Let go of what another lane drains by now: a process of an older release has woken it."""
    for stream in streams:
        held = OutboxStream.objects.filter(pk=stream.id, lease_token=token)
        held.update(lease_token=None, due_at=Now(), lane=lanes[stream.group])
        stream.finished = True


def publish_sole(events: list[OutboxEvent]) -> None:
    """Mark events that only one group listens to, in the transaction that moves its cursor past them."""
    if events:
        recorded = [event.recorded_at for event in events]
        ids = [event.id for event in events]
        with connection.cursor() as cursor:
            cursor.execute(_PUBLISH_SOLE, {"ids": ids, "oldest": min(recorded), "newest": max(recorded)})


def publish(streams: list[Claimed]) -> int:
    """Set `published_at` on what was handled here and has no group left to come; return how many.

    Runs after the cursors have committed: of two groups in two transactions neither sees the other's.
    """
    reached = [stream for stream in streams if stream.unpublished]
    if not reached:
        return 0
    recorded = [event.recorded_at for stream in reached for event in stream.unpublished]
    arguments = {
        **_columns(reached),
        "oldest": min(recorded),
        "newest": max(recorded),
        "subscriptions": subscriptions(),
    }
    with connection.cursor() as cursor:
        cursor.execute(_PUBLISH_HANDLED, arguments)
        return cursor.rowcount


def publish_left() -> int:
    """Mark what a crash between a cursor's commit and `publish` has left; looks at ten thousand events."""
    with connection.cursor() as cursor:
        cursor.execute(_PUBLISH_LEFT, {"subscriptions": subscriptions(), "part": LEFT_AT_ONCE})
        return cursor.rowcount


def assign_lanes(**_: Any) -> None:
    """After a deployment: streams of groups that are drained by others now."""
    lanes = group_lanes()
    with connection.cursor() as cursor:
        cursor.execute(_ASSIGN, {"groups": list(lanes), "lanes": list(lanes.values())})


def lease() -> timedelta:
    """How long a stream is held; longer than a task may run, and so than any one effect."""
    return timedelta(seconds=settings.OUTBOX_LEASE_SECONDS)


def _bounds(streams: list[Claimed]) -> dict[str, datetime]:
    return {
        "oldest": min(stream.pending_since for stream in streams) - EARLIER,
        "until": min(stream.claimed_at for stream in streams) + LATER,
    }


def _columns(streams: list[Claimed]) -> dict[str, Any]:
    return {
        "ids": [stream.id for stream in streams],
        "types": [stream.aggregate_type for stream in streams],
        "aggregates": [stream.aggregate_id for stream in streams],
        "cursors": [stream.cursor for stream in streams],
        "reached": [stream.reached for stream in streams],
        "since": [stream.pending_since for stream in streams],
    }
