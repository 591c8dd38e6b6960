"""The periodic task of parties."""

from celery import shared_task

from commerce import clock
from commerce.actor import Actor
from commerce.parties import services


@shared_task(name="parties.poll")
def poll() -> int:
    """Destroy bank details nobody fetched within a day. The relay retries everything else."""
    return services.expire_bank_details(actor=Actor.system("parties"), at=clock.now())
