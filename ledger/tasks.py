"""The tick that releases what has seasoned."""

from celery import shared_task

from commerce import clock
from commerce.actor import Actor
from ledger.services import release_due


@shared_task(name="ledger.release_due")
def release_due_money() -> int:
    """Release up to 500 due releases; the next tick goes on."""
    return release_due(at=clock.now(), actor=Actor.system("ledger"))
