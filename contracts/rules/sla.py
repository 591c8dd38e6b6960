"""Uptime and what is owed for the lack of it: pure functions of service spans and of the contract's terms.

Uptime = 1 − weighted down time / time served. Announced maintenance, blocked access, and what lies before
and after the service count on neither side. Durations are exact; a credit is rounded once, half up.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from commerce.money import round_half_up
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


def sla_credit(charge_minor: int, found: Availability, full: timedelta, sla: Sla, units: int = 1) -> int:
    """What the charge of so many units for a period gives back in minor units, at most `cap` of it.

    tiered: the share of the lowest tier that their uptime lies below. pro_rata: the part of the whole
    period `full` that they were down.
    """
    if sla.credit == "tiered":
        uptime = found.uptime(sla)
        share = max((Fraction(tier.credit) for tier in sla.tiers if uptime < tier.below), default=Fraction(0))
    else:
        share = found.down_minutes(sla) / (_minutes(full) * units)
    return round_half_up(charge_minor * min(share, Fraction(sla.cap)))


def _minutes(duration: timedelta) -> Fraction:
    return Fraction(duration // timedelta(microseconds=1), _MINUTE // timedelta(microseconds=1))
