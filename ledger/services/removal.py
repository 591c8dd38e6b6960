"""Months that leave the database for their files, and come back, oldest out first and newest back first.

That a month has left is written down, with where its stripes stood, before its table goes: reads stop
at that line at once and never take a part for the whole. Then the table is detached, for which no
posting waits, and dropped. A removal that was interrupted goes on where it stood.
"""

import gzip
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from django.db import connection, transaction
from psycopg import sql

from commerce.actor import Actor
from commerce.crash import crash_point
from commerce.errors import Conflict
from commerce.roles import owners_session
from ledger.models import LedgerArchive
from ledger.rules.months import after, midnight
from ledger.services.archive import Archived, hash_of, months_until, prove_archived, require_as_sealed
from ledger.services.horizon import horizon
from ledger.services.partitions import ENTRIES, Part, parts, this_month

_COLUMNS = (
    "account_id, stripe, version, transaction_id, currency, amount, balance_after, effective_at, recorded_at"
)
_CARRY = """
INSERT INTO ledger_ledgercarriedbalance (account_id, stripe, version, balance_after, recorded_at)
SELECT DISTINCT ON (e.account_id, e.stripe) e.account_id, e.stripe, e.version, e.balance_after, e.recorded_at
  FROM ledger_ledgerentry e WHERE e.recorded_at >= %s AND e.recorded_at < %s
 ORDER BY e.account_id, e.stripe, e.recorded_at DESC, e.version DESC
ON CONFLICT DO NOTHING
"""
_COUNTED = """
SELECT count(*), min(e.recorded_at), max(e.recorded_at), (max(e.effective_at) AT TIME ZONE 'UTC')::date,
       (SELECT count(*) FROM ledger_ledgertransaction t
         WHERE t.recorded_at >= %(start)s AND t.recorded_at < %(end)s AND t.status = 'posted')
  FROM ledger_ledgerentry e WHERE e.recorded_at >= %(start)s AND e.recorded_at < %(end)s
"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('ledger_archive'))"


def remove_month(*, month: date, folder: Path, actor: Actor, at: datetime) -> Sequence[LedgerArchive]:
    """Take the oldest partition, whose last month this is, out of the database; answers what has left.

    Each of its months is final, written to `folder` and proved against the seals; Conflict says what
    is not. To be called by the owner of the tables, outside a transaction, and again when interrupted.
    """
    part = _oldest(month)
    with owners_session(ENTRIES):
        begins = horizon()
        if begins is None or begins < midnight(part.ends):
            lines = [prove_archived(month=each, folder=folder) for each in months_until(part.ends)]
            crash_point("ledger.archive_proved")
            _note(lines, part, actor, at)
            crash_point("ledger.archive_noted")
        left = _left(part)
        if part.state == "attached":
            _alter("DETACH PARTITION {} CONCURRENTLY", part)
        elif part.state == "detaching":
            _alter("DETACH PARTITION {} FINALIZE", part)
        crash_point("ledger.archive_detached")
        for row in left:
            if hash_of(folder / row.file) != row.sha256:
                raise Conflict(
                    f"{row.file} is gone from {folder}, or not what was written; the entries of"
                    f" {row.month:%B %Y} are still in {part.name}.",
                    code="archive_differs",
                )
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(part.name)))
    return left


def restore_month(*, month: date, path: Path, actor: Actor, at: datetime) -> LedgerArchive:
    """Bring the month that left last back from its file, whole or not at all.

    Conflict when it is not the one that left last, its removal has not ended, or the file is not what
    it left as. Afterwards its rows are again what the seals say.
    """
    if horizon() != midnight(after(month)):
        raise Conflict(_why_not_restored(month), code="month_not_next")
    if unfinished := [part for part in parts() if part.ends <= after(month)]:
        raise Conflict(
            f"Its removal has not ended: {unfinished[0].name} is {unfinished[0].state}. Remove it again.",
            code="removal_unfinished",
        )
    gone = LedgerArchive.objects.filter(month=month).latest("pk")
    if hash_of(path) != gone.sha256:
        raise Conflict(f"{path} is not what {month:%B %Y} left as.", code="archive_differs")
    with owners_session(ENTRIES), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_LOCK)
        part = Part(f"ledger_ledgerentry_{month:%Y%m}", "detached", month, after(month))
        name, start, end = (
            sql.Identifier(part.name),
            *map(sql.Literal, (midnight(month), midnight(part.ends))),
        )
        cursor.execute(sql.SQL("CREATE TABLE {} (LIKE ledger_ledgerentry INCLUDING ALL)").format(name))
        _load(part, path)
        # Checked here, so that attaching need not read the rows again.
        cursor.execute(
            sql.SQL(
                "ALTER TABLE {0} ADD CONSTRAINT of_month CHECK (recorded_at >= {1} AND recorded_at < {2});"
                "ALTER TABLE ledger_ledgerentry ATTACH PARTITION {0} FOR VALUES FROM ({1}) TO ({2});"
                "ALTER TABLE {0} DROP CONSTRAINT of_month, ENABLE ALWAYS TRIGGER guard_append_only"
            ).format(name, start, end)
        )
        crash_point("ledger.archive_attached")
        row = _again(gone, actor, at)
        require_as_sealed(month)
    return row


def _oldest(month: date) -> Part:
    """The table that ends with this month, which is the oldest there is. Conflict if there is none such."""
    found = parts()
    if not any(part.state != "detached" for part in found):
        raise Conflict("The entries are one table: ledger_partition comes first.", code="not_partitioned")
    oldest = found[0]
    if after(month) >= this_month():
        raise Conflict(
            f"{month:%B %Y} stays: what shows the last weeks reads its entries.", code="month_too_recent"
        )
    if oldest.ends == after(month):
        return oldest
    begins = horizon()
    if begins is not None and midnight(month) < begins and oldest.ends > after(month):
        raise Conflict(f"{month:%B %Y} has left already.", code="month_has_left")
    last = date.fromordinal(oldest.ends.toordinal() - 1)
    whole = " with everything before it" if oldest.begins is None else ""
    raise Conflict(f"{last:%B %Y} leaves first{whole}: --month {last:%Y-%m}.", code="month_not_next")


def _note(lines: Iterable[Archived], part: Part, actor: Actor, at: datetime) -> None:
    """Write down what leaves; from the end of this transaction on it counts as gone."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_LOCK)
        for line in lines:
            month = date.fromisoformat(f"{line.month}-01")
            bounds = {"start": midnight(month), "end": midnight(after(month))}
            cursor.execute(_CARRY, list(bounds.values()))
            cursor.execute(_COUNTED, bounds)
            entries, first, last, last_day, transactions = cursor.fetchone()
            LedgerArchive.objects.create(
                month=month,
                step=LedgerArchive.Step.REMOVED,
                horizon=bounds["end"],
                file=line.file,
                sha256=line.sha256,
                entries=entries,
                transactions=transactions,
                first_recorded_at=first,
                last_recorded_at=last,
                last_day=last_day,
                noted_at=at,
                actor=str(actor),
            )


