"""Calendar months in UTC: of business time they are periods, of recording partitions and archives."""

from datetime import UTC, date, datetime, time, timedelta


def after(month: date) -> date:
    """The first day after the month that a day is in."""
    return (month.replace(day=28) + timedelta(days=4)).replace(day=1)


def midnight(day: date) -> datetime:
    """The instant at which a day begins."""
    return datetime.combine(day, time.min, UTC)
