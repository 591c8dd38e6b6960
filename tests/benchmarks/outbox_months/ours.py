"""The relay's own statements and the reads of its pages, one by one; there is no broker to nudge."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from django.db import transaction

from commerce.ids import uuid7
from commerce.outbox import append, claims, events
from commerce.outbox.models import OutboxEvent, OutboxStream
from commerce.outbox.retention import recorded_near
from tests.benchmarks import clocks
from tests.benchmarks.outbox.ours import drain, migrate

__all__ = ["append_rate", "drain", "migrate", "statements"]

events._quiet_until = math.inf


def append_rate(seconds: float) -> float:
    """Commits per second of one event each."""

    def work() -> int:
        _append()
        return 1

    return clocks.rate(work, seconds)


def statements(times: int) -> dict[str, dict[str, float]]:
    OutboxStream.objects.filter(due_at__isnull=False).update(due_at=None, lease_token=None)
    event = _append()
    oldest = OutboxEvent.objects.filter(aggregate_id="long").earliest("sequence").pk
    found = OutboxEvent.objects.filter
    questions: dict[str, Callable[[], Any]] = {
        "all statements about one stream": _one,
        "newest 50 events": lambda: list(OutboxEvent.objects.order_by("-id")[:50]),
        "newest 50 of an aggregate of every month": lambda: list(
            found(aggregate_type="bench", aggregate_id="long").order_by("-sequence")[:50]
        ),
        "oldest event by its number": lambda: OutboxEvent.objects.get(pk=oldest),
        "event by its id": lambda: found(event_id=event.event_id).first(),
        "event by its id and the time in it": lambda: found(recorded_near(event.event_id)).first(),
        "how many are unpublished": lambda: found(published_at__isnull=True).count(),
    }
    return {name: clocks.in_database(question, times) for name, question in questions.items()}


def _one() -> None:
    """What the relay asks around the effects of one claimed stream, taken back."""
    with transaction.atomic():
        token = uuid4()
        streams = claims.claim(token=token, lane="local", limit=1)
        claims.read(streams)
        (stream,) = streams
        stream.reached = stream.events[-1].sequence
        claims.hold(streams, token)
        claims.finish(streams)
        if claims.publish(streams) != 1:
            raise RuntimeError("The event was not published.")
        transaction.set_rollback(True)


def _append() -> OutboxEvent:
    payload = {"amount": 100, "currency": "USD", "reason": "a benchmark"}
    with transaction.atomic():
        return append("bench", str(uuid7()), "bench.one", payload, at=datetime.now(UTC))
