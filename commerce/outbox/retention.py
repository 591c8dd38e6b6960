"""Which months of the outbox may leave, and their files: one JSON object per line, proved by hashes.

A month may leave when it is over, everything in it is published, no stream has anything of it to do,
and nobody objects. The same rows give the same bytes, so a file can be compared at any time.
"""

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Max, Min, Q
from django.utils import timezone
from psycopg import sql

from commerce.errors import Conflict, InvalidInput, NotFound
from commerce.ids import made_at
from commerce.outbox.models import OutboxArchive, OutboxEvent, OutboxStream
from commerce.outbox.partitions import EVENTS, FAILURES, KEYS, after, midnight, months

MANIFEST = "outbox-manifest.jsonl"
# A transaction records with the instant of its beginning; none lasts this long.
LONGEST_TRANSACTION = timedelta(days=1)
_ROWS = "COPY (SELECT to_jsonb(r)::text FROM {} r WHERE {} >= {} AND {} < {} ORDER BY id) TO STDOUT"
# So that the same rows are the same bytes in every session.
_SETTINGS = "SET LOCAL statement_timeout = 0; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'"

Veto = Callable[[date], str]
_vetoes: list[Veto] = []


@dataclass(frozen=True)
class Written:
    """A line of the manifest. Hashes are of the files' content before compression."""

    month: str
    events: int
    first_id: int | None
    last_id: int | None
    events_file: str
    events_sha256: str
    failures: int
    failures_file: str
    failures_sha256: str


@dataclass(frozen=True)
class Candidate:
    """A month that is there; `why_not` is "" when it may be written to a file and leave."""

    month: date
    written: bool
    why_not: str


def register_veto(veto: Veto) -> Veto:
    """Have a function asked before a month leaves: it answers "", or why the month must stay."""
    if veto not in _vetoes:
        _vetoes.append(veto)
    return veto


def horizon() -> datetime | None:
    """The instant before which no event is present, or None when none has left."""
    return OutboxArchive.objects.order_by("-id").values_list("horizon", flat=True).first()


def archived_month(event_id: UUID) -> date | None:
    """The month that holds an event which is not present any more; None when it should be present."""
    made, begins = made_at(event_id), horizon()
    if made is None or begins is None or made >= begins:
        return None
    return made.date().replace(day=1)


def recorded_near(*event_ids: UUID) -> Q:
    """These events, and when they can have been recorded, so that other months need not be searched."""
    made = [made_at(event_id) for event_id in event_ids]
    known = [instant for instant in made if instant]
    found = Q(event_id__in=event_ids)
    if not known or len(known) < len(made):
        return found
    first, last = min(known) - LONGEST_TRANSACTION, max(known) + LONGEST_TRANSACTION
    return found & Q(recorded_at__gte=first, recorded_at__lte=last)


def find_event(event_id: UUID) -> OutboxEvent:
    """NotFound names the month that it left with, if it did."""
    event = OutboxEvent.objects.filter(recorded_near(event_id)).first()
    if event is None:
        month = archived_month(event_id)
        where = f": {month:%B %Y} is archived" if month else ""
        raise NotFound(f"There is no event {event_id}{where}.")
    return event


def candidates(*, folder: Path) -> Iterator[Candidate]:
    """The months that are there and over, the oldest first, and what stands against each."""
    written = read_manifest(folder)
    for month in months():
        if midnight(after(month)) <= timezone.now():
            yield Candidate(month, f"{month:%Y-%m}" in written, why_not(month))


def why_not(month: date) -> str:
    """ "" or why a month of the outbox has to stay."""
    start, end = midnight(month), midnight(after(month))
    if month not in months():
        begins = horizon()
        return (
            f"{month:%B %Y} has left already." if begins and start < begins else f"{month:%B %Y} is not here."
        )
    if timezone.now() < end + LONGEST_TRANSACTION:
        return f"{month:%B %Y} is not over, or has been for less than a day."
    event = OutboxEvent.objects.filter(
        recorded_at__gte=start, recorded_at__lt=end, published_at__isnull=True
    ).first()
    if event:
        return f"{event} (id {event.pk}) is not published."
    stream = OutboxStream.objects.filter(
        Q(due_at__isnull=False) | Q(parked_at__isnull=False), pending_since__lt=end
    ).first()
    if stream:
        return f"Stream {stream.pk}, {stream}, has something to do since {stream.pending_since:%Y-%m-%d}."
    return next((reason for veto in _vetoes if (reason := veto(month))), "")


