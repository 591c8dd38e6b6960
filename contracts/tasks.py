"""Ticks: what is scheduled is done, future edits and term ends take effect, holds of units expire."""

from celery import shared_task

from commerce import clock
from contracts.services import follow_clock, release_expired_holds, run_due, take_effect_due
from contracts.services.bulk import advance_bulk


@shared_task(name="contracts.run_schedule")
def run_schedule() -> int:
    """Carry out up to 500 scheduled commands whose instant has come; the next tick goes on."""
    return run_due(at=clock.now())


@shared_task(name="contracts.take_effect")
def take_effect() -> int:
    """Project up to 200 contracts and 500 units whose next instant has come; the next tick goes on."""
    at = clock.now()
    return take_effect_due(at=at) + follow_clock(at=at)


@shared_task(name="contracts.release_holds")
def release_holds() -> int:
    """Free up to 200 holds whose time is over; the next tick goes on."""
    return release_expired_holds(at=clock.now())


@shared_task(name="contracts.run_bulk")
def run_bulk() -> int:
    """Preview and run rows of plans over many contracts for some seconds; the next tick goes on."""
    return advance_bulk(at=clock.now())
