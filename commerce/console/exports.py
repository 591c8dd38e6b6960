"""Exports: files of what an application registers as a source, made by a worker as jobs.

A source reads inside one read-only snapshot, so that rows and totals belong to one instant whatever
is written meanwhile. A job is held by a lease with a fencing token: when its worker dies, the next
one begins again from the start, and a worker that has lost its lease changes nothing. A file is
written beside its place and moved there when it is whole.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, OperationalError, connection, connections, transaction
from django.utils import timezone
from rest_framework.serializers import BaseSerializer

from commerce import states
from commerce.actor import Actor
from commerce.api.problems import Invalid, field_errors
from commerce.console.export_formats import Column as Column
from commerce.console.export_formats import Row, Totals, Writer, file_writer
from commerce.console.models import Export, ExportFormat
from commerce.crash import crash_point
from commerce.embedded import state_dir
from commerce.errors import CommerceError, Conflict, InvalidInput, NotFound

log = logging.getLogger(__name__)

REQUEST, VIEW = "console.request_export", "console.view_export"
LEASE = timedelta(minutes=2)
MOST_WAITING, MOST_ATTEMPTS = 20, 3
PROGRESS_ROWS = 5000
_CLAIM = """
UPDATE console_export
SET lease_token = %(token)s, lease_until = now() + %(lease)s, attempts = attempts + 1, rows_done = 0
WHERE id = (
  SELECT id FROM console_export due
  WHERE status IN ('requested', 'running') AND (lease_until IS NULL OR lease_until < now())
    AND NOT EXISTS (SELECT 1 FROM console_export held
                    WHERE held.status IN ('requested', 'running') AND held.lease_until >= now())
  ORDER BY id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
RETURNING id
"""
_PROGRESS = """
UPDATE console_export SET rows_done = %(rows)s, rows_total = %(total)s,
       lease_until = now() + %(lease)s + %(rows)s * interval '100 microseconds' -- to pack a workbook
WHERE id = %(id)s AND lease_token = %(token)s AND status = 'running'
"""


@dataclass(frozen=True)
class Selection:
    """Which rows: checked parameters, and the organization whose rows alone may be among them."""

    parameters: Mapping[str, Any]
    organization_id: UUID | None = None


@dataclass(frozen=True)
class Source:
    """Something that can be exported.

    `rows` yields tuples in the order of `columns`, in an order of its own that is always the same,
    and lazily: there may be millions. Cells are text, whole numbers, instants, `Money` or None; the
    first column is a text, and a source with totals has a column `currency`. `query` checks the
    parameters; `check` refuses a selection early, e.g. because its account does not exist. A person
    needs `permission`, an API key also the scope to read the resource `scope`.
    """

    name: str
    label: str
    scope: str
    permission: str
    columns: tuple[Column, ...]
    rows: Callable[[Selection], Iterator[Row]]
    count: Callable[[Selection], int]
    query: type[BaseSerializer]
    check: Callable[[Selection], Any] = lambda selection: None

    def is_open_to(self, actor: Actor) -> bool:
        return actor.has_scope(f"{self.scope}:read") and actor.has_perm(self.permission)

    def require(self, actor: Actor) -> None:
        """PermissionDenied unless the actor may see such rows."""
        actor.require_scope(f"{self.scope}:read")
        actor.require(self.permission)

    def selection(self, parameters: Mapping[str, Any], organization_id: UUID | None = None) -> Selection:
        """The selection that these parameters, as a door got them, stand for; 400 when they are not valid."""
        serializer = self.query(data=dict(parameters))
        if not serializer.is_valid():
            raise Invalid(field_errors(serializer.errors, "/parameters"))
        return Selection(serializer.validated_data, organization_id)


@dataclass(frozen=True)
class Written:
    """What a file holds."""

    rows: int
    totals: Totals


class LeaseLost(Exception):
    """Another worker makes this export now."""


_sources: dict[str, Source] = {}


def register_export(source: Source) -> None:
    """Offer a source at every door; services register theirs when they are imported."""
    _sources[source.name] = source


def sources() -> list[Source]:
    return sorted(_sources.values(), key=lambda source: source.name)


def source_named(name: str) -> Source:
    if name not in _sources:
        raise InvalidInput(f"There is no export {name!r}.", pointer="/source", code="unknown_source")
    return _sources[name]


@contextmanager
def snapshot() -> Iterator[None]:
    """Everything read within is as of one instant, and nothing can be written."""
    outermost = not connection.in_atomic_block
    with transaction.atomic():
        if outermost:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def write(
    source: Source,
    selection: Selection,
    writer: Writer,
    *,
    progress: Callable[[int], None] = lambda rows: None,
) -> Written:
    """Write every row and the totals; tell `progress` the rows written, every few thousand."""
    summed = [(number, column.name) for number, column in enumerate(source.columns) if column.total]
    totals: dict[str, dict[str, int]] = {}
    rows = 0
    for values in source.rows(selection):
        writer.row(values)
        for number, name in summed:
            if (amount := values[number]) is not None:
                sums = totals.setdefault(amount.currency, {name: 0 for _, name in summed})
                sums[name] += amount.minor
        rows += 1
        if rows % PROGRESS_ROWS == 0:
            progress(rows)
    writer.end(rows, totals)
    return Written(rows, totals)


@contextmanager
def workshop(beside: Path, name: str) -> Iterator[Path]:
    """A private folder in which a file is made; gone afterwards, with whatever was left half."""
    folder = beside / f"{name}.part"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def request_export(
    *,
    source: str,
    format: str,
    parameters: Mapping[str, Any],
    actor: Actor,
    at: datetime,
    organization_id: UUID | None = None,
) -> Export:
    """Ask for a file; a worker makes it. With `organization_id` it holds only that organization's rows."""
    actor.require(REQUEST)
    found = source_named(source)
    found.require(actor)
    if format not in ExportFormat.values:
        raise InvalidInput(f"There is no format {format!r}.", pointer="/format", code="unknown_format")
    selection = found.selection(parameters, organization_id)
    found.check(selection)
    by = actor.label or str(actor)
    waiting = Export.objects.filter(requested_by=by, status__in=["requested", "running"])
    if waiting.count() >= MOST_WAITING:
        raise Conflict(f"{MOST_WAITING} exports of yours are under way already.", code="too_many_exports")
    export = Export.objects.create(
        source=source,
        format=format,
        parameters=found.query(selection.parameters).data,
        organization_id=organization_id,
        requested_by=by,
        requested_at=at,
    )
    log.info("export requested", extra={"export": str(export.pk), "source": source})
    transaction.on_commit(_wake_worker, robust=True)
    return export


def _wake_worker() -> None:
    """The beat tick finds the work anyway if there is no broker."""
    from commerce.console.tasks import run_exports

    with suppress(run_exports.OperationalError):
        run_exports.apply_async(retry=False, expires=60)


def run_next(*, actor: Actor, at: datetime) -> bool:
    """Make the export that has waited longest; False when none waits or another is being made."""
    token = uuid4()
    arguments: dict[str, Any] = {"token": token, "lease": LEASE}
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, arguments)
        claimed = cursor.fetchone()
    if claimed is None:
        return False
    export = Export.objects.get(pk=claimed[0])

    def fail(error: str) -> None:
        with suppress(LeaseLost), transaction.atomic():
            states.transition(_held(export, token), "fail", actor=actor, at=at, error=error)

    if export.attempts > MOST_ATTEMPTS:
        fail(f"It was begun {MOST_ATTEMPTS} times and never finished.")
        return True
    if export.status == Export.Status.REQUESTED:
        export = states.transition(export, "begin", actor=actor, at=at)
    try:
        _make(export, token, actor=actor, at=at)
    except LeaseLost:
        log.warning("lease lost", extra={"export": str(export.pk)})
    except OperationalError:
        raise  # the database is away: the lease ends, and somebody begins again
    except SoftTimeLimitExceeded:
        fail("It took too long; ask for less.")
    except CommerceError as error:
        fail(str(error))
    except Exception as error:  # the job's edge: whoever waits for it learns that it will not come
        log.exception("export failed", extra={"export": str(export.pk)})
        fail(f"Unexpected: {type(error).__name__}. The log says more.")
    return True


