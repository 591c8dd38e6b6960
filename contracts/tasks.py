"""Ticks: future edits and term ends take effect, holds of units expire."""

from celery import shared_task

from commerce import clock
from contracts.services import release_expired_holds, take_effect_due


@shared_task(name="contracts.take_effect")
def take_effect() -> int:
    """Project up to 200 contracts whose next instant has come; the next tick goes on."""
    return take_effect_due(at=clock.now())


@shared_task(name="contracts.release_holds")
def release_holds() -> int:
    """Free up to 200 holds whose time is over; the next tick goes on."""
    return release_expired_holds(at=clock.now())