def _left(part: Part) -> list[LedgerArchive]:
    """The rows of the months that left with this table."""
    rows = LedgerArchive.objects.filter(month__lt=part.ends).order_by("month", "-pk").distinct("month")
    return [row for row in rows if part.begins is None or row.month >= part.begins]


def _alter(what: str, part: Part) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(f"ALTER TABLE ledger_ledgerentry {what}").format(sql.Identifier(part.name)))


def _why_not_restored(month: date) -> str:
    begins = horizon()
    if begins is None or begins <= midnight(month):
        return f"{month:%B %Y} has not left, or is back already."
    last = date.fromordinal(begins.astimezone(UTC).date().toordinal() - 1)
    return f"{last:%B %Y} left later and comes back first: --month {last:%Y-%m} --restore FILE."


def _load(part: Part, path: Path) -> None:
    load = sql.SQL(f"COPY {{}} ({_COLUMNS}) FROM STDIN (FORMAT csv, HEADER)").format(
        sql.Identifier(part.name)
    )
    with gzip.open(path) as file, connection.cursor() as cursor:
        cursor.execute("SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'")
        with cursor.copy(load) as copy:
            while piece := file.read(1 << 20):
                copy.write(piece)


def _again(gone: LedgerArchive, actor: Actor, at: datetime) -> LedgerArchive:
    facts = (
        "month", "file", "sha256", "entries", "transactions", "first_recorded_at", "last_recorded_at",
        "last_day",
    )  # fmt: skip
    return LedgerArchive.objects.create(
        **{name: getattr(gone, name) for name in facts},
        step=LedgerArchive.Step.RESTORED,
        horizon=midnight(gone.month),
        noted_at=at,
        actor=str(actor),
    )
