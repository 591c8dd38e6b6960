"""What a contract should have billed, and what an edit changes of it: the rules with what was metered.

Usage is known to the application that meters it, which registers itself as the source.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from contracts.rules.desired import lines_of
from contracts.rules.fold import Instant, timeline
from contracts.rules.line_service import LineService
from contracts.rules.lines import DesiredLine, Difference, differences
from contracts.services.projection import load_edits
from contracts.services.service_reading import line_service

UsageSource = Callable[[UUID, UUID, datetime, datetime], Decimal]
_sources: list[UsageSource] = []


def register_usage_source(source: UsageSource) -> None:
    """Ask `source(contract_id, line_id, start, end)` for what was metered, in the line's unit."""
    if source not in _sources:
        _sources.append(source)


def desired(
    contract_id: UUID, *, start: datetime, end: datetime, at: datetime, known_at: datetime | None = None
) -> list[DesiredLine]:
    """Every line that should be billed for [start, end) as of `at`, known at `known_at`; usage by now.

    What units did is credited for periods that are over by then.
    """
    service = line_service(contract_id, at=at, known_at=known_at)
    return _lines(contract_id, timeline(load_edits(contract_id), known_at), start, end, service)


def changed_bills(
    contract_id: UUID, was: Sequence[Instant], will: Sequence[Instant], *, since: datetime, at: datetime
) -> list[Difference]:
    """What one timeline bills otherwise than another, from the period of `since` to the next one."""
    old, new = was[-1].state, will[-1].state
    start = min(old.period(since).start, new.period(since).start)
    end = new.period(new.period(max(at, since)).end).end
    service = line_service(contract_id, at=at)
    before, after = (_lines(contract_id, instants, start, end, service) for instants in (was, will))
    return differences(before, after)


def _lines(
    contract_id: UUID, instants: Sequence[Instant], start: datetime, end: datetime, service: LineService
) -> list[DesiredLine]:
    return lines_of(
        instants,
        start=start,
        end=end,
        usage=lambda line_id, since, until: _metered(contract_id, line_id, since, until),
        service=service,
    )


def _metered(contract_id: UUID, line_id: UUID, start: datetime, end: datetime) -> Decimal:
    return sum((source(contract_id, line_id, start, end) for source in _sources), Decimal(0))
