"""What the units of a contract's lines did, as its bills ask for it: how many served, and how well.

The reports are asked for once, when first a bill depends on them.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cache
from uuid import UUID

from contracts.rules.service import InService, Report, Span, by_unit, in_service_intervals, served
from contracts.rules.sla import Availability, availability


class LineService:
    """`reports` are of all lines, as known at `known_at`. What ends after `until` is not over yet."""

    def __init__(
        self, reports: Callable[[], Iterable[Report]], *, until: datetime, known_at: datetime | None = None
    ) -> None:
        self.until, self._known_at = until, known_at
        self._reports = cache(lambda: _by_line(reports()))
        self._units = cache(self._served)

    def lines(self) -> list[UUID]:
        """The lines of which something was reported."""
        return list(self._reports())

    def in_service(self, line_id: UUID, start: datetime, end: datetime) -> list[InService]:
        """How many units of a line are in service over [start, end), by stretches of one quantity."""
        reports = self._reports().get(line_id, ())
        return in_service_intervals(reports, line_id, start, end, self._known_at)

    def availability(self, line_id: UUID, start: datetime, end: datetime) -> Availability:
        """Of all units of a line together over [start, end)."""
        return sum((availability(unit, start, end) for unit in self._units(line_id)), Availability())

    def _served(self, line_id: UUID) -> list[list[Span]]:
        units = by_unit(self._reports().get(line_id, ())).values()
        return [served(unit, until=self.until, known_at=self._known_at) for unit in units]


def _by_line(reports: Iterable[Report]) -> dict[UUID, list[Report]]:
    found: dict[UUID, list[Report]] = {}
    for report in reports:
        found.setdefault(report.line_id, []).append(report)
    return found
