"""Day counts: which part of a month or of a year lies between two dates, the last one excluded.

Billing prorates by `actual` time; the others are the conventions of lenders and of contracts that
come from elsewhere. In 30/360 a month's last day counts as its thirtieth.
"""

from datetime import date, timedelta
from fractions import Fraction
from typing import Literal

MonthCount = Literal["actual", "actual_30", "30_360"]
YearCount = Literal["30_360", "actual_365"]


def days_30_360(start: date, end: date) -> int:
    """Days from `start` to `end` when every month has thirty."""
    months = (end.year - start.year) * 12 + end.month - start.month
    return months * 30 + _thirtieth(end) - _thirtieth(start)


def months_between(start: date, end: date, count: MonthCount = "actual") -> Fraction:
    """Months from `start` to `end`: whole calendar months are one each, the rest by `count`."""
    months = Fraction(0)
    while start < end:
        following = _next_month(start)
        until = min(following, end)
        days, length = (until - start).days, (following - start.replace(day=1)).days
        if count == "30_360":
            months += Fraction(days_30_360(start, until), 30)
        elif count == "actual_30" and days < length:
            months += Fraction(days, 30)
        else:
            months += Fraction(days, length)
        start = until
    return months


def years_between(start: date, end: date, count: YearCount) -> Fraction:
    """Years from `start` to `end` as interest counts them."""
    if count == "30_360":
        return Fraction(days_30_360(start, end), 360)
    return Fraction((end - start).days, 365)


def _thirtieth(day: date) -> int:
    return 30 if (day + timedelta(days=1)).day == 1 else day.day


def _next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)
