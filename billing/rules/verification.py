"""Comparing what a provider invoiced with what the contract says, line by line.

A provider that learns of a change a moment after it took effect prorates from that moment. That
much is allowed: the line's price for the time the change took to reach the provider. Anything
beyond is a difference that a person sees.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from math import ceil
from uuid import UUID

from billing.rules.rating import RatedLine


@dataclass(frozen=True)
class Difference:
    """One contract line on which the two disagree; minor units. With `reasons` it was to be expected."""

    line_id: UUID | None
    ours: int
    theirs: int
    allowed: int
    reasons: tuple[str, ...] = ()

    @property
    def delta(self) -> int:
        return self.theirs - self.ours


def compare(
    ours: Sequence[RatedLine], theirs: Iterable[tuple[UUID | None, int]], *, lag: timedelta = timedelta(0)
) -> list[Difference]:
    """Differences beyond what `lag` explains. `theirs` is (line id or None when unknown, net minor)."""
    mine: dict[UUID | None, int] = {}
    for line in ours:
        mine[line.line_id] = mine.get(line.line_id, 0) + line.net_minor
    other: dict[UUID | None, int] = {}
    for line_id, net in theirs:
        other[line_id] = other.get(line_id, 0) + net
    allowed = _allowed(ours, lag)
    found = []
    for line_id in sorted(mine.keys() | other.keys(), key=str):
        difference = Difference(line_id, mine.get(line_id, 0), other.get(line_id, 0), allowed.get(line_id, 0))
        if abs(difference.delta) > difference.allowed:
            found.append(difference)
    return found


def explained(found: Iterable[Difference], why: Mapping[UUID | None, Sequence[str]]) -> list[Difference]:
    """Differences with the reasons of their lines. What is of no line of ours is never to be expected."""
    return [
        replace(difference, reasons=tuple(why.get(difference.line_id, ())))
        if difference.line_id or difference.ours
        else difference
        for difference in found
    ]


def _allowed(ours: Sequence[RatedLine], lag: timedelta) -> Mapping[UUID | None, int]:
    """Minor units that `lag` may cost a recurring line: its dearest segment's price per second."""
    allowed: dict[UUID | None, int] = {}
    for line in ours:
        seconds = Decimal((line.end - line.start).total_seconds())
        if line.kind == "recurring" and seconds and lag:
            slip = ceil(Decimal(line.net_minor) / seconds * Decimal(lag.total_seconds()))
            allowed[line.line_id] = max(allowed.get(line.line_id, 0), slip)
    return allowed
