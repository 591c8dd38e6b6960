"""Months of entries as files that are kept elsewhere: proved by the seals, and complete enough to go on from.

A month is written when nothing can change it any more: it is sealed to its end, its business time is
closed, and the sealed rows are what they were. Beside its entries stand the stripes' balances after
it. The same rows give the same bytes, so a file can be compared with the ledger at any time.
"""

import gzip
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, date
from pathlib import Path
from typing import Any

from django.db import connection, transaction

from commerce.errors import Conflict, InvalidInput
from ledger.models import LedgerArchive, LedgerPeriod, LedgerSeal, LedgerTransaction
from ledger.rules.months import after, midnight
from ledger.services.horizon import horizon
from ledger.services.verification import check_seals

MANIFEST = "manifest.jsonl"
_ENTRIES = """
COPY (SELECT account_id, stripe, version, transaction_id, currency, amount, balance_after, effective_at,
             recorded_at
        FROM ledger_ledgerentry WHERE recorded_at >= %(start)s AND recorded_at < %(end)s
       ORDER BY account_id, stripe, version)
  TO STDOUT WITH (FORMAT csv, HEADER)
"""
_BALANCES = """
COPY (SELECT b.account_id, b.stripe, a.currency, e.version, e.balance_after, e.recorded_at
        FROM ledger_ledgerbalance b JOIN ledger_ledgeraccount a ON a.id = b.account_id
       CROSS JOIN LATERAL (
         (SELECT x.version, x.balance_after, x.recorded_at FROM ledger_ledgerentry x
           WHERE x.account_id = b.account_id AND x.stripe = b.stripe AND x.recorded_at < %(end)s
           ORDER BY x.recorded_at DESC, x.version DESC LIMIT 1)
         UNION ALL
         (SELECT x.version, x.balance_after, x.recorded_at FROM ledger_ledgercarriedbalance x
           WHERE x.account_id = b.account_id AND x.stripe = b.stripe AND x.recorded_at < %(end)s
           ORDER BY x.version DESC LIMIT 1)
          ORDER BY version DESC LIMIT 1) e
       ORDER BY b.account_id, b.stripe)
  TO STDOUT WITH (FORMAT csv, HEADER)
"""
# So that the same rows are the same bytes in every session.
_SETTINGS = "SET LOCAL statement_timeout = 0; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'"
_COVERING = """
SELECT min(s.number), max(s.number)
  FROM (SELECT number, until, COALESCE(lag(until) OVER (ORDER BY number), '-infinity') AS since
          FROM ledger_ledgerseal) s
 WHERE s.until >= %(start)s AND s.since < %(end)s
"""
_LAST_DAY = "SELECT max(day) FROM ledger_ledgerday WHERE recorded_day >= %s AND recorded_day < %s"


@dataclass(frozen=True)
class Archived:
    """A line of the manifest. Hashes are of the files' content before compression."""

    month: str
    entries: int
    file: str
    sha256: str
    balances_file: str
    balances_sha256: str
    first_seal: int
    last_seal: int
    last_seal_hash: str


@dataclass(frozen=True)
class Archivable:
    """A month in which something was recorded; `why_not` is "" when it can be written to a file."""

    month: date
    written: bool
    why_not: str


def archivable(*, before: date, folder: Path) -> Iterator[Archivable]:
    """The months of recording before the one of `before`, oldest first, and what stands against each.

    The rows are compared with their seals when a month is written, not here. What has left is written.
    """
    written = {line.month for line in read_manifest(folder)}
    for month in months_until(before.replace(day=1)):
        yield Archivable(month, f"{month:%Y-%m}" in written, _why_not(month))


def months_until(end: date) -> Iterator[date]:
    """The months before `end` of which there are entries to write: from the first that has not left."""
    first = LedgerTransaction.objects.order_by("recorded_at").values_list("recorded_at", flat=True).first()
    if first is None:
        return
    month = max(first, horizon() or first).astimezone(UTC).date().replace(day=1)
    while month < end:
        yield month
        month = after(month)


def archive_month(*, month: date, folder: Path) -> Archived:
    """Write a month's entries and the balances after it, and a line of the manifest that names both.

    Conflict when the month can still change, or when its rows are not what was sealed; nothing is
    written then. A month that was interrupted is written anew.
    """
    if why_not := _why_not(month):
        raise Conflict(why_not, code="month_not_final")
    first, last = require_as_sealed(month)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{month:%Y-%m}.csv.gz"
    entries, sha256 = _write(_ENTRIES, month, folder / f"entries-{name}")
    _, balances_sha256 = _write(_BALANCES, month, folder / f"balances-{name}")
    line = Archived(
        f"{month:%Y-%m}", entries, f"entries-{name}", sha256, f"balances-{name}", balances_sha256,
        first, last, bytes(LedgerSeal.objects.get(number=last).hash).hex(),
    )  # fmt: skip
    with (folder / MANIFEST).open("a") as manifest:
        manifest.write(json.dumps(asdict(line)) + "\n")
        _keep(manifest)
    return line


def open_books(month: date) -> str:
    """ "" or why what happened in a month is still needed: its books, or older ones, are not closed."""
    end = after(month)
    closed = LedgerPeriod.objects.filter(status=LedgerPeriod.Status.CLOSED, ends_on__gte=end)
    before = LedgerPeriod.objects.filter(starts_on__lt=end).exclude(status=LedgerPeriod.Status.CLOSED)
    return "" if closed.exists() and not before.exists() else f"The books of {month:%B %Y} are not closed."


