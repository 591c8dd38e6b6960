"""From events to messages: what is pending becomes one message per endpoint that wants and may hear it.

The rows to be handled are taken away and the messages made in one transaction, so that each event
reaches each endpoint once, whoever dies in between. An event that cannot be handled waits for a
later try and holds up no other.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from celery.exceptions import SoftTimeLimitExceeded
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone

from commerce.actor import Actor
from commerce.console.services import clear_reviews, open_review
from commerce.errors import UnknownVersion
from commerce.ids import made_at
from commerce.logs import redact
from commerce.outbox import catalog
from commerce.outbox.models import OutboxEvent
from commerce.outbox.partitions import after, midnight
from commerce.outbox.retention import recorded_near
from commerce.outbox.stopping import stopping
from commerce.parties.models import Organization
from commerce.webhooks import audience
from commerce.webhooks.event_types import patterns_of
from commerce.webhooks.models import PendingEvent, WebhookMessage

log = logging.getLogger(__name__)

EVENTS_PER_CLAIM = 200
LARGEST_BODY = 20_000
TRIES_BEFORE_REVIEW = 5
LONGEST_DELAY = timedelta(hours=1)
REVIEW = "webhook_fan_out_failed"
SYSTEM = Actor.system("webhooks")

_TAKE = """
DELETE FROM webhooks_pendingevent WHERE id IN (
  SELECT id FROM webhooks_pendingevent WHERE due_at <= %s
  ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED
) RETURNING event_id, attempts
"""
# Locked for as long as messages are made for them, so that none is deleted meanwhile.
_SUBSCRIBED = """
SELECT e.id, e.organization_id, e.event_types FROM webhooks_webhookendpoint e
WHERE e.organization_id = ANY (%s::uuid[]) AND e.event_types && %s::text[]
  AND (e.status = 'enabled' OR e.collects_until > now())
ORDER BY e.id FOR SHARE OF e
"""


def fan_out(*, at: datetime, limit: int = 10_000) -> int:
    """Make the messages of what is pending, and return how many events were dealt with."""
    done = 0
    while done < limit and not stopping():
        try:
            with transaction.atomic():
                taken = _take(EVENTS_PER_CLAIM)
                _make_messages([event_id for event_id, _ in taken])
        except SoftTimeLimitExceeded:
            raise
        except Exception:  # one of them, perhaps: each by itself then
            log.exception("events could not become webhook messages together")
            taken = _one_by_one(at)
        if not taken:
            break
        done += len(taken)
    return done


def _take(limit: int) -> list[tuple[UUID, int]]:
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, [timezone.now(), limit])
        return cursor.fetchall()


def _one_by_one(at: datetime) -> list[tuple[UUID, int]]:
    """Each pending event in a transaction of its own; what fails comes back later."""
    waiting = PendingEvent.objects.filter(due_at__lte=timezone.now()).order_by("due_at", "id")
    handled = []
    for row in waiting[:EVENTS_PER_CLAIM]:
        try:
            with transaction.atomic():
                if not PendingEvent.objects.filter(pk=row.pk).select_for_update(skip_locked=True):
                    continue
                _make_messages([row.event_id])
                PendingEvent.objects.filter(pk=row.pk).delete()
                if row.attempts >= TRIES_BEFORE_REVIEW:
                    _clear(row, at)
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:  # the edge: what a resolver raises is kept, not lost
            _postpone(row, error, at)
        handled.append((row.event_id, row.attempts))
    return handled


@transaction.atomic
def _postpone(row: PendingEvent, error: Exception, at: datetime) -> None:
    tried = row.attempts + 1
    PendingEvent.objects.filter(pk=row.pk).update(
        attempts=F("attempts") + 1,
        due_at=timezone.now() + min(timedelta(seconds=2.0**tried), LONGEST_DELAY),
        last_error=redact(f"{type(error).__name__}: {error}")[:2000],
    )
    log.warning(
        "an event could not become webhook messages", extra={"event": str(row.event_id)}, exc_info=error
    )
    event = OutboxEvent.objects.filter(event_id=row.event_id).first()
    if tried >= TRIES_BEFORE_REVIEW and event:
        open_review(
            kind=REVIEW,
            subject_type="outbox.outboxevent",
            subject_id=event.pk,
            title=f"Nobody is told of {event.type}",
            detail=f"Its webhook messages could not be made: {redact(str(error))[:500]} It is tried hourly.",
            actor=SYSTEM,
            at=at,
        )


def _clear(row: PendingEvent, at: datetime) -> None:
    event = OutboxEvent.objects.get(event_id=row.event_id)
    clear_reviews(
        subject_type="outbox.outboxevent",
        subject_id=event.pk,
        kind=REVIEW,
        actor=SYSTEM,
        at=at,
        reason="Its messages were made.",
    )


def _make_messages(event_ids: Sequence[UUID]) -> None:
    events = [_known(event) for event in OutboxEvent.objects.filter(recorded_near(*event_ids)).order_by("id")]
    readers = audience.audience_of(events)
    platform = Organization.objects.platform().pk
    subscribed = _subscribed(
        {pattern for event in events for pattern in patterns_of(event.type)},
        {platform}.union(*readers.values()),
    )
    messages = []
    for event in events:
        for owner in {platform, *readers[event.event_id]}:
            wanting = [endpoint for endpoint in subscribed.get(owner, ()) if endpoint.wants(event)]
            if not wanting:
                continue
            payload = event.payload
            if owner != platform:
                payload = audience.public_part(event, readers[event.event_id][owner])
            body = body_of(event, payload)
            messages += [
                WebhookMessage(
                    endpoint_id=endpoint.id,
                    event_id=event.event_id,
                    type=event.type,
                    body=body,
                    due_at=timezone.now(),
                )
                for endpoint in wanting
            ]
    WebhookMessage.objects.bulk_create(messages, ignore_conflicts=True)


def _known(event: OutboxEvent) -> OutboxEvent:
    """The event as of today's version. UnknownVersion for what only a newer release can say who hears it."""
    if catalog.event_type(event.type) is None:
        raise UnknownVersion(f"{event.type} is unknown here: deploy the release that wrote it.")
    return catalog.current(event)


