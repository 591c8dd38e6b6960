"""What the discounts in force take off the charges of one billing period, discount by discount."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from itertools import accumulate, pairwise
from uuid import UUID

from commerce.money import round_half_up
from contracts.rules.discounts import fixed_off, free_share, percents_off, share_off, steps
from contracts.rules.rating import Count, Rated, Usage, part_of
from contracts.rules.segments import Stretch
from contracts.rules.state import Discount

_DISCOUNTABLE = frozenset({"recurring", "usage", "one_off"})
# Units, and the part of the charge during which they are free.
_Free = tuple[Fraction, Fraction]
_NONE = Fraction(0)
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

    paid = [Fraction(one.quantity) for one in rated]
    for force in (one for one in ordered if one.value.kind == "free_units"):
        free = _freed(rated, paid, force, usage)
        saved = [*_saved_at_a_time(rated, left, free), *_saved_of_counts(rated, left, paid, free)]
        for i, minor in saved:
            take(i, force.value, minor)
    percents = [one for one in ordered if one.value.kind in ("percent", "ramp")]
    for i, one in enumerate(rated):
        off = [force for force in percents if force.value.covers(one.segment.line_id)]
        taken = percents_off(left[i], _slices(one, off, usage)) if left[i] > 0 else []
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


def _freed(
    rated: Sequence[Rated], paid: Sequence[Fraction], force: Stretch[Discount], usage: Usage
) -> dict[int, _Free]:
    """What is free of each charge: in the lines' order, until the units are gone.

    A recurring line takes as many units as it has at a time, a metered one as many as it uses.
    """
    found: dict[int, _Free] = {}
    taken: dict[UUID, Fraction] = {}
    for i, one in enumerate(rated):
        part = part_of(one, force.start, force.end, usage) if _meets(one, force) else _NONE
        if not part or one.kind == "one_off":
            continue
        line_id = one.segment.line_id
        own = taken.get(line_id, _NONE)
        spent = sum(taken.values(), _NONE) - own
        if one.kind == "usage":
            units = min(Fraction(force.value.units) - spent - own, Fraction(one.quantity) * part, paid[i])
            taken[line_id] = own + units
        else:
            units = min(Fraction(force.value.units) - spent, Fraction(one.quantity))
            taken[line_id] = max(own, units)
        found[i] = units, part
    return found


def _saved_at_a_time(
    rated: Sequence[Rated], left: Sequence[int], free: Mapping[int, _Free]
) -> Iterator[tuple[int, int]]:
    """What free units save of recurring charges."""
    for i, (units, part) in free.items():
        one = rated[i]
        if one.count is None:
            share = part * free_share(one.segment.price, Fraction(one.quantity), units)
            yield i, min(round_half_up(left[i] * share), left[i])


def _saved_of_counts(
    rated: Sequence[Rated], left: Sequence[int], paid: list[Fraction], free: Mapping[int, _Free]
) -> Iterator[tuple[int, int]]:
    """What free units save of metered charges: a count costs what it would if they had not been used.

    Nothing where that costs more. The units are taken off `paid`.
    """
    counts: dict[tuple[UUID, Count], list[int]] = {}
    for i, one in enumerate(rated):
        if one.count is not None:
            counts.setdefault((one.segment.line_id, one.count), []).append(i)
    for (_, count), places in counts.items():
        if not any(i in free for i in places):
            continue
        earned = [rated[i].segment.share for i in places]
        before = count.costs(accumulate(paid[i] for i in places), earned)
        for i in places:
            paid[i] -= free[i][0] if i in free else _NONE
        after = count.costs(accumulate(paid[i] for i in places), earned)
        saved = [cost - rest for cost, rest in zip(before, after, strict=True)]
        # What is saved at first may be lost again when later units cost less: only what lasts comes off.
        lasting = [*accumulate(reversed(saved), min)][::-1]
        done = 0
        for i, upto in zip(places, lasting, strict=True):
            minor = max(0, min(round_half_up(upto) - done, left[i]))
            done += minor
            yield i, minor


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
