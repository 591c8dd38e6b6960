"""The relay's doors for Celery: a nudge after each commit, and the beat tick as safety net."""

from collections.abc import Sequence
from typing import Any

from celery import shared_task
from celery.signals import worker_process_shutdown

from commerce.outbox import timings
from commerce.outbox.claims import publish_left
from commerce.outbox.partitions import make_partitions
from commerce.outbox.registry import BATCH, LOCAL
from commerce.outbox.relay import drain


@shared_task(name="outbox.drain")
def drain_lane(lane: str) -> int:
    """Deliver what a lane holds, for at most 20 seconds; the next wake-up goes on."""
    return drain(lanes=[lane], seconds=20).handled


@shared_task(name="outbox.publish")
def publish() -> int:
    """Mark events whose last effect committed just before a crash."""
    return publish_left()


@shared_task(name="outbox.make_partitions")
def make_months() -> int:
    """Stay three months ahead of the calendar."""
    return make_partitions()


def queue_of(lane: str) -> str:
    """Each provider's streams wait in a queue of their own, however slow it is."""
    return "outbox" if lane in (LOCAL, BATCH) else f"provider-{lane}"


def route(name: str, args: Sequence[Any] | None, *_: Any, **__: Any) -> dict[str, str] | None:
    """Celery's question where a task goes: a drain goes by its lane, the rest by the settings' table."""
    return {"queue": queue_of(args[0])} if name == drain_lane.name and args else None


@worker_process_shutdown.connect
def _keep_the_last_timings(**_: Any) -> None:
    timings.flush(every=0)
