"""Billing periods: anchored calendar months, quarters or years, half-open UTC instants.

A period starts on the anchor day at midnight, clamped to the month's last day and back again
(31 January, 28 February, 31 March). What begins off the anchor day opens with a stub up to the next
one; the stub is priced by the full period that ends there, and whole periods are counted from there.
"""

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

Cadence = Literal["P1M", "P3M", "P1Y"]
MONTHS: dict[Cadence, int] = {"P1M": 1, "P3M": 3, "P1Y": 12}


@dataclass(frozen=True)
class Period:
    """[start, end) to invoice, inside the anchored [full_start, full_end) of so many calendar months.

    Iterates as start, end.
    """

    start: datetime
    end: datetime
    full_start: datetime
    full_end: datetime
    months: int = 1

    def __iter__(self) -> Iterator[datetime]:
        return iter((self.start, self.end))

    @property
    def full(self) -> timedelta:
        """The denominator of every proration in this period."""
        return self.full_end - self.full_start


def billing_period(anchor_day: int, start: datetime, at: datetime, cadence: Cadence = "P1M") -> Period:
    """The period that contains `at`, cut at `start`; before `start`, the first period."""
    start = start.astimezone(UTC)
    moment = max(at.astimezone(UTC), start)
    months = MONTHS[cadence]
    first = _month_of(start)
    if _anchored(first, anchor_day) < start:
        first += 1
    since = first + (_month_of(moment) - first) // months * months
    if _anchored(since, anchor_day) > moment:
        since -= months
    full_start, full_end = _anchored(since, anchor_day), _anchored(since + months, anchor_day)
    return Period(max(full_start, start), full_end, full_start, full_end, months)


def periods_between(
    anchor_day: int, start: datetime, end: datetime, cadence: Cadence = "P1M"
) -> Iterator[Period]:
    """The periods of what begins at `start`, in order, until `end`; the last may reach beyond it."""
    at = start
    while at < end:
        period = billing_period(anchor_day, start, at, cadence)
        yield period
        at = period.end


def anchored(year: int, month: int, day: int) -> datetime:
    """Midnight UTC of `day` in that month, or of its last day when it is shorter."""
    return datetime(year, month, min(day, calendar.monthrange(year, month)[1]), tzinfo=UTC)


def add_months(at: datetime, months: int) -> datetime:
    """The same day and time of day, `months` later, clamped to the end of the month."""
    at = at.astimezone(UTC)
    year, month = divmod(_month_of(at) + months, 12)
    return at.replace(year=year, month=month + 1, day=min(at.day, calendar.monthrange(year, month + 1)[1]))


def _month_of(at: datetime) -> int:
    return at.year * 12 + at.month - 1


def _anchored(month: int, day: int) -> datetime:
    return anchored(month // 12, month % 12 + 1, day)