def archive_month(*, month: date, folder: Path) -> Written:
    """Write a month's events and failures, and a line of the manifest; anew if it was written before.

    Conflict when something in it is still to be done; nothing is written then.
    """
    _require_final(month)
    folder.mkdir(parents=True, exist_ok=True)
    files = {table: f"{name}-{month:%Y-%m}.jsonl.gz" for table, name in _NAMES.items()}
    counted = {table: _write(table, month, folder / file) for table, file in files.items()}
    ids = OutboxEvent.objects.filter(
        recorded_at__gte=midnight(month), recorded_at__lt=midnight(after(month))
    ).aggregate(first=Min("id"), last=Max("id"))
    line = Written(
        f"{month:%Y-%m}", counted[EVENTS][0], ids["first"], ids["last"], files[EVENTS], counted[EVENTS][1],
        counted[FAILURES][0], files[FAILURES], counted[FAILURES][1],
    )  # fmt: skip
    with (folder / MANIFEST).open("a") as manifest:
        manifest.write(json.dumps(asdict(line)) + "\n")
        _keep(manifest)
    return line


def prove_archived(*, month: date, folder: Path) -> Written:
    """The line of a month whose files are whole and are what the outbox has; written first if it was not."""
    line = read_manifest(folder).get(f"{month:%Y-%m}")
    if line is None:
        return archive_month(month=month, folder=folder)
    _require_final(month)
    for file, detail in _differences(line, folder):
        raise Conflict(f"{file}: {detail}", code="archive_differs")
    return line


def compare_archive(*, folder: Path) -> Iterator[tuple[str, str]]:
    """(file, what is wrong) for each file that is not what its manifest says, or not what the outbox says."""
    lines = read_manifest(folder)
    if not lines:
        yield MANIFEST, f"{folder} has none that names a month: nothing could be compared."
    for line in lines.values():
        yield from _differences(line, folder)
    for row in OutboxArchive.objects.order_by("month", "-pk").distinct("month"):
        if row.step == OutboxArchive.Step.REMOVED and f"{row.month:%Y-%m}" not in lines:
            yield f"{row.month:%Y-%m}", "The month was removed, and the manifest does not name it."


def read_manifest(folder: Path) -> dict[str, Written]:
    """What a folder says it holds, by month; what was written last counts. InvalidInput for nonsense."""
    path = folder / MANIFEST
    try:
        lines = path.read_text().splitlines() if path.exists() else []
        return {line.month: line for line in (Written(**json.loads(text)) for text in lines)}
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{path} is no manifest: {error}", code="invalid_manifest") from None


def hash_of(path: Path) -> str:
    """SHA-256 of what a file says, uncompressed; "" when it cannot be read to its end."""
    content = hashlib.sha256()
    try:
        with gzip.open(path) as file:
            while piece := file.read(1 << 20):
                content.update(piece)
    except (OSError, EOFError):
        return ""
    return content.hexdigest()


def digest(table: str, month: date, *, of: str = "", to: gzip.GzipFile | None = None) -> tuple[int, str]:
    """How many rows a month has, and the hash of their lines; written to a file on the way, if there is one.

    `of` is the table to read, if not the whole one.
    """
    content, rows = hashlib.sha256(), 0
    for line in _lines(table, month, of or table):
        content.update(line)
        rows += 1
        if to is not None:
            to.write(line)
    return rows, content.hexdigest()


_NAMES = {EVENTS: "events", FAILURES: "failures"}


def _require_final(month: date) -> None:
    if reason := why_not(month):
        raise Conflict(reason, code="month_not_final")


def _differences(line: Written, folder: Path) -> Iterator[tuple[str, str]]:
    month = date.fromisoformat(f"{line.month}-01")
    row = OutboxArchive.objects.filter(month=month).order_by("pk").last()
    gone = row if row and row.step == OutboxArchive.Step.REMOVED else None
    for table, file, sha256, removed in (
        (EVENTS, line.events_file, line.events_sha256, gone and gone.events_sha256),
        (FAILURES, line.failures_file, line.failures_sha256, gone and gone.failures_sha256),
    ):
        if hash_of(folder / file) != sha256:
            yield file, "It is gone, or not what was written."
        if gone and removed != sha256:
            yield file, "It is not what the month was removed for."
        elif not gone and digest(table, month)[1] != sha256:
            yield file, "The outbox has other rows than were written."


def _write(table: str, month: date, path: Path) -> tuple[int, str]:
    """Rows and hash of what was written; the file is there as a whole or not at all."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as raw:
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
                found = digest(table, month, to=packed)
            _keep(raw)
        partial.rename(path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
    return found


def _lines(table: str, month: date, of: str) -> Iterator[bytes]:
    key = sql.Identifier(KEYS[table])
    bounds = sql.Literal(midnight(month)), sql.Literal(midnight(after(month)))
    query = sql.SQL(_ROWS).format(sql.Identifier(of), key, bounds[0], key, bounds[1])
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_SETTINGS)
        with cursor.copy(query) as copy:
            for (text,) in copy.rows():
                yield text.encode() + b"\n"


def _keep(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