def _make(export: Export, token: UUID, *, actor: Actor, at: datetime) -> None:
    source = source_named(export.source)
    selection = source.selection(export.parameters, export.organization_id)
    for left in folder().glob(f"{export.pk}.*.part"):
        shutil.rmtree(left, ignore_errors=True)
    with workshop(folder(), f"{export.pk}.{token}") as shop:
        draft = shop / "file"
        # A connection of its own, so that progress is seen while the snapshot is open.
        with closing(connections.create_connection(DEFAULT_DB_ALIAS)) as beside, snapshot():
            total = source.count(selection)

            def progress(rows: int) -> None:
                known: dict[str, Any] = {
                    "rows": rows,
                    "total": total,
                    "lease": LEASE,
                    "id": export.pk,
                    "token": token,
                }
                with beside.cursor() as cursor:
                    cursor.execute(_PROGRESS, known)
                    if cursor.rowcount == 0:
                        raise LeaseLost

            progress(0)
            with file_writer(export.format, source.columns, draft) as writer:
                written = write(source, selection, writer, progress=progress)
            progress(written.rows)
        crash_point("exports.before_the_file_is_in_place")
        now = timezone.now()
        with transaction.atomic():
            held = _held(export, token)
            size, digest = draft.stat().st_size, sha256_of(draft)
            os.replace(draft, path_of(export))
            states.transition(
                held,
                "complete",
                actor=actor,
                at=at,
                rows=written.rows,
                size=size,
                sha256=digest,
                totals=written.totals,
                completed_at=now,
                expires_at=now + timedelta(days=settings.EXPORTS_KEEP_DAYS),
            )
    log.info("export completed", extra={"export": str(export.pk), "rows": written.rows})


