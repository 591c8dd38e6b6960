"""What an operator reads: how a stream is and who intervened, where an event has got to, what caused it and
what it caused."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.db.models.fields.json import KT
from django.utils import timezone

from commerce.models import TransitionLog
from commerce.outbox import registry
from commerce.outbox.models import Circuit, OutboxEvent, OutboxFailure, OutboxSkip, OutboxStream
from commerce.outbox.retention import recorded_near

SHOWN = 50
LONGEST_CHAIN = 50
LONGEST_PAYLOAD = 10_000


@dataclass(frozen=True)
class Delivery:
    """One subscriber's dealings with one event."""

    group: str
    stream: OutboxStream | None
    state: str
    failures: list[OutboxFailure]
    skip: OutboxSkip | None = None


def condition(stream: OutboxStream) -> str:
    """parked, working, retrying, due or idle."""
    if stream.parked_at:
        return "parked"
    if stream.due_at is None:
        return "idle"
    if stream.lease_token and stream.due_at > timezone.now():
        return "working"
    return "retrying" if stream.attempts else "due"


def interventions(row: OutboxStream | Circuit) -> QuerySet[TransitionLog]:
    """Who did what to a stream, or a line, and why; the latest first."""
    found = TransitionLog.objects.filter(model=row._meta.label_lower, object_id=str(row.pk))
    return found.order_by("-id")


def shown_payload(event: OutboxEvent) -> Any:
    """What an event says; as text that is cut when it is very long."""
    text = json.dumps(event.payload, ensure_ascii=False)
    most = LONGEST_PAYLOAD
    return event.payload if len(text) <= most else f"{text[:most]} … of {len(text):,} characters"


def deliveries(event: OutboxEvent) -> list[Delivery]:
    """Per subscriber that the event is for: done, skipped, not for it, or how its stream is."""
    of_stream = OutboxStream.objects.filter(
        aggregate_type=event.aggregate_type, aggregate_id=event.aggregate_id
    )
    streams = {stream.group: stream for stream in of_stream}
    skips = {skip.group: skip for skip in OutboxSkip.objects.filter(event_id=event.event_id)}
    failures = list(OutboxFailure.objects.filter(event_id=event.event_id).order_by("-id")[:SHOWN])
    found = []
    receivers = registry.receivers_of(event)
    concerned = {*receivers, *registry.groups_of(event.type), *(failure.group for failure in failures)}
    for group in sorted(concerned):
        stream, skip = streams.get(group), skips.get(group)
        state = "skipped" if skip else _state(event, group, stream)
        own = [failure for failure in failures if failure.group == group]
        found.append(Delivery(group, stream, state, own, skip))
    return found


def _state(event: OutboxEvent, group: str, stream: OutboxStream | None) -> str:
    if group not in registry.receivers_of(event):
        return "not for it"
    if stream is None:
        return "never woken"
    return "done" if stream.cursor >= event.sequence else condition(stream)


def causes(event: OutboxEvent) -> Iterator[OutboxEvent]:
    """What caused it, what caused that, and so on; the nearest first."""
    for _ in range(LONGEST_CHAIN):
        cause = event.headers.get("causation_id")
        found = cause and OutboxEvent.objects.filter(recorded_near(UUID(cause))).first()
        if not found:
            return
        yield (event := found)


def consequences(event: OutboxEvent) -> QuerySet[OutboxEvent]:
    """What names it as its cause, replays among it; by its own index."""
    found = OutboxEvent.objects.filter(headers__has_key="causation_id")
    return found.alias(cause=KT("headers__causation_id")).filter(cause=str(event.event_id)).order_by("id")
