"""Billing's periodic work: the clock moves statuses, the pollers make up for lost webhooks."""

from celery import shared_task

from billing import services
from commerce import clock
from commerce.actor import Actor


@shared_task(name="billing.advance")
def advance() -> int:
    """Move the billing statuses that time alone changes."""
    return services.check_due_accounts(actor=Actor.system("clock"), at=clock.now())


@shared_task(name="billing.poll")
def poll() -> int:
    """Re-read what the providers may have told us in a webhook that never came."""
    actor, at = Actor.system("poller"), clock.now()
    return services.poll_incoming_payments(actor=actor, at=at) + services.poll_invoices(actor=actor, at=at)
