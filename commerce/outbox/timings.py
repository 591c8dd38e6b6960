"""How long handlers take and how they end: counted in memory, added to one small table now and then.

The rows are added to in the order of their key, in a statement of its own, so that ten workers who
finish at once wait for each other for no longer than that and never in a circle.
"""

import logging
import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DatabaseError, connection

from commerce.outbox.models import OutboxEvent

log = logging.getLogger(__name__)

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, float("inf"))
FLUSH_SECONDS = 2.0

_ADD = """
INSERT INTO commerce_handlertiming AS t ("group", type, error, up_to, count, seconds)
SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::float[], %s::bigint[], %s::float[])
ON CONFLICT ("group", type, error, up_to) DO UPDATE
  SET count = t.count + EXCLUDED.count, seconds = t.seconds + EXCLUDED.seconds
"""

Bar = tuple[str, str, str, float]

_lock = threading.Lock()
_counts: Counter[Bar] = Counter()
_seconds: defaultdict[Bar, float] = defaultdict(float)
_flushed_at = float("-inf")


@contextmanager
def timed(event: OutboxEvent) -> Iterator[None]:
    """Observe one call, however it ends."""
    started = time.perf_counter()
    error = ""
    try:
        yield
    except Exception as raised:
        error = type(raised).__name__
        raise
    finally:
        observe([event], time.perf_counter() - started, error)


def observe(events: list[OutboxEvent], seconds: float, error: str = "") -> None:
    """Count a call; of one with many events each has its share."""
    share = seconds / len(events)
    bound = BOUNDS[bisect_left(BOUNDS, share)]
    with _lock:
        for (group, type_), count in Counter((event.group, event.type) for event in events).items():
            _counts[group, type_, error, bound] += count
            _seconds[group, type_, error, bound] += share * count


def flush(*, every: float = FLUSH_SECONDS) -> None:
    """Add what was counted to the table, unless that was done a moment ago. Never raises."""
    global _flushed_at
    with _lock:
        if not _counts or time.monotonic() < _flushed_at + every:
            return
        bars = [(*bar, _counts[bar], _seconds[bar]) for bar in sorted(_counts)]
        _counts.clear()
        _seconds.clear()
        _flushed_at = time.monotonic()
    try:
        with connection.cursor() as cursor:
            cursor.execute(_ADD, [list(column) for column in zip(*bars, strict=True)])
    except DatabaseError as error:
        log.warning("%s timings are lost: %s", len(bars), type(error).__name__)
