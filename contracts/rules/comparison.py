"""Two timelines side by side: over which stretches of valid time they say different things."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from contracts.rules.fold import NOTHING, Instant
from contracts.rules.state import ContractState, evolve


@dataclass(frozen=True)
class Difference:
    """[start, end) of valid time, without end when None, in which `before` and `after` are not the same."""

    start: datetime
    end: datetime | None
    before: ContractState
    after: ContractState


def compare(before: Sequence[Instant], after: Sequence[Instant]) -> list[Difference]:
    """What two timelines say differently, versions apart; adjoining stretches of equal states are one."""
    moments = sorted({step.at for step in (*before, *after)})
    found: list[Difference] = []
    old = new = NOTHING
    left, right = {step.at: step.state for step in before}, {step.at: step.state for step in after}
    for at, until in zip(moments, [*moments[1:], None], strict=True):
        old = evolve(left[at], version=0) if at in left else old
        new = evolve(right[at], version=0) if at in right else new
        if old == new:
            continue
        start = at
        if found and found[-1].end == at and (found[-1].before, found[-1].after) == (old, new):
            start = found.pop().start
        found.append(Difference(start, until, old, new))
    return found
