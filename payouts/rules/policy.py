"""When money leaves, and who must agree: payee schedules, retries, polling and the two-person rule."""

from calendar import monthrange
from datetime import datetime, timedelta

ATTEMPTS = 3
WATCHED_AFTER_PAID = timedelta(days=90)
WATCHED_AFTER_GIVEN_UP = timedelta(days=7)
_SLOWEST = {False: timedelta(hours=6), True: timedelta(days=7)}


def next_run(cadence: str, day: int, after: datetime) -> datetime:
    """The first midnight UTC after `after` on ISO weekday `day`, or on that day of the month, clamped."""
    midnight = after.replace(hour=0, minute=0, second=0, microsecond=0)
    if cadence == "weekly":
        return midnight + timedelta(days=(day - midnight.isoweekday() - 1) % 7 + 1)
    this_month = _in_month(midnight, day)
    if this_month > after:
        return this_month
    return _in_month(midnight.replace(day=1) + timedelta(days=32), day)


def _in_month(month: datetime, day: int) -> datetime:
    return month.replace(day=min(day, monthrange(month.year, month.month)[1]))


def retry_delay(attempt: int) -> timedelta | None:
    """How long to wait when attempt number `attempt` failed: a day, two days; None: a person decides."""
    return timedelta(days=2 ** (attempt - 1)) if attempt < ATTEMPTS else None


def poll_delay(waited: timedelta, *, paid: bool, shortest: timedelta) -> timedelta:
    """Until the next look at an order that has stood as it is for `waited`: a quarter of that, bounded."""
    return max(shortest, min(waited / 4, _SLOWEST[paid]))


def approval_reason(*, amount_minor: int, limit_minor: int, by_hand: bool, new_account: bool) -> str:
    """Why a second person must agree to a payout, or "" when policy alone may send it."""
    reasons = []
    if amount_minor > limit_minor:
        reasons.append("above the approval limit")
    if new_account:
        reasons.append("first payout to a bank account added after onboarding")
    if by_hand:
        reasons.append("requested by hand")
    return ", ".join(reasons)
