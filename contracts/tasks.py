"""The tick that lets future edits and term ends take effect."""

from celery import shared_task

from commerce import clock
from contracts.services import take_effect_due


@shared_task(name="contracts.take_effect")
def take_effect() -> int:
    """Project up to 200 contracts whose next instant has come; the next tick goes on."""
    return take_effect_due(at=clock.now())