@dataclass(frozen=True)
class _Subscription:
    """An endpoint as far as the fan-out asks."""

    id: UUID
    patterns: frozenset[str]

    def wants(self, event: OutboxEvent) -> bool:
        """Identifiers count time: what happened before the endpoint was there is not for it, nor is a copy
        of that."""
        original = UUID(event.headers["causation_id"]) if "replay" in event.headers else event.event_id
        return original > self.id and not self.patterns.isdisjoint(patterns_of(event.type))


def _subscribed(patterns: set[str], owners: set[UUID]) -> dict[UUID, list[_Subscription]]:
    found: dict[UUID, list[_Subscription]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_SUBSCRIBED, [list(owners), sorted(patterns)])
        for id_, owner, wanted in cursor.fetchall():
            found.setdefault(owner, []).append(_Subscription(id_, frozenset(wanted)))
    return found


def untold(month: date) -> str:
    """Why the events of a month must stay: "" once each has become the messages that it should."""
    oldest = PendingEvent.objects.order_by("event_id").values_list("event_id", flat=True).first()
    made = made_at(oldest) if oldest else None
    if made is None or made >= midnight(after(month)):
        return ""
    return f"Event {oldest} has not become webhook messages yet."


def body_of(event: OutboxEvent, payload: dict[str, Any]) -> bytes:
    """What is sent of an event; without the payload where that would be too large."""
    identity = {
        "id": str(event.event_id),
        "object": event.aggregate_type,
        "object_id": event.aggregate_id,
        "sequence": event.sequence,
    }
    body = _encoded(event, {**payload, **identity})
    return body if len(body) <= LARGEST_BODY else _encoded(event, {**identity, "truncated": True})


def _encoded(event: OutboxEvent, data: dict[str, Any]) -> bytes:
    timestamp = event.occurred_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    document = {"type": event.type, "timestamp": timestamp, "data": data}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, cls=DjangoJSONEncoder).encode()
