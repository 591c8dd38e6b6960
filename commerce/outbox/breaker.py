"""A circuit breaker per provider: when it does not answer, one probe asks and everything else waits.

It opens after `FAILURES` failures in a row, when the last says that nobody is there or lets us in, or when
they are on `STREAMS` streams: what a provider cannot bear of one or two is their trouble, and they are
parked like any other. While it is open nothing counts as an attempt, so that such an outage parks nothing.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, TypeVar

from django.db import connection

from commerce.outbox.models import Circuit

Item = TypeVar("Item")

FAILURES = 5
STREAMS = 3
SHORTEST_PAUSE, LONGEST_PAUSE = 5.0, 300.0

_ADMIT = """
WITH probe AS (
  UPDATE outbox_circuit SET open_until = now() + %(lease)s
  WHERE lane = %(lane)s AND paused_at IS NULL AND open_until <= now() AND NOT EXISTS (
    SELECT FROM outbox_outboxstream WHERE lane = %(lane)s AND due_at <= now() + %(before)s::interval)
  RETURNING open_until
)
SELECT CASE WHEN EXISTS (SELECT FROM probe) THEN 'probe'
            WHEN c.paused_at IS NOT NULL OR c.open_until IS NOT NULL THEN 'closed' ELSE 'free' END,
       (SELECT open_until FROM probe)
FROM outbox_circuit c WHERE c.lane = %(lane)s
"""
_ANSWERED = """
UPDATE outbox_circuit
SET failures = 0, streams = '{}', trips = 0, opened_at = NULL, open_until = NULL, last_error = ''
WHERE lane = %(lane)s AND (failures > 0 OR open_until IS NOT NULL)
"""
_UNSPENT = """
UPDATE outbox_circuit SET open_until = now()
WHERE lane = %(lane)s AND open_until = COALESCE(%(until)s::timestamptz, open_until)
"""
# Between half and all of the pause: workers of several machines do not ask in step.
_FAILED = """
INSERT INTO outbox_circuit AS c (lane, failures, streams, trips, last_error, paused_reason)
VALUES (%(lane)s, 1, ARRAY[%(stream)s::bigint], 0, %(error)s, '')
ON CONFLICT (lane) DO UPDATE SET (failures, streams, last_error, trips, opened_at, open_until) = (
  SELECT failures, streams, %(error)s,
         CASE WHEN opens THEN c.trips + 1 ELSE c.trips END,
         CASE WHEN opens THEN COALESCE(c.opened_at, now()) ELSE c.opened_at END,
         CASE WHEN opens THEN now() + make_interval(secs =>
             LEAST(%(shortest)s * 2 ^ LEAST(c.trips, 16), %(longest)s) * (0.5 + random() / 2))
              ELSE c.open_until END
  FROM (
    SELECT *, %(probe)s OR (c.opened_at IS NULL AND failures >= %(failures)s
                            AND (%(missed)s OR cardinality(streams) >= %(streams)s)) AS opens
    FROM (
      SELECT c.failures + 1 AS failures,
             CASE WHEN %(stream)s = ANY (c.streams) OR cardinality(c.streams) >= %(streams)s THEN c.streams
                  ELSE c.streams || %(stream)s::bigint END AS streams
    ) counted
  ) judged
)
RETURNING opened_at IS NOT NULL
"""


class Way(Enum):
    """What may be sent to a lane now."""

    FREE = "free"
    PROBE = "probe"
    CLOSED = "closed"


@dataclass(frozen=True)
class Admission:
    """`until` is when somebody else gets the probe, if this one is never heard of again."""

    way: Way = Way.FREE
    until: datetime | None = None


def admit(lane: str, *, lease: timedelta, before: timedelta | None = None) -> Admission:
    """Whether to go on, to send one request to see, or to leave the lane alone. One caller gets the probe.

    With `before`, nobody does while a stream of the lane is due by then: what it sends says more.
    """
    arguments: dict[str, Any] = {"lane": lane, "lease": lease, "before": before}
    with connection.cursor() as cursor:
        cursor.execute(_ADMIT, arguments)
        row = cursor.fetchone()
    return Admission(Way(row[0]), row[1]) if row else Admission()


def is_paused(lane: str) -> bool:
    """Whether a person has stopped the lane, perhaps a moment ago."""
    return Circuit.objects.filter(lane=lane, paused_at__isnull=False).exists()


@contextmanager
def asking(lane: str) -> Iterator["Line | None"]:
    """A poller's question to a provider, or None: it is not to be asked now.

    In a lane that has nothing to send nobody else would ask whether an open circuit can close. A poller
    that finds nobody there keeps the probe for the longest pause; one that did not get to ask gives it back.
    """
    pause = timedelta(seconds=LONGEST_PAUSE)
    admission = admit(lane, lease=pause, before=pause)
    with listening() as line:
        try:
            yield None if admission.way is Way.CLOSED else line
        finally:
            if admission.way is Way.PROBE and line.heard:
                answered(lane)
            elif admission.way is Way.PROBE and not line.missed:
                unspent(lane, until=admission.until)


def while_open(lane: str, items: Iterable[Item]) -> Iterator[Item]:
    """What a poller asks a provider about: nothing more once its line is shut, or nobody was there."""
    for item in items:
        with asking(lane) as line:
            if line is None:
                return
            yield item
        if line.missed:
            return


def answered(lane: str) -> None:
    """The provider said something: the circuit closes, and what waits goes on."""
    with connection.cursor() as cursor:
        cursor.execute(_ANSWERED, {"lane": lane})


def unspent(lane: str, *, until: datetime | None = None) -> None:
    """Nobody has asked: the next may at once. With `until`, unless the probe has changed the circuit."""
    with connection.cursor() as cursor:
        cursor.execute(_UNSPENT, {"lane": lane, "until": until})


def failed(lane: str, *, stream: int, error: str, probe: bool) -> bool:
    """The provider did not answer what was listened to; return whether its circuit is open now."""
    line = _line.get()
    arguments: dict[str, Any] = {
        "lane": lane,
        "stream": stream,
        "error": error,
        "probe": probe,
        "missed": line is not None and line.missed,
        "failures": FAILURES,
        "streams": STREAMS,
        "shortest": SHORTEST_PAUSE,
        "longest": LONGEST_PAUSE,
    }
    with connection.cursor() as cursor:
        cursor.execute(_FAILED, arguments)
        return bool(cursor.fetchone()[0])


@dataclass
class Line:
    """The last word while it was listened to: an answer, or that nobody was there or let us in.

    Whose look is answered and whose order then is not let in, has not been heard.
    """

    heard: bool = False
    missed: bool = False


_line: ContextVar[Line | None] = ContextVar("line", default=None)


@contextmanager
def listening() -> Iterator[Line]:
    """Note each `hear()` and `miss()` meanwhile: an effect may fail, or do nothing, answered or not."""
    token = _line.set(line := Line())
    try:
        yield line
    finally:
        _line.reset(token)


def hear() -> None:
    """What a provider's client calls for every answer that shows that the provider works."""
    if line := _line.get():
        line.heard, line.missed = True, False


def miss() -> None:
    """What it calls when nobody is there, or lets us in: whatever else were sent would fare no better."""
    if line := _line.get():
        line.heard, line.missed = False, True
