"""What a contract's lines cost in one billing period, before discounts.

A charge is one line over one unbroken quantity and price. Recurring lines are charged for the time that
they earned, metered ones for what was used. Where a price bends (tiers, packages, included units, bounds)
the counting runs through the period under one price and one owner: neither a suspension nor another seller
begins it anew. Owners share a period's bounds by the days that were theirs, whatever the next one does with
his; the counts of an owner share his part by their time. What is missing to a price's minimum is a charge of
its own when its count ends.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate, groupby, pairwise
from typing import Literal
from uuid import UUID

from commerce.money import allocate, exponent
from contracts.rules import charges
from contracts.rules.commitments import Allowance, by_weight
from contracts.rules.periods import Period
from contracts.rules.pricing import ratio, rounded
from contracts.rules.segments import Segment, Stretch
from contracts.rules.state import Price

# Units of a line used over [start, end), in the line's unit.
Usage = Callable[[UUID, datetime, datetime], Decimal]
# What is committed of a line's use at an instant; None when nothing is.
Quota = Callable[[datetime], Allowance | None]
# The epochs of ownership through which a line went, in order of time.
Owners = Sequence[Stretch[int]]
# The part of a period's bounds that segments of one price and owner have.
_Part = Callable[[Sequence[Segment]], Fraction]
ChargeKind = Literal["recurring", "usage", "one_off", "overage", "true_up"]

_DIGITS = Decimal("1e-9")


@dataclass(frozen=True)
class Count:
    """One count of a metered price from `start` on, by which its charges are told from those of others.

    It was served `share` of the full period and has `part` of the bounds that its line's counts share.
    """

    price: Price
    start: datetime
    share: Fraction
    part: Fraction

    def costs(self, counted: Iterable[Fraction], earned: Iterable[Decimal]) -> list[Fraction]:
        """What all charges up to each one cost: the units counted by then, the share that each one earns."""
        whole = [charges.charge(self.price, units, self.share, self.part) for units in counted]
        more = (
            (now - before) * Fraction(share)
            for (before, now), share in zip(_steps(whole), earned, strict=True)
        )
        return [charges.at_most(self.price, cost, self.share, self.part) for cost in accumulate(more)]


@dataclass(frozen=True)
class Rated:
    """One charge over [start, end), in minor units rounded once from `exact`.

    `units` is what a commitment counts: what was used, or units times the months that they earned. `count`
    is that of a metered price, through which its charges add up.
    """

    kind: ChargeKind
    segment: Segment
    source_id: UUID
    start: datetime
    end: datetime
    quantity: Decimal
    rate: Decimal
    units: Fraction
    exact: Fraction
    net_minor: int
    count: Count | None = None


def rate_line(
    segments: Sequence[Segment],
    period: Period,
    usage: Usage,
    owners: Owners,
    *,
    cuts: Iterable[datetime] = (),
    quota: Quota | None = None,
) -> list[Rated]:
    """The charges of one line in `period`, from all segments that it ever had, in order of time.

    At `cuts` a charge ends and another begins; the windows of a commitment begin and end at cuts.
    """
    if segments[0].kind == "one_off" or segments[0].price.model == "one_off":
        return list(_one_offs(segments, period))
    within = [
        segment.clipped(period.start, period.end)
        for segment in segments
        if segment.valid_from < period.end and segment.valid_to > period.start
    ]
    marks = sorted({cut for cut in cuts if period.start < cut < period.end})
    part = _parts(within, period, owners)
    if segments[0].kind == "usage":
        counted = _counted(within, marks, quota)
        return [one for group in counted for one in _metered(*group, period, part, usage)]
    alike = groupby(within, key=_terms)
    return [one for _, group in alike for one in _recurring(list(group), marks, period, part)]


def minimums(rated: Iterable[Rated], period: Period, owners: Owners) -> Iterator[Rated]:
    """What one line's charges in `period` miss to the minimum of their price, due when the last one ends.

    Sellers share it by what they earned, by their time when nobody did.
    """
    bounded = [one for one in rated if one.kind in ("recurring", "usage")]
    part = _parts([one.segment for one in bounded], period, owners)
    for (price, _), same in groupby(bounded, key=lambda one: _terms(one.segment)):
        group = list(same)
        total = sum((one.exact for one in group), Fraction(0))
        segments = [one.segment for one in group]
        length = _length(segments)
        least = charges.at_least(price, total, ratio(length, period.full), part(segments))
        net = rounded(least) - sum(one.net_minor for one in group)
        if least <= total or net <= 0:
            continue
        sellers: dict[UUID, list[Rated]] = {}
        for one in group:
            sellers.setdefault(one.segment.seller_id, []).append(one)
        earned = [sum(max(0, one.net_minor) for one in own) for own in sellers.values()]
        times = [ratio(_length(one.segment for one in own), length) for own in sellers.values()]
        parts = by_weight(net, earned if any(earned) else times)
        for own, minor in zip(sellers.values(), parts, strict=True):
            segment = own[-1].segment
            yield Rated(
                "true_up", segment, segment.line_id, group[0].start, group[-1].end, Decimal(1),
                major(minor, segment), Fraction(0), (least - total) * Fraction(minor, net), minor,
            )  # fmt: skip


def part_of(rated: Rated, start: datetime, end: datetime, usage: Usage) -> Fraction:
    """The part of a charge that falls into [start, end): by what was used, else by time."""
    if start <= rated.start and rated.end <= end:
        return Fraction(1)
    start, end = max(start, rated.start), min(end, rated.end)
    if start >= end:
        return Fraction(0)
    if rated.segment.kind == "usage":
        used = usage(rated.segment.line_id, rated.start, rated.end)
        if used:
            return Fraction(usage(rated.segment.line_id, start, end)) / Fraction(used)
    return ratio(end - start, rated.end - rated.start)


def major(minor: int, segment: Segment) -> Decimal:
    """An amount as a rate, in major units of the line's currency."""
    return Decimal(minor).scaleb(-exponent(segment.price.currency))


