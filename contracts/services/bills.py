"""What a contract should have billed, and what an edit changes of it: the rules with what was metered.

Usage is known to the application that meters it, which registers itself as the source.
"""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from contracts.rules.desired import lines_of
from contracts.rules.fold import Instant, at_instant, timeline
from contracts.rules.lines import DesiredLine, Difference, differences
from contracts.services.projection import load_edits
from contracts.services.service_reading import line_service

Usage = Callable[[UUID, datetime, datetime], Decimal]
UsageSource = Callable[[UUID, Collection[UUID], Collection[datetime]], Usage]
_sources: list[UsageSource] = []


def register_usage_source(source: UsageSource) -> None:
    """Ask `source(contract_id, line_ids, marks)` for what was metered, in the line's unit.

    It answers a function of (line_id, start, end), which is asked mostly for stretches between two marks.
    """
    if source not in _sources:
        _sources.append(source)


def desired(
    contract_id: UUID, *, start: datetime, end: datetime, at: datetime, known_at: datetime | None = None
) -> list[DesiredLine]:
    """Every line that should be billed for [start, end) as of `at`, known at `known_at`; usage by now.

    What units did is credited for periods that are over by then.
    """
    service = line_service(contract_id, at=at, known_at=known_at)
    instants = timeline(load_edits(contract_id), known_at)
    usage = _usage(contract_id, [instants], start, end)
    return lines_of(instants, start=start, end=end, usage=usage, service=service)


def changed_bills(
    contract_id: UUID, was: Sequence[Instant], will: Sequence[Instant], *, since: datetime, at: datetime
) -> list[Difference]:
    """What one timeline bills otherwise than another, from the period of `since` to the next one."""
    old, new = was[-1].state, will[-1].state
    start = min(old.period(since).start, new.period(since).start)
    end = new.period(new.period(max(at, since)).end).end
    service = line_service(contract_id, at=at)
    usage = _usage(contract_id, [was, will], start, end)
    before, after = (
        lines_of(instants, start=start, end=end, usage=usage, service=service) for instants in (was, will)
    )
    return differences(before, after)


def _usage(
    contract_id: UUID, timelines: Sequence[Sequence[Instant]], start: datetime, end: datetime
) -> Usage:
    """What was metered of every line, read once for all the stretches that the bills of [start, end) have."""
    lines = {
        id_
        for instants in timelines
        for step in instants
        for id_, line in step.state.lines.items()
        if line.kind == "usage"
    }
    marks: set[datetime] = set()
    for instants in timelines if lines else ():
        at = start
        while at < end:
            period = at_instant(instants, at).period(at)
            marks |= {period.start, period.end}
            at = period.end
        first, last = min(marks), max(marks)
        marks |= {step.at for step in instants if first < step.at < last}
    asked = [source(contract_id, lines, marks) for source in _sources]

    def usage(line_id: UUID, since: datetime, until: datetime) -> Decimal:
        return sum((read(line_id, since, until) for read in asked), Decimal(0))

    return usage
