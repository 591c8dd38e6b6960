"""Billing's periodic work: the clock moves statuses, the pollers make up for lost webhooks."""

import logging
from collections.abc import Callable

from celery import shared_task

from billing import services
from commerce import clock
from commerce.actor import Actor
from commerce.errors import ProviderError

log = logging.getLogger(__name__)


@shared_task(name="billing.advance")
def advance() -> int:
    """Move the billing statuses that time alone changes."""
    return services.check_due_accounts(actor=Actor.system("clock"), at=clock.now())


@shared_task(name="billing.poll_invoices")
def poll_invoices() -> int:
    """Re-read what OpenMeter may have told us in a webhook that never came."""
    return _poll(services.poll_invoices)


@shared_task(name="billing.check_drift")
def check_drift() -> int:
    """Compare what OpenMeter is going to bill with the contracts, a few at a time."""
    return _poll(services.check_due_drift)


@shared_task(name="billing.poll_incoming_payments")
def poll_incoming_payments() -> int:
    """Re-read what Modern Treasury may have told us in a webhook that never came."""
    return _poll(services.poll_incoming_payments)


def _poll(read: Callable[..., int]) -> int:
    """A provider that is away is no error here: the next tick asks again."""
    try:
        return read(actor=Actor.system("poller"), at=clock.now())
    except ProviderError as error:
        log.warning("poll ended early: %s", error.detail)
        return 0