def decimal(value: Fraction) -> Decimal:
    """A quantity for people to read: nine digits after the point."""
    if value.denominator == 1:
        return Decimal(value.numerator)
    return (Decimal(value.numerator) / Decimal(value.denominator)).quantize(_DIGITS)


def _one_offs(segments: Sequence[Segment], period: Period) -> Iterator[Rated]:
    """What is owed once: for the units that a line first earns with, and for every unit added later."""
    charged = 0
    for segment in segments:
        at, more = segment.valid_from, segment.quantity - charged
        charged += max(0, more)
        if more > 0 and period.start <= at < period.end:
            exact = charges.charge(segment.price, more)
            yield Rated(
                "one_off", segment, segment.line_id, at, at, Decimal(more), segment.price.rate,
                Fraction(more), exact, rounded(exact),
            )  # fmt: skip


def _recurring(
    group: Sequence[Segment], marks: Sequence[datetime], period: Period, part: _Part
) -> Iterator[Rated]:
    """Charges of one price: together they stay below its maximum, and the parts of each add up to it."""
    price = group[0].price
    exact = [
        charges.charge(price, one.quantity) * period.months * Fraction(one.share) * _of(one, period.full)
        for one in group
    ]
    nets = [rounded(one) for one in exact]
    total = sum(exact, Fraction(0))
    most = charges.at_most(price, total, ratio(_length(group), period.full), part(group))
    if most < total:
        nets = allocate(rounded(most), exact)
        exact = [one * most / total for one in exact]
    for segment, whole, net in zip(group, exact, nets, strict=True):
        done = 0
        for piece in _cut(segment, marks):
            upto = ratio(piece.valid_to - segment.valid_from, segment.valid_to - segment.valid_from)
            now = net if upto == 1 else min(net, rounded(whole * upto))
            yield Rated(
                "recurring", piece, piece.line_id, piece.valid_from, piece.valid_to, Decimal(piece.quantity),
                price.rate, piece.quantity * period.months * _of(piece, period.full),
                whole * _of(piece, segment.valid_to - segment.valid_from), now - done,
            )  # fmt: skip
            done = now


