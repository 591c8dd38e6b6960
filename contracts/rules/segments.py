"""What held when: a timeline cut into stretches of one value, such as a line at one quantity and price."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Generic, TypeVar
from uuid import UUID

from contracts.rules.fold import Edit, Instant, timeline
from contracts.rules.periods import Period
from contracts.rules.service import InService
from contracts.rules.state import NOBODY, ContractState, Kind, LineState, Price

V = TypeVar("V")
ALWAYS = datetime.max.replace(tzinfo=UTC)

# The units of a line in service over [start, end), by stretches of one quantity.
ServiceOf = Callable[[UUID, datetime, datetime], Iterable[InService]]
# A line, the share of its price that it earns, the buyer and the epoch of ownership.
Earning = tuple[LineState, Decimal, UUID, int]


@dataclass(frozen=True)
class Stretch(Generic[V]):
    """A value that held over [start, end)."""

    value: V
    start: datetime
    end: datetime


@dataclass(frozen=True)
class Segment:
    """One line over [valid_from, valid_to), during which nothing about it changed.

    `share` is the part of its price that it earns, less than one in some holds.
    """

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
    buyer_id: UUID = NOBODY
    owner_epoch: int = 1
    share: Decimal = Decimal(1)
    in_service: bool = False

    def clipped(self, start: datetime, end: datetime) -> "Segment":
        """The part of it within [start, end), which must not be empty."""
        if start <= self.valid_from and self.valid_to <= end:
            return self
        return replace(self, valid_from=max(start, self.valid_from), valid_to=min(end, self.valid_to))


def stretches(
    instants: Sequence[Instant], end: datetime, pick: Callable[[ContractState], Iterable[tuple[Hashable, V]]]
) -> list[Stretch[V]]:
    """The values that `pick` names in each state, joined for as long as they stay equal; until `end`."""
    found: list[Stretch[V]] = []
    running: dict[Hashable, tuple[V, datetime]] = {}
    before: list[tuple[Hashable, V]] = []
    for instant in instants:
        if instant.at >= end:
            break
        now = list(pick(instant.state))
        # Most instants change little: only what does not stand unchanged where it stood is looked up.
        old, new = dict(_others(before, now)), dict(_others(now, before))
        before = now
        for key, value in old.items():
            if key not in new or new[key] != value:
                found.append(Stretch(*running.pop(key), instant.at))
        for key, value in new.items():
            running.setdefault(key, (value, instant.at))
    found += (Stretch(value, since, end) for value, since in running.values())
    return found


def billable_segments(
    edits: Iterable[Edit], *, start: datetime, end: datetime, known_at: datetime | None = None
) -> list[Segment]:
    """The segments within [start, end), by line and then by time.

    A line earns while it is live and the contract runs; a suspension that stops billing cuts it.
    """
    return [
        segment.clipped(start, end)
        for segment in segments_of(timeline(edits, known_at), end)
        if segment.valid_to > start
    ]


def segments_of(
    instants: Sequence[Instant], end: datetime, in_service: ServiceOf | None = None
) -> list[Segment]:
    """Every segment before `end`, by line in their order on the contract and then by time.

    A line that bills from service earns for as many of its units as are in service, none when unknown.
    """
    found: dict[UUID, list[Segment]] = {}
    for stretch in sorted(stretches(instants, end, _earning), key=lambda stretch: stretch.start):
        segment = _segment(stretch)
        segments = found.setdefault(segment.line_id, [])
        if segments and _continues(segments[-1], segment):
            segment = replace(segments.pop(), valid_to=segment.valid_to)
        segments.append(segment)
    return [
        served
        for line_id in (instants[-1].state.lines if instants else ())
        for segment in found.get(line_id, ())
        for served in (_served(segment, in_service) if segment.in_service else (segment,))
    ]


def periods_of(instants: Sequence[Instant], start: datetime, end: datetime) -> list[Period]:
    """The billing periods that lie in [start, end), or partly."""
    state = instants[-1].state if instants else ContractState()
    found: list[Period] = []
    at = max(start, state.start_at or ALWAYS)
    while at < end:
        found.append(state.period(at))
        at = found[-1].end
    return found


def _others(some: list[tuple[Hashable, V]], them: list[tuple[Hashable, V]]) -> list[tuple[Hashable, V]]:
    """Those of `some` that are not the same in the same place among `them`."""
    return [one for one, other in zip(some, them, strict=False) if one != other] + some[len(them) :]


def _earning(state: ContractState) -> Iterator[tuple[UUID, Earning]]:
    for line in state.lines.values():
        share = state.billing_share(line) if line.billable else None
        if share:
            owner = line.forfeited or state
            yield line.line_id, (line, share, owner.buyer_id, owner.owner_epoch)


def _segment(stretch: Stretch[Earning]) -> Segment:
    line, share, buyer_id, owner_epoch = stretch.value
    return Segment(
        line_id=line.line_id,
        product_code=line.product_code,
        kind=line.kind,
        unit=line.unit,
        meter=line.meter,
        seller_id=line.seller_id,
        quantity=line.billable,
        price=line.price,
        valid_from=stretch.start,
        valid_to=stretch.end,
        buyer_id=buyer_id,
        owner_epoch=owner_epoch,
        share=share,
        in_service=line.bill_from == "in_service",
    )


def _continues(earlier: Segment, later: Segment) -> bool:
    """Whether the later segment says the same as the earlier one and begins where it ends."""
    if earlier.valid_to != later.valid_from:
        return False
    return replace(later, valid_from=earlier.valid_from, valid_to=earlier.valid_to) == earlier


def _served(segment: Segment, in_service: ServiceOf | None) -> Iterator[Segment]:
    if in_service is None:
        return
    for served in in_service(segment.line_id, segment.valid_from, segment.valid_to):
        part = segment.clipped(served.start, served.end)
        yield replace(part, quantity=min(segment.quantity, served.quantity))
