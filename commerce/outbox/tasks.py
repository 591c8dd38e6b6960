"""The relay's doors for Celery: a nudge after each commit, and the beat tick as safety net."""

from celery import shared_task

from commerce.outbox.relay import drain, publish_settled


@shared_task(name="outbox.drain")
def drain_local() -> int:
    """Deliver to the groups that stay in the database, for at most 20 seconds; the next wake-up goes on."""
    return drain(seconds=20, remote=False).handled


@shared_task(name="outbox.drain_remote")
def drain_remote() -> int:
    """Deliver to the groups that talk to providers, however slow: their queue is their own."""
    return drain(seconds=20, remote=True).handled


@shared_task(name="outbox.publish")
def publish() -> int:
    """Mark events whose last effect committed just before a crash."""
    return publish_settled()