def _counted(
    within: Iterable[Segment], marks: Sequence[datetime], quota: Quota | None
) -> Iterator[tuple[list[Segment], Allowance | None]]:
    """The pieces through which one count of use runs, with what is committed of it."""

    def count(counted: tuple[datetime, Segment, Allowance | None]) -> tuple[object, ...]:
        since, segment, allowance = counted
        straight = segment.price.model == "unit" and not segment.price.included
        if straight and segment.price.max_minor is None and allowance is None:
            return (since,)
        return (*_terms(segment), allowance and allowance.start)

    allowed = (
        (segment.valid_from, piece, quota(piece.valid_from) if quota else None)
        for segment in within
        for piece in _cut(segment, marks)
    )
    for _, same in groupby(allowed, key=count):
        _, pieces, allowances = zip(*same, strict=True)
        yield list(pieces), allowances[0]


def _metered(
    group: Sequence[Segment], allowance: Allowance | None, period: Period, part: _Part, usage: Usage
) -> Iterator[Rated]:
    """Charges of one count, in order: each is what all of them cost less what those before it did.

    The share that a hold leaves is of what its own time adds; the count runs on through it.
    """
    price = group[0].price
    count = Count(price, group[0].valid_from, ratio(_length(group), period.full), part(group))
    earned = [one.share for one in group]
    quantities = [Fraction(usage(one.line_id, one.valid_from, one.valid_to)) for one in group]
    used = list(accumulate(quantities))
    within, over, extra = used, [Fraction(0)] * len(used), [Fraction(0)] * len(used)
    if allowance is not None:
        taken = [allowance.take(units) for units in used]
        within, over = [one.within for one in taken], [one.over for one in taken]
        upto = count.costs((units - more for units, more in zip(used, over, strict=True)), earned)
        extra = [
            (cost - below) * Fraction(allowance.factor)
            for cost, below in zip(count.costs(used, earned), upto, strict=True)
        ]
    steps = map(_steps, (within, count.costs(within, earned), over, extra))
    for segment, quantity, units, cost, beyond, more in zip(group, quantities, *steps, strict=True):
        surplus = beyond[1] - beyond[0]
        yield Rated(
            "usage", segment, segment.line_id, segment.valid_from, segment.valid_to,
            decimal(units[1] - units[0]), price.rate, quantity - surplus, cost[1] - cost[0],
            rounded(cost[1]) - rounded(cost[0]), count,
        )  # fmt: skip
        if surplus and allowance:
            yield Rated(
                "overage", segment, allowance.commitment_id, segment.valid_from, segment.valid_to,
                decimal(surplus), price.rate * allowance.factor, surplus, more[1] - more[0],
                rounded(more[1]) - rounded(more[0]),
            )  # fmt: skip


def _parts(segments: Sequence[Segment], period: Period, owners: Owners) -> _Part:
    """Each owner's part by the calendar, from when the line is first billed; in it, by the time billed.

    The last owner's days run to the end of the full period: what he does with them is no one else's affair.
    """
    billed: dict[int, timedelta] = defaultdict(timedelta)
    for one in segments:
        billed[one.owner_epoch] += one.valid_to - one.valid_from
    owned: dict[int, Fraction] = defaultdict(Fraction)
    start = min((one.valid_from for one in segments), default=period.start)
    within = [one for one in owners if one.start < period.end]
    begun = [*(max(one.start, start) for one in within), period.full_end]
    for owner, (since, until) in zip(within, pairwise(begun), strict=True):
        owned[owner.value] += ratio(until - since, period.full_end - start)

    def part(counted: Sequence[Segment]) -> Fraction:
        epoch = counted[0].owner_epoch
        return owned[epoch] * ratio(_length(counted), billed[epoch])

    return part


def _terms(segment: Segment) -> tuple[Price, int]:
    return segment.price, segment.owner_epoch


def _cut(segment: Segment, marks: Sequence[datetime]) -> list[Segment]:
    inner = (mark for mark in marks if segment.valid_from < mark < segment.valid_to)
    return [segment.clipped(*span) for span in pairwise([segment.valid_from, *inner, segment.valid_to])]


def _length(segments: Iterable[Segment]) -> timedelta:
    return sum((one.valid_to - one.valid_from for one in segments), timedelta())


def _of(segment: Segment, whole: timedelta) -> Fraction:
    return ratio(segment.valid_to - segment.valid_from, whole)


def _steps(running: Iterable[Fraction]) -> list[tuple[Fraction, Fraction]]:
    """(before, after) of each value of a running sum that begins at zero."""
    return list(pairwise([Fraction(0), *running]))
