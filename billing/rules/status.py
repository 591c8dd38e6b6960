"""The billing status of a contract, derived from its unpaid invoices and the clock.

Ages count from the due date of the oldest unpaid invoice: grace days, then past due for ten days,
then delinquent until day 21 after grace, then collections (the dunning profile of Kill Bill's
overdue system, with our grace in front).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

PAST_DUE_DAYS = 10
DELINQUENT_DAYS = 21

LADDER = ("current", "invoiced", "in_grace", "past_due", "delinquent", "collections")


@dataclass(frozen=True)
class Facts:
    """What the status depends on. `due` holds the due dates of the unpaid invoices."""

    due: Sequence[datetime]
    grace_days: int
    ever_invoiced: bool
    ended: bool
    unbilled: bool


def derive(facts: Facts, at: datetime) -> str:
    """The status that the facts give at an instant."""
    if not facts.due:
        if facts.ended and not facts.unbilled:
            return "settled"
        return "current" if facts.ever_invoiced or facts.ended else "not_billing"
    for status, since in reversed(_steps(facts)):
        if at >= since:
            return status
    return "invoiced"


def next_change(facts: Facts, at: datetime) -> datetime | None:
    """When the clock alone will change the status next; None when it will not."""
    if not facts.due:
        return None
    return next((since for _, since in _steps(facts) if since > at), None)


def path(source: str, target: str) -> list[str]:
    """The states to enter on the way: downwards every rung in order, upwards straight to the target."""
    if source in LADDER and target in LADDER and LADDER.index(source) < LADDER.index(target):
        return list(LADDER[LADDER.index(source) + 1 : LADDER.index(target) + 1])
    if source in ("not_billing", "settled") and target in LADDER[1:]:
        return list(LADDER[1 : LADDER.index(target) + 1])
    return [] if source == target else [target]


def _steps(facts: Facts) -> list[tuple[str, datetime]]:
    due = min(facts.due)
    grace = due + timedelta(days=facts.grace_days)
    return [
        ("in_grace", due),
        ("past_due", grace),
        ("delinquent", grace + timedelta(days=PAST_DUE_DAYS)),
        ("collections", grace + timedelta(days=DELINQUENT_DAYS)),
    ]
