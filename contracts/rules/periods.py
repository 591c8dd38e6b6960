"""Billing periods: anchored calendar months, half-open UTC instants.

A period starts on the anchor day at midnight, clamped to the month's last day and back again
(31 January, 28 February, 31 March). The first invoice period begins at the contract's start and
is a stub of the full period around it.
"""

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True)
class Period:
    """[start, end) to invoice, inside the anchored [full_start, full_end); iterates as start, end."""

    start: datetime
    end: datetime
    full_start: datetime
    full_end: datetime

    def __iter__(self) -> Iterator[datetime]:
        return iter((self.start, self.end))

    @property
    def full(self) -> timedelta:
        """The denominator of every proration in this period."""
        return self.full_end - self.full_start


def billing_period(anchor_day: int, start: datetime, at: datetime) -> Period:
    """The period that contains `at`, cut at `start`; before `start`, the first period."""
    moment = max(at, start).astimezone(UTC)
    full_start = anchored(moment.year, moment.month, anchor_day)
    if full_start > moment:
        full_start = anchored(*_month_after(moment.year, moment.month, -1), anchor_day)
    full_end = anchored(*_month_after(full_start.year, full_start.month, 1), anchor_day)
    return Period(max(full_start, start), full_end, full_start, full_end)


def anchored(year: int, month: int, day: int) -> datetime:
    """Midnight UTC of `day` in that month, or of its last day when it is shorter."""
    return datetime(year, month, min(day, calendar.monthrange(year, month)[1]), tzinfo=UTC)


def add_months(at: datetime, months: int) -> datetime:
    """The same day and time of day, `months` later, clamped to the end of the month."""
    at = at.astimezone(UTC)
    year, month = _month_after(at.year, at.month, months)
    return at.replace(year=year, month=month, day=min(at.day, calendar.monthrange(year, month)[1]))


def _month_after(year: int, month: int, months: int) -> tuple[int, int]:
    count = year * 12 + month - 1 + months
    return count // 12, count % 12 + 1
