"""Commitments: windows, what falls short of one, what goes beyond it, and whose money that is.

A window that is cut (a late start, an early end, another owner, a fault of the seller) asks for as much of
the commitment as the part of the full window that is left. What falls short is never below zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

from commerce.money import allocate, round_half_up
from contracts.rules.pricing import ratio


@dataclass(frozen=True)
class Window:
    """[start, end) over which a commitment is measured; `share` of the whole one. Waived: not settled."""

    start: datetime
    end: datetime
    share: Fraction = Fraction(1)
    waived: bool = False


@dataclass(frozen=True)
class Units:
    """How a window's units divide; `within + covered + over` were used, `within + short` were committed.

    `covered` were bought as shortfall of the window before; `rolled` are open to the next window.
    """

    within: Fraction
    covered: Fraction
    over: Fraction
    short: Fraction
    rolled: Fraction


@dataclass(frozen=True)
class Allowance:
    """What is committed over a window, and how much of it other charges have used before this one."""

    commitment_id: UUID
    start: datetime
    committed: Fraction
    factor: Decimal
    used: Fraction = Fraction(0)
    rolled: Fraction = Fraction(0)

    def take(self, units: Fraction) -> Units:
        """How `units` more divide."""
        before, after = (
            units_of(used, self.committed, rolled=self.rolled) for used in (self.used, self.used + units)
        )
        return Units(
            within=after.within - before.within,
            covered=after.covered - before.covered,
            over=after.over - before.over,
            short=after.short,
            rolled=Fraction(0),
        )


def window(start: datetime, end: datetime, full: timedelta, paused: timedelta = timedelta(0)) -> Window:
    """[start, end) of a full window of length `full`, of which `paused` does not count."""
    return Window(start, end, ratio(end - start - paused, full))


def units_of(
    used: Fraction, committed: Fraction, *, rolled: Fraction = Fraction(0), cap: Decimal = Decimal(0)
) -> Units:
    """Divide a window's units; at most `cap` of what falls short stays open to the next window."""
    within = min(used, committed)
    covered = min(used - within, rolled)
    short = committed - within
    return Units(within, covered, used - within - covered, short, min(short, Fraction(cap)))


def shortfall(committed_minor: int, used_minor: int, share: Fraction = Fraction(1)) -> int:
    """The true-up of a minimum spend over one window, in minor units."""
    return max(0, round_half_up(committed_minor * share) - used_minor)


def surcharge(committed_minor: int, used_minor: int, factor: Decimal, share: Fraction = Fraction(1)) -> int:
    """What spending beyond a minimum spend costs on top, in minor units: the lines carry its rate once."""
    over = max(0, used_minor - round_half_up(committed_minor * share))
    return round_half_up(over * (Fraction(factor) - 1))


def by_weight(minor: int, weights: Sequence[int | Fraction]) -> list[int]:
    """An amount split over the lines of a scope by their weight; evenly when none weighs anything."""
    return allocate(minor, weights if any(weights) else [1] * len(weights))
