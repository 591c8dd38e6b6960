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


def month_share(start: date, end: date, count: MonthCount = "actual") -> Fraction:
    """The part of their calendar month that lies between two dates of it."""
    if count == "30_360":
        return Fraction(days_30_360(start, end), 30)
    length = (_next_month(start) - start.replace(day=1)).days
    return Fraction((end - start).days, 30 if count == "actual_30" else length)


def months_between(start: date, end: date, count: MonthCount = "actual") -> Fraction:
    """Months from `start` to `end`: whole calendar months are one each, the others by `month_share`."""
    months = Fraction(0)
    while start < end:
        following = _next_month(start)
        until = min(following, end)
        whole = start.day == 1 and until == following
        months += 1 if whole else month_share(start, until, count)
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
