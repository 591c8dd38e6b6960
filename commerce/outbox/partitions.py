"""The monthly tables of events and failures: made ahead of the calendar, found, and locked briefly.

A lock that appends or the relay would wait for is asked for briefly and asked for again, so that
nobody queues behind a request that waits.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from typing import Any, TypeVar

from django.db import OperationalError, connection, transaction
from django.utils import timezone
from psycopg.errors import LockNotAvailable

from commerce.errors import Busy

EVENTS, FAILURES = "outbox_outboxevent", "outbox_outboxfailure"
KEYS = {EVENTS: "recorded_at", FAILURES: "failed_at"}
MONTHS_AHEAD = 3
PATIENCE = timedelta(minutes=5)
PAUSE = 0.2
_MONTHS = """
SELECT to_date(right(c.relname, 6), 'YYYYMM') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = %s::regclass AND c.relname ~ '_[0-9]{6}$' ORDER BY 1
"""
_THERE = "SELECT to_regprocedure('outbox_make_partitions(date)') IS NOT NULL"

T = TypeVar("T")


def after(month: date) -> date:
    """The first day after the month that a day is in."""
    return (month.replace(day=28) + timedelta(days=4)).replace(day=1)


def midnight(day: date) -> datetime:
    """The instant at which a day begins."""
    return datetime.combine(day, clock_time.min, UTC)


def make_partitions(*, patience: timedelta = timedelta(seconds=10)) -> int:
    """Make the partitions of this month and the next three, as far as they are missing; return how many.

    Those of the past too, from the oldest row in a default partition on; what lies there is moved into them.
    Busy when others hold its lock.
    """
    last = timezone.now().astimezone(UTC).date()
    for _ in range(MONTHS_AHEAD):
        last = after(last)

    def make(cursor: Any) -> int:
        cursor.execute("SELECT outbox_make_partitions(%s)", [last])
        return int(cursor.fetchone()[0])

    return briefly(make, patience)


def after_migrate(*, plan: list[Any] | None = None, **_: Any) -> None:
    """Once per `migrate`; `flush`, which has no plan, takes no partition away."""
    with connection.cursor() as cursor:
        cursor.execute(_THERE)
        there = cursor.fetchone()[0]
    if plan is not None and there:
        make_partitions()


def months(table: str = EVENTS) -> list[date]:
    """The months that have a partition, the oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(_MONTHS, [table])
        return [month for (month,) in cursor.fetchall()]


def part_of(table: str, month: date) -> str:
    return f"{table}_{month:%Y%m}"


def strays() -> Iterator[tuple[str, int, datetime, datetime]]:
    """(table, rows, first, last) of what lies in no month; counted up to ten thousand. Asked of the whole
    table, for the application has no rights on its parts."""
    with connection.cursor() as cursor:
        for table, key in KEYS.items():
            known = months(table)
            begins = [*(str(midnight(month)) for month in known), "infinity"]
            ends = ["-infinity", *(str(midnight(after(month))) for month in known)]
            outside = [(end, start) for end, start in zip(ends, begins, strict=True) if end != start]
            between = " OR ".join([f"{key} >= %s AND {key} < %s"] * len(outside))
            cursor.execute(
                f"""SELECT count(*), min({key}), max({key}) FROM (
                      SELECT {key} FROM {table} WHERE {between} LIMIT 10000
                    ) strays""",  # noqa: S608 - ours
                [instant for pair in outside for instant in pair],
            )
            rows, first, last = cursor.fetchone()
            if rows:
                yield table, rows, first, last


def briefly(work: Callable[[Any], T], patience: timedelta = PATIENCE) -> T:
    """`work` in a transaction of its own whose locks are waited for briefly, until it has them all."""
    give_up = time.monotonic() + patience.total_seconds()
    while True:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '100ms'")
                return work(cursor)
        except OperationalError as error:
            if not isinstance(error.__cause__, LockNotAvailable):
                raise
            if time.monotonic() >= give_up:
                raise Busy(f"Others have held the outbox for {patience}; nothing was changed.") from error
        time.sleep(PAUSE)