def prove_archived(*, month: date, folder: Path) -> Archived:
    """The line of a month that was written: its files are whole, and are what the ledger has and has sealed.

    A month that was not written yet is written first. Conflict names what differs.
    """
    line = next((line for line in read_manifest(folder) if line.month == f"{month:%Y-%m}"), None)
    if line is None:
        return archive_month(month=month, folder=folder)
    if why_not := _why_not(month):
        raise Conflict(why_not, code="month_not_final")
    require_as_sealed(month)
    for name, detail in _differences(line, folder):
        raise Conflict(f"{name}: {detail}", code="archive_differs")
    return line


def hash_of(path: Path) -> str:
    """SHA-256 of what a file says, uncompressed; "" when it cannot be read to its end."""
    try:
        with gzip.open(path) as file:
            return _digest(iter(lambda: file.read(1 << 20), b""))[1]
    except (OSError, EOFError):
        return ""


def compare_archive(*, folder: Path) -> Iterator[tuple[str, str]]:
    """(file, what is wrong) for each file that is not what its manifest says, or not what the ledger says.

    A folder without a manifest is wrong, and so is one that lacks a month which was removed.
    """
    lines = read_manifest(folder)
    if not lines:
        yield MANIFEST, f"{folder} has none that names a month: nothing could be compared."
    for line in lines:
        yield from _differences(line, folder)
    named = {line.month for line in lines}
    for row in LedgerArchive.objects.order_by("month", "-pk").distinct("month"):
        if row.step == LedgerArchive.Step.REMOVED and f"{row.month:%Y-%m}" not in named:
            yield row.file, "The month was removed for it, and the manifest does not name it."


def _differences(line: Archived, folder: Path) -> Iterator[tuple[str, str]]:
    month = date.fromisoformat(f"{line.month}-01")
    begins = horizon()
    left = begins is not None and midnight(month) < begins
    for name, sha256, sql in (
        (line.file, line.sha256, _ENTRIES),
        (line.balances_file, line.balances_sha256, _BALANCES),
    ):
        if hash_of(folder / name) != sha256:
            yield name, "It is gone, or not what was written."
        if left and sql is _ENTRIES:
            if LedgerArchive.objects.filter(month=month).latest("pk").sha256 != sha256:
                yield name, "It is not what the month was removed for."
        elif _digest(_rows(sql, month))[1] != sha256:
            yield name, "The ledger has other rows than were written."
    seal = LedgerSeal.objects.defer("members").filter(number=line.last_seal).first()
    if seal is None or bytes(seal.hash).hex() != line.last_seal_hash:
        yield line.file, f"Seal {line.last_seal:,} is not the one that covered it."


def require_as_sealed(month: date) -> tuple[int, int]:
    """The seals that cover a month; Conflict when its rows are not what they sealed."""
    first, last = _covering(month)
    if findings := check_seals(first, last):
        raise Conflict(
            f"{month:%B %Y} is not as it was sealed: {findings[0].subject}: {findings[0].detail}",
            code="month_not_as_sealed",
        )
    return first, last


def read_manifest(folder: Path) -> Sequence[Archived]:
    """What a folder says it holds. InvalidInput when it is no manifest."""
    path = folder / MANIFEST
    try:
        text = path.read_text() if path.exists() else ""
        return [Archived(**json.loads(line)) for line in text.splitlines()]
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{path} is no manifest: {error}", code="invalid_manifest") from None


def _why_not(month: date) -> str:
    """ "" or why the entries recorded in a month may still change, or belong to open books."""
    start, end = midnight(month), midnight(after(month))
    sealed = LedgerSeal.objects.order_by("-number").values_list("until", flat=True).first()
    if sealed is None or sealed < end:
        return f"Nothing recorded after {month:%B %Y} is sealed: something may still be recorded in it."
    with connection.cursor() as cursor:
        cursor.execute(_LAST_DAY, [start.date(), end.date()])
        (last_day,) = cursor.fetchone()
    latest = max(last_day or month, month)
    closed = LedgerPeriod.objects.filter(status=LedgerPeriod.Status.CLOSED).order_by("-ends_on").first()
    if closed is None or closed.ends_on <= latest:
        return f"{latest:%B %Y} is not closed, and it has entries that were recorded in {month:%B %Y}."
    return ""


def _covering(month: date) -> tuple[int, int]:
    with connection.cursor() as cursor:
        cursor.execute(_COVERING, _bounds(month))
        first, last = cursor.fetchone()
    return int(first), int(last)


def _write(sql: str, month: date, path: Path) -> tuple[int, str]:
    """Rows and hash of what was written; the file is there as a whole or not at all."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as raw:
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
                found = _digest(_rows(sql, month), packed)
            _keep(raw)
        partial.rename(path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
    return found


def _rows(sql: str, month: date) -> Iterator[bytes]:
    """The lines of a COPY, in pieces; the first is the header."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_SETTINGS)
        with cursor.copy(sql, _bounds(month)) as copy:
            yield from map(bytes, copy)


def _digest(pieces: Iterator[bytes], to: gzip.GzipFile | None = None) -> tuple[int, str]:
    content, lines = hashlib.sha256(), 0
    for piece in pieces:
        content.update(piece)
        lines += piece.count(b"\n")
        if to is not None:
            to.write(piece)
    return lines - 1, content.hexdigest()


def _keep(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _bounds(month: date) -> dict[str, Any]:
    return {"start": midnight(month), "end": midnight(after(month))}
