"""What was billable when: the timeline cut into stretches of one line at one quantity and price."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from contracts.rules.fold import Edit, timeline
from contracts.rules.state import ContractState, Kind, LineState, Price


@dataclass(frozen=True)
class Segment:
    """One line over [valid_from, valid_to), during which nothing about it changed."""

    line_id: UUID
    product_code: str
    kind: Kind
    unit: str
    meter: str
    seller_id: UUID
    quantity: int
    price: Price
    valid_from: datetime
    valid_to: datetime


def billable_segments(
    edits: Iterable[Edit], *, start: datetime, end: datetime, known_at: datetime | None = None
) -> list[Segment]:
    """The segments within [start, end), by line and then by time.

    A line earns while it is live and the contract runs; a suspension that stops billing cuts it.
    """
    instants = timeline(edits, known_at)
    ends = [*(instant.at for instant in instants[1:]), end]
    by_line: dict[UUID, list[Segment]] = {}
    for instant, until in zip(instants, ends, strict=False):
        begin, finish = max(instant.at, start), min(until, end)
        if begin >= finish:
            continue
        for line in _earning(instant.state):
            segments = by_line.setdefault(line.line_id, [])
            segment = _segment(line, begin, finish)
            if segments and _continues(segments[-1], segment):
                segment = replace(segments.pop(), valid_to=finish)
            segments.append(segment)
    return [segment for segments in by_line.values() for segment in segments]


def _earning(state: ContractState) -> Iterable[LineState]:
    return (line for line in state.lines.values() if line.quantity and state.bills(line))


def _segment(line: LineState, valid_from: datetime, valid_to: datetime) -> Segment:
    return Segment(
        line_id=line.line_id,
        product_code=line.product_code,
        kind=line.kind,
        unit=line.unit,
        meter=line.meter,
        seller_id=line.seller_id,
        quantity=line.quantity,
        price=line.price,
        valid_from=valid_from,
        valid_to=valid_to,
    )


def _continues(earlier: Segment, later: Segment) -> bool:
    """Whether the later segment says the same as the earlier one and begins where it ends."""
    same = replace(later, valid_from=earlier.valid_from, valid_to=earlier.valid_to) == earlier
    return same and earlier.valid_to == later.valid_from
