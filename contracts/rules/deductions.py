"""What the discounts in force take off the charges of one billing period, discount by discount."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from itertools import pairwise
from uuid import UUID

from commerce.money import round_half_up
from contracts.rules.discounts import fixed_off, free_share, percents_off, share_off, steps
from contracts.rules.rating import Rated, Usage, part_of
from contracts.rules.segments import Stretch
from contracts.rules.state import Discount

_DISCOUNTABLE = frozenset({"recurring", "usage", "one_off"})
_RANK = {"free_units": 0, "percent": 1, "ramp": 1, "fixed_per_period": 2}


@dataclass(frozen=True)
class Deduction:
    """What a discount takes off the charge at position `charge`, in minor units above zero."""

    charge: int
    discount: Discount
    minor: int


def deductions(rated: Sequence[Rated], forces: Sequence[Stretch[Discount]], usage: Usage) -> list[Deduction]:
    """What the discounts in force take off the charges of one billing period.

    A percent takes off the part of a charge that lies in its time; a fixed amount is whole in every
    period that it is in force, however short.
    """
    left = [one.net_minor if one.kind in _DISCOUNTABLE else 0 for one in rated]
    ordered = sorted(
        forces,
        key=lambda f: (_RANK[f.value.kind], f.value.stack_order, f.value.since, f.value.discount_id, f.start),
    )
    found: list[Deduction] = []

    def take(charge: int, discount: Discount, minor: int) -> None:
        if minor:
            left[charge] -= minor
            found.append(Deduction(charge, discount, minor))

    for force in (one for one in ordered if one.value.kind == "free_units"):
        for i, share in _freed(rated, force, usage):
            take(i, force.value, min(round_half_up(left[i] * share), left[i]))
    percents = [one for one in ordered if one.value.kind in ("percent", "ramp")]
    for i, one in enumerate(rated):
        off = [force for force in percents if force.value.covers(one.segment.line_id)]
        taken = percents_off(left[i], _slices(one, off, usage)) if left[i] else []
        for force, minor in zip(off, taken, strict=False):
            take(i, force.value, minor)
    for force in (one for one in ordered if one.value.kind == "fixed_per_period"):
        shared = fixed_off(
            force.value.amount_minor,
            [net if _meets(one, force) else 0 for one, net in zip(rated, left, strict=True)],
        )
        for i, minor in enumerate(shared):
            take(i, force.value, minor)
    return found


def _freed(rated: Sequence[Rated], force: Stretch[Discount], usage: Usage) -> Iterator[tuple[int, Fraction]]:
    """The part of each charge that free units make up: in the lines' order, until the units are gone.

    A recurring line takes as many as it has at a time, a metered one as many as it uses.
    """
    taken: dict[UUID, Fraction] = {}
    for i, one in enumerate(rated):
        part = part_of(one, force.start, force.end, usage) if _meets(one, force) else Fraction(0)
        if not part or one.kind == "one_off":
            continue
        line_id, quantity = one.segment.line_id, Fraction(one.quantity)
        spent = sum((units for other, units in taken.items() if other != line_id), Fraction(0))
        own = taken.get(line_id, Fraction(0))
        if one.kind == "usage":
            units = min(Fraction(force.value.units) - spent - own, quantity * part)
            taken[line_id] = own + units
            yield i, free_share(one.segment.price, quantity, units)
        else:
            units = min(Fraction(force.value.units) - spent, quantity)
            taken[line_id] = max(own, units)
            yield i, part * free_share(one.segment.price, quantity, units)


def _slices(
    one: Rated, percents: Sequence[Stretch[Discount]], usage: Usage
) -> list[tuple[Fraction, list[Fraction]]]:
    """The parts of a charge between the instants at which what is taken off it changes."""

    def shares(at: datetime) -> list[Fraction]:
        return [Fraction(share_off(f.value, at) if f.start <= at < f.end else 0) for f in percents]

    instants = {at for force in percents for at in (force.start, force.end, *steps(force.value))}
    marks = [one.start, *sorted(at for at in instants if one.start < at < one.end), one.end]
    if len(marks) == 2:
        return [(Fraction(1), shares(one.start))]
    return [(part_of(one, start, end, usage), shares(start)) for start, end in pairwise(marks)]


def _meets(one: Rated, force: Stretch[Discount]) -> bool:
    """Whether the discount is for this charge's line and in force at some time of it."""
    if one.kind not in _DISCOUNTABLE or not force.value.covers(one.segment.line_id):
        return False
    return force.start <= one.start < force.end or one.start < force.start < one.end
