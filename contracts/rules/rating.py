"""What a contract's lines cost in one billing period, before discounts.

A charge is one line over one unbroken quantity and price. Recurring lines are charged for the time that
they earned, metered ones for what was used. Where a price bends (tiers, packages, included units, bounds)
the counting runs through the period under one price and one owner, so that a suspension does not begin it
anew. What is missing to a price's minimum is a charge of its own at the period's end.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from itertools import groupby, pairwise
from typing import Literal
from uuid import UUID

from commerce.money import allocate, exponent
from contracts.rules import charges
from contracts.rules.commitments import Allowance
from contracts.rules.periods import Period
from contracts.rules.pricing import ratio, rounded
from contracts.rules.segments import Segment
from contracts.rules.state import Price

# Units of a line used over [start, end), in the line's unit.
Usage = Callable[[UUID, datetime, datetime], Decimal]
# What is committed of a line's use at an instant; None when nothing is.
Quota = Callable[[datetime], Allowance | None]
ChargeKind = Literal["recurring", "usage", "one_off", "overage", "true_up"]

_DIGITS = Decimal("1e-9")


@dataclass(frozen=True)
class Rated:
    """One charge over [start, end), in minor units rounded once from `exact`.

    `units` is what a commitment counts: what was used, or units times the months that they earned.
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


def rate_line(
    segments: Sequence[Segment],
    period: Period,
    usage: Usage,
    *,
    cuts: Iterable[datetime] = (),
    quota: Quota | None = None,
) -> list[Rated]:
    """The charges of one line in `period`, from all segments that it ever had, in order of time.

    At `cuts` a charge ends and another begins; the windows of a commitment begin and end at cuts.
    """
    if segments[0].kind == "one_off" or segments[0].price.model == "one_off":
        return list(_one_offs(segments, period))
    marks = [period.start, *sorted({cut for cut in cuts if period.start < cut < period.end}), period.end]
    within = [
        segment.clipped(start, end)
        for segment in segments
        for start, end in pairwise(marks)
        if segment.valid_from < end and segment.valid_to > start
    ]
    if segments[0].kind == "usage":
        return [one for group in _counted(within, quota) for one in _metered(*group, period, usage)]
    alike = groupby(within, key=_terms)
    return [one for _, group in alike for one in _recurring(list(group), period)]


def minimums(rated: Iterable[Rated], period: Period) -> Iterator[Rated]:
    """What one line's charges in `period` miss to the minimum of their price, due when the last one ends."""
    bounded = (one for one in rated if one.kind in ("recurring", "usage"))
    for (price, _, _), same in groupby(bounded, key=lambda one: _terms(one.segment)):
        group = list(same)
        total = sum((one.exact for one in group), Fraction(0))
        served = sum((ratio(one.end - one.start, period.full) for one in group), Fraction(0))
        least = charges.at_least(price, total, served)
        net = rounded(least) - sum(one.net_minor for one in group)
        if least > total and net > 0:
            segment = group[-1].segment
            yield Rated(
                "true_up", segment, segment.line_id, group[0].start, group[-1].end, Decimal(1),
                major(net, segment), Fraction(0), least - total, net,
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


def _recurring(group: Sequence[Segment], period: Period) -> Iterator[Rated]:
    """Charges of one price: together they stay below its maximum."""
    price = group[0].price
    parts = [ratio(one.valid_to - one.valid_from, period.full) for one in group]
    exact = [
        charges.charge(price, one.quantity) * period.months * Fraction(one.share) * part
        for one, part in zip(group, parts, strict=True)
    ]
    nets = [rounded(one) for one in exact]
    total = sum(exact, Fraction(0))
    most = charges.at_most(price, total, sum(parts, Fraction(0)))
    if most < total:
        nets = allocate(rounded(most), exact)
        exact = [one * most / total for one in exact]
    for segment, part, one, net in zip(group, parts, exact, nets, strict=True):
        yield Rated(
            "recurring", segment, segment.line_id, segment.valid_from, segment.valid_to,
            Decimal(segment.quantity), price.rate, segment.quantity * period.months * part, one, net,
        )  # fmt: skip


def _counted(
    within: Iterable[Segment], quota: Quota | None
) -> Iterator[tuple[list[Segment], Allowance | None]]:
    """The segments through which one count of use runs, with what is committed of it."""

    def count(counted: tuple[Segment, Allowance | None]) -> tuple[object, ...]:
        segment, allowance = counted
        straight = segment.price.model == "unit" and not segment.price.included
        if straight and segment.price.max_minor is None and allowance is None:
            return (segment.valid_from,)
        return (*_terms(segment), segment.share, allowance and allowance.start)

    allowed = ((segment, quota(segment.valid_from) if quota else None) for segment in within)
    for _, same in groupby(allowed, key=count):
        segments, allowances = zip(*same, strict=True)
        yield list(segments), allowances[0]


def _metered(
    group: Sequence[Segment], allowance: Allowance | None, period: Period, usage: Usage
) -> Iterator[Rated]:
    """Charges of one count, in order: each is what all of them cost less what those before it did."""
    price, share = group[0].price, Fraction(group[0].share)
    served = sum((ratio(one.valid_to - one.valid_from, period.full) for one in group), Fraction(0))

    def cost(units: Fraction) -> Fraction:
        return charges.at_most(price, charges.charge(price, units, served) * share, served)

    def bill(units: Fraction) -> tuple[Fraction, Fraction, Fraction, Fraction]:
        """(units at the rate, their cost, units beyond the commitment, their cost)"""
        if allowance is None:
            return units, cost(units), Fraction(0), Fraction(0)
        taken = allowance.take(units)
        over = (cost(units) - cost(units - taken.over)) * Fraction(allowance.factor)
        return taken.within, cost(taken.within), taken.over, over

    used, done = Fraction(0), (Fraction(0),) * 4
    for segment in group:
        quantity = Fraction(usage(segment.line_id, segment.valid_from, segment.valid_to))
        used += quantity
        now = bill(used)
        units, exact, over, extra = (after - before for after, before in zip(now, done, strict=True))
        yield Rated(
            "usage", segment, segment.line_id, segment.valid_from, segment.valid_to, decimal(units),
            price.rate, quantity - over, exact, rounded(now[1]) - rounded(done[1]),
        )  # fmt: skip
        if over and allowance:
            yield Rated(
                "overage", segment, allowance.commitment_id, segment.valid_from, segment.valid_to,
                decimal(over), price.rate * allowance.factor, over, extra,
                rounded(now[3]) - rounded(done[3]),
            )  # fmt: skip
        done = now


def _terms(segment: Segment) -> tuple[Price, UUID, int]:
    return segment.price, segment.seller_id, segment.owner_epoch