def _held(export: Export, token: UUID) -> Export:
    """The row, locked; LeaseLost when another worker has taken it."""
    row = Export.objects.select_for_update(no_key=True).get(pk=export.pk)
    if row.lease_token != token:
        raise LeaseLost
    return row


def expire_exports(*, actor: Actor, at: datetime, limit: int = 500) -> int:
    """Remove the files whose days are over, and what dead workers left; return how many expired."""
    over = Export.objects.filter(status="completed", expires_at__lte=timezone.now()).order_by("expires_at")
    due = list(over[:limit])
    for export in due:
        path_of(export).unlink(missing_ok=True)
        states.transition(export, "expire", actor=actor, at=at)
    yesterday = time.time() - 86_400
    for left in folder().glob("*.part"):
        with suppress(FileNotFoundError):
            if left.stat().st_mtime < yesterday:
                shutil.rmtree(left, ignore_errors=True)
    return len(due)


def file_of(export: Export, *, actor: Actor) -> Path:
    """The finished file, for somebody who may see such rows. NotFound says why there is none."""
    actor.require(VIEW)
    source_named(export.source).require(actor)
    path = path_of(export)
    if export.status != Export.Status.COMPLETED or not path.exists():
        state = "gone" if export.status == Export.Status.COMPLETED else export.status
        raise NotFound(f"There is no file: this export is {state}.", code="export_has_no_file")
    log.info("export downloaded", extra={"export": str(export.pk), "by": str(actor)})
    return path


def path_of(export: Export) -> Path:
    return folder() / f"{export.pk}.{export.format}"


def folder() -> Path:
    """Where the files are: readable by us alone, shared by web and worker."""
    path = Path(settings.EXPORTS_DIR) if settings.EXPORTS_DIR else state_dir() / "exports"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
