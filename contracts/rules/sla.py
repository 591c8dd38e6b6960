"""Uptime and what is owed for the lack of it: pure functions of service spans and of the contract's terms.

Uptime = 1 − weighted down time / time served. Announced maintenance, blocked access, and what lies before
and after the service count on neither side. Durations are exact; a credit is rounded once, half up.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from commerce.money import allocate, round_half_up
from contracts.rules.service import Span
from contracts.rules.terms import Sla

_NONE = timedelta(0)
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Availability:
    """How long units served, and how much of it they were degraded or down. Adds up over units."""

    served: timedelta = _NONE
    degraded: timedelta = _NONE
    down: timedelta = _NONE

    def __add__(self, other: "Availability") -> "Availability":
        return Availability(
            self.served + other.served, self.degraded + other.degraded, self.down + other.down
        )

    def down_minutes(self, sla: Sla) -> Fraction:
        """Minutes down, degraded ones by their weight; exact."""
        return _minutes(self.down) + _minutes(self.degraded) * Fraction(sla.degraded_weight)

    def uptime(self, sla: Sla) -> Fraction:
        """A share from 0 to 1; 1 where nothing was served."""
        served = _minutes(self.served)
        return 1 - self.down_minutes(sla) / served if served else Fraction(1)


@dataclass(frozen=True)
class Charged:
    """What a line came to for `billed` time of its units together, and what they did in that time."""

    net_minor: int
    billed: timedelta
    found: Availability


def availability(spans: Iterable[Span], start: datetime, end: datetime) -> Availability:
    """Of one unit over [start, end). Maintenance that was not announced in time is down."""
    served = degraded = down = _NONE
    for span in spans:
        length = max(_NONE, min(span.end or end, end) - max(span.start, start))
        if span.state == "down" or (span.state == "maintenance" and not span.excused):
            down += length
        elif span.state == "degraded":
            degraded += length
        elif span.state != "in_service":
            continue
        served += length
    return Availability(served, degraded, down)


def gives_credit(sla: Sla) -> bool:
    """Whether the terms say that a credit is given by itself, and of what."""
    return sla.auto_credit and bool(sla.cap) and (sla.credit == "pro_rata" or bool(sla.tiers))


def sla_credit(charges: Sequence[Charged], sla: Sla) -> list[int]:
    """What each of a line's charges gives back in minor units: one sum, rounded once, at most `cap` of them.

    tiered: the share of the lowest tier that the uptime over all of them lies below. pro_rata: of each the
    part of the time it was billed for that units were down.
    """
    if sla.credit == "tiered":
        uptime = sum((one.found for one in charges), Availability()).uptime(sla)
        share = max((Fraction(tier.credit) for tier in sla.tiers if uptime < tier.below), default=Fraction(0))
        exact = [one.net_minor * share for one in charges]
    else:
        exact = [
            one.net_minor * min(one.found.down_minutes(sla) / _minutes(one.billed), Fraction(1))
            for one in charges
        ]
    most = sum(one.net_minor for one in charges) * Fraction(sla.cap)
    credit = round_half_up(min(sum(exact, Fraction(0)), most))
    return allocate(credit, exact) if credit else [0] * len(charges)


def _minutes(duration: timedelta) -> Fraction:
    return Fraction(duration // timedelta(microseconds=1), _MINUTE // timedelta(microseconds=1))
