"""The monthly tables that the entries are made of: how one table becomes them, and which there are.

Made and taken apart by the owner of the tables, while others post. A lock that postings would wait
for is asked for briefly and asked for again, so that nobody queues behind a request that waits.
"""

import time
from dataclasses import dataclass
from datetime import date, timedelta

from django.db import OperationalError, connection, transaction
from psycopg import sql
from psycopg.errors import LockNotAvailable

from commerce.errors import Busy, InvalidInput
from commerce.roles import owners_session
from ledger.rules.months import after, midnight

ENTRIES = "ledger_ledgerentry"
BRIEFLY = timedelta(milliseconds=100)
PATIENCE = timedelta(minutes=5)
PAUSE = 0.2
_PARTS = """
SELECT c.relname, CASE WHEN i.inhrelid IS NULL THEN 'detached' WHEN i.inhdetachpending THEN 'detaching'
                       ELSE 'attached' END
  FROM pg_class c
  LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'ledger_ledgerentry'::regclass
 WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
   AND c.relname ~ '^ledger_ledgerentry_(until_)?[0-9]{6}$'
"""


@dataclass(frozen=True)
class Part:
    """A table of entries recorded before `ends`, from `begins` on or from the first ever.

    `state` is attached, detaching (interrupted) or detached.
    """

    name: str
    state: str
    begins: date | None
    ends: date


def parts() -> list[Part]:
    """In the order of time, with those that are no longer part of the entries."""
    with connection.cursor() as cursor:
        cursor.execute(_PARTS)
        return sorted((_part(*row) for row in cursor.fetchall()), key=lambda part: part.ends)


def is_partitioned() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT relkind = 'p' FROM pg_class WHERE oid = 'ledger_ledgerentry'::regclass")
        return bool(cursor.fetchone()[0])


def this_month() -> date:
    """By the clock of the database, by which entries are recorded."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT date_trunc('month', now() AT TIME ZONE 'UTC')::date")
        (month,) = cursor.fetchone()
    return month


def partition_entries(*, ends: date, patience: timedelta = PATIENCE) -> timedelta | None:
    """Make the table of entries the first partition, of all that is recorded before `ends`, a month to come.

    Answers how long postings could not begin; None when they were partitions already. Reads the table
    once before, while others post. Busy when the short locks were not to be had.
    """
    if is_partitioned():
        return None
    if ends.day != 1 or ends <= this_month():
        raise InvalidInput(
            f"The first partition ends with a month to come, not on {ends}.",
            pointer="/ends",
            code="invalid_month",
        )
    with owners_session(ENTRIES):
        bound = sql.Literal(midnight(ends))
        add = "ALTER TABLE {0} ADD CONSTRAINT entry_recorded_before CHECK (recorded_at < {1}) NOT VALID"
        drop = "ALTER TABLE {0} DROP CONSTRAINT IF EXISTS entry_recorded_before"
        _briefly([sql.SQL(text).format(sql.Identifier(ENTRIES), bound) for text in (drop, add)], patience)
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {ENTRIES} VALIDATE CONSTRAINT entry_recorded_before")
        return _briefly([sql.SQL("SELECT ledger_partition_entries({})").format(bound)], patience)


def _briefly(statements: list[sql.Composed], patience: timedelta) -> timedelta:
    """One transaction whose locks are waited for no longer than `BRIEFLY` at a time; how long it took."""
    give_up = time.monotonic() + patience.total_seconds()
    while True:
        began = time.monotonic()
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = '{int(BRIEFLY.total_seconds() * 1000)}ms'")
                for statement in statements:
                    cursor.execute(statement)
            return timedelta(seconds=time.monotonic() - began)
        except OperationalError as error:
            if not isinstance(error.__cause__, LockNotAvailable):
                raise
            if time.monotonic() >= give_up:
                raise Busy(f"Others have held the entries for {patience}; nothing was changed.") from error
        time.sleep(PAUSE)


def _part(name: str, state: str) -> Part:
    month = date(int(name[-6:-2]), int(name[-2:]), 1)
    if "_until_" in name:
        return Part(name, state, None, month)
    return Part(name, state, month, after(month))
