"""The relay's doors for Celery: a nudge after each commit, and the beat tick as safety net."""

from celery import shared_task

from commerce.outbox.claims import publish_left
from commerce.outbox.registry import BATCH, LOCAL
from commerce.outbox.relay import drain


@shared_task(name="outbox.drain")
def drain_lane(lane: str) -> int:
    """Deliver what a lane holds, for at most 20 seconds; the next wake-up goes on."""
    return drain(lanes=[lane], seconds=20).handled


def queue_of(lane: str) -> str:
    """Each provider's streams wait in a queue of their own, however slow it is."""
    return "celery" if lane in (LOCAL, BATCH) else "providers"


@shared_task(name="outbox.publish")
def publish() -> int:
    """Mark events whose last effect committed just before a crash."""
    return publish_left()
