"""Reading service: a contract's at any two instants, uptime over a stretch, and what a line is billed by.

Now is read from the rows; any other instant, and whatever is asked as known earlier, is folded.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, cast
from uuid import UUID

from commerce.errors import StateConflict
from contracts.models import Contract, ServiceEvent, UnitStatus
from contracts.rules import service as rules
from contracts.rules.service import InService, Report, State
from contracts.rules.sla import Availability, availability
from contracts.services.admission import Planned
from contracts.services.service_status import reports_of

_EVER = datetime.min.replace(tzinfo=UTC)

LineService = Callable[[UUID, datetime, datetime], list[InService]]


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
    found: dict[UUID, Availability] = {}
    for line_id, _, reports in _units(contract_id):
        spans = rules.spans(reports, until=end, known_at=known_at)
        found[line_id] = found.get(line_id, Availability()) + availability(spans, start, end)
    return found


def line_service(contract_id: UUID, known_at: datetime | None = None) -> LineService:
    """A function from a line and [start, end) to how many of its units were in service when.

    What a line with `bill_from` in_service is billed by. The events are read once, when it is first asked.
    """

    @cache
    def reports() -> list[Report]:
        return [report for _, _, unit in _units(contract_id) for report in unit]

    return lambda line_id, start, end: rules.in_service_intervals(reports(), line_id, start, end, known_at)


def require_service(*, contract: Contract, planned: Sequence[Planned], **_: Any) -> None:
    """A hook of edits: what is billed from service goes live when a unit has been in service.

    StateConflict (not_in_service) before that.
    """
    for plan in planned:
        if plan.event != "contract.activated" or plan.edit.payload.bill_from != "in_service":
            continue
        service = line_service(contract.pk)
        until = plan.edit.effective_at + timedelta.resolution
        if not any(service(line.line_id, _EVER, until) for line in plan.after.live_lines):
            raise StateConflict(
                "It is billed from service, and no unit has been in service yet.",
                pointer="/payload/bill_from",
                code="not_in_service",
            )


def _units(contract_id: UUID, lines: Collection[UUID] | None = None) -> list[tuple[UUID, str, list[Report]]]:
    """The reports of each unit of each line, by line and unit."""
    found: dict[tuple[UUID, str], list[Report]] = {}
    for _, report in reports_of(ServiceEvent.objects.filter(contract_id=contract_id, **_among(lines))):
        found.setdefault((report.line_id, report.unit_id), []).append(report)
    return [(*key, found[key]) for key in sorted(found)]


def _among(lines: Collection[UUID] | None) -> dict[str, Collection[UUID]]:
    return {} if lines is None else {"line_id__in": lines}
