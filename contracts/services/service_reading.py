"""Reading service: a contract's at any two instants, uptime over a stretch, and what a line is billed by.

Now is read from the rows; any other instant, and whatever is asked as known earlier, is folded.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast
from uuid import UUID

from commerce.errors import StateConflict
from contracts.models import Contract, ServiceEvent, UnitStatus
from contracts.rules import service as rules
from contracts.rules.line_service import LineService
from contracts.rules.service import Report, State
from contracts.rules.sla import Availability
from contracts.services.admission import Planned
from contracts.services.service_status import reports_of

_EVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class UnitView:
    """`since` None: nothing that was reported counts yet. `irregular`: reports that no declared transition
    leads to."""

    unit_id: str
    state: State
    since: datetime | None
    irregular: int


@dataclass(frozen=True)
class ServiceView:
    """The worst state of some units, how many are in each, and the units; `state` None without units."""

    state: State | None
    counts: dict[str, int]
    units: list[UnitView]


def service_now(contract_id: UUID, lines: Collection[UUID] | None = None) -> dict[UUID, ServiceView]:
    """By line, of all lines or of some: what its units do."""
    found: dict[UUID, list[UnitView]] = {}
    for row in UnitStatus.objects.filter(contract_id=contract_id, **_among(lines)).order_by("unit_id"):
        view = UnitView(row.unit_id, cast(State, row.state), row.since, row.irregular)
        found.setdefault(row.line_id, []).append(view)
    return {line_id: view_of(units) for line_id, units in found.items()}


def service_at(
    contract_id: UUID,
    *,
    valid_at: datetime,
    known_at: datetime | None = None,
    lines: Collection[UUID] | None = None,
) -> dict[UUID, ServiceView]:
    """The same at `valid_at`, as known at `known_at`; without units of which nothing was known then."""
    found: dict[UUID, list[UnitView]] = {}
    for line_id, unit_id, reports in _units(contract_id, lines):
        status = rules.status(reports, at=valid_at, known_at=known_at)
        if status.since is not None:
            view = UnitView(unit_id, status.state, status.since, len(status.irregular))
            found.setdefault(line_id, []).append(view)
    return {line_id: view_of(units) for line_id, units in found.items()}


def view_of(units: list[UnitView]) -> ServiceView:
    """Several units as one: of a line, or of all lines."""
    counts: dict[str, int] = dict(Counter(str(unit.state) for unit in units))
    return ServiceView(rules.roll_up(counts), counts, units)


def uptime(
    contract_id: UUID, *, start: datetime, end: datetime, known_at: datetime | None = None
) -> dict[UUID, Availability]:
    """By line: how long its units served over [start, end) and how long of it they were down or degraded."""
    service = LineService(partial(_reports, contract_id), until=end, known_at=known_at)
    return {line_id: service.availability(line_id, start, end) for line_id in service.lines()}


def line_service(contract_id: UUID, *, at: datetime, known_at: datetime | None = None) -> LineService:
    """What the contract's units did, for its bills as of `at`. The events are read once, when first asked."""
    return LineService(partial(_reports, contract_id), until=at, known_at=known_at)


def require_service(*, contract: Contract, planned: Sequence[Planned], at: datetime, **_: Any) -> None:
    """A hook of edits: what is billed from service goes live when a unit has been in service.

    StateConflict (not_in_service) before that.
    """
    for plan in planned:
        if plan.event != "contract.activated" or plan.edit.payload.bill_from != "in_service":
            continue
        service = line_service(contract.pk, at=at)
        until = plan.edit.effective_at + timedelta.resolution
        if not any(service.in_service(line.line_id, _EVER, until) for line in plan.after.live_lines):
            raise StateConflict(
                "It is billed from service, and no unit has been in service yet.",
                pointer="/payload/bill_from",
                code="not_in_service",
            )


def _units(contract_id: UUID, lines: Collection[UUID] | None = None) -> list[tuple[UUID, str, list[Report]]]:
    """The reports of each unit of each line, by line and unit."""
    found: dict[tuple[UUID, str], list[Report]] = {}
    for report in _reports(contract_id, lines):
        found.setdefault((report.line_id, report.unit_id), []).append(report)
    return [(*key, found[key]) for key in sorted(found)]


def _reports(contract_id: UUID, lines: Collection[UUID] | None = None) -> list[Report]:
    rows = ServiceEvent.objects.filter(contract_id=contract_id, **_among(lines))
    return [report for _, report in reports_of(rows)]


def _among(lines: Collection[UUID] | None) -> dict[str, Collection[UUID]]:
    return {} if lines is None else {"line_id__in": lines}
