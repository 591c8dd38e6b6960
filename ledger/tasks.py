"""The ticks: release what has seasoned, finish closing periods, fold and seal what was recorded."""

from celery import shared_task

from commerce import clock
from commerce.actor import Actor
from ledger.services import finish_closings, keep, release_due, show_next_month


@shared_task(name="ledger.release_due")
def release_due_money() -> int:
    """Release up to 500 due releases; the next tick goes on."""
    return release_due(at=clock.now(), actor=Actor.system("ledger"))


@shared_task(name="ledger.finish_closings")
def finish_closing_periods() -> int:
    """Close what nobody can post to any more, and show the month that comes next."""
    closed = finish_closings(at=clock.now(), actor=Actor.system("ledger"))
    show_next_month()
    return closed


@shared_task(name="ledger.keep")
def keep_days_and_seals() -> int:
    """Fold and seal what was recorded since the last time."""
    return keep()
