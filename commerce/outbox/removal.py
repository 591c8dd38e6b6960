"""Months that leave the outbox for their files, and come back, oldest out first and newest back first.

A month leaves in one transaction, with the line that says so; what is left is then always everything
since one instant. Cursors and heads stay: they count the events, and whoever appends goes on from them.
"""

import gzip
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from django.db import connection, transaction
from psycopg import sql

from commerce.actor import Actor
from commerce.errors import Conflict
from commerce.outbox.models import OutboxArchive
from commerce.outbox.partitions import EVENTS, FAILURES, PATIENCE, after, briefly, midnight, months, part_of
from commerce.outbox.retention import (
    MANIFEST,
    Written,
    digest,
    hash_of,
    horizon,
    prove_archived,
    read_manifest,
)
from commerce.roles import owners_session

_LOAD = "INSERT INTO {0} SELECT (jsonb_populate_record(NULL::{0}, line::jsonb)).* FROM pg_temp.archived"


def remove_month(
    *, month: date, folder: Path, actor: Actor, at: datetime, patience: timedelta = PATIENCE
) -> OutboxArchive:
    """Take the oldest month out of the database, after its files were proved.

    Conflict says what has to stay. To be called by the owner of the tables, outside a transaction.
    """
    with owners_session(EVENTS):
        line = prove_archived(month=month, folder=folder)
        oldest = months()[0]
        if month != oldest:
            raise Conflict(f"{oldest:%B %Y} leaves first: --month {oldest:%Y-%m}.", code="month_not_next")

        def remove(cursor: Any) -> OutboxArchive:
            for table, counted in ((EVENTS, line.events), (FAILURES, line.failures)):
                part = part_of(table, month)
                cursor.execute(f"ALTER TABLE {table} DETACH PARTITION {part}")
                cursor.execute(f"SELECT count(*) FROM {part}")  # noqa: S608 - our own name
                if cursor.fetchone()[0] != counted:
                    raise Conflict(f"{month:%B %Y} has more than was written.", code="archive_differs")
                cursor.execute(f"DROP TABLE {part}")
            return _note(line, OutboxArchive.Step.REMOVED, midnight(after(month)), actor, at)

        return briefly(remove, patience)


def restore_month(
    *, month: date, folder: Path, actor: Actor, at: datetime, patience: timedelta = PATIENCE
) -> OutboxArchive:
    """Bring the month that left last back from its files, whole or not at all.

    Conflict when another one left later, or when a file is not what the month left as.
    """
    begins = horizon()
    if begins != midnight(after(month)):
        raise Conflict(_why_not_restored(month, begins), code="month_not_next")
    line = read_manifest(folder).get(f"{month:%Y-%m}")
    if line is None:
        raise Conflict(f"{folder / MANIFEST} does not name {month:%B %Y}.", code="archive_differs")
    gone = OutboxArchive.objects.filter(month=month).latest("pk")
    with owners_session(EVENTS), transaction.atomic(), connection.cursor() as cursor:
        for table, file, sha256 in (
            (EVENTS, line.events_file, gone.events_sha256),
            (FAILURES, line.failures_file, gone.failures_sha256),
        ):
            if hash_of(folder / file) != sha256:
                raise Conflict(f"{folder / file} is not what {month:%B %Y} left as.", code="archive_differs")
            part = part_of(table, month)
            cursor.execute(f"CREATE TABLE {part} (LIKE {table}_default INCLUDING ALL)")
            _load(cursor, part, folder / file)
            if digest(table, month, of=part)[1] != sha256:
                raise Conflict(f"{file} does not give back the rows it was made of.", code="archive_differs")

        def attach(cursor: Any) -> None:
            for table in (EVENTS, FAILURES):
                cursor.execute(
                    "SELECT outbox_attach_partition(%s::regclass, %s, %s)",
                    [table, part_of(table, month), month],
                )

        briefly(attach, patience)
        return _note(line, OutboxArchive.Step.RESTORED, midnight(month), actor, at)


def _load(cursor: Any, part: str, path: Path) -> None:
    cursor.execute("CREATE TEMP TABLE archived (line text) ON COMMIT DROP")
    with (
        gzip.open(path, "rt", encoding="utf-8", newline="\n") as file,
        cursor.copy("COPY pg_temp.archived FROM STDIN") as copy,
    ):
        for line in file:
            copy.write_row((line.removesuffix("\n"),))
    cursor.execute(sql.SQL(_LOAD).format(sql.Identifier(part)))
    cursor.execute("DROP TABLE pg_temp.archived")


def _note(line: Written, step: str, begins: datetime, actor: Actor, at: datetime) -> OutboxArchive:
    return OutboxArchive.objects.create(
        month=date.fromisoformat(f"{line.month}-01"),
        step=step,
        horizon=begins,
        events=line.events,
        first_id=line.first_id,
        last_id=line.last_id,
        events_sha256=line.events_sha256,
        failures=line.failures,
        failures_sha256=line.failures_sha256,
        noted_at=at,
        actor=str(actor),
    )


def _why_not_restored(month: date, begins: datetime | None) -> str:
    if begins is None or begins <= midnight(month):
        return f"{month:%B %Y} has not left, or is back already."
    last = date.fromordinal(begins.astimezone(UTC).date().toordinal() - 1)
    return f"{last:%B %Y} left later and comes back first: --month {last:%Y-%m}."
