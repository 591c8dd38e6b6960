"""I9: an event is published only after the effects of every group that listens to it.
I5 for streams: whatever is not delivered has a wake-up or a person who knows."""

import json
from collections.abc import Iterator

from django.db import connection

from commerce.invariants import Finding, invariant
from commerce.outbox.registry import all_handlers


@invariant("I9", "An event is published only after its effects")
def published_before_its_effects() -> Iterator[Finding]:
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT e.id, e.type, s."group" FROM outbox_outboxstream s
               JOIN outbox_outboxevent e ON e.aggregate_type = s.aggregate_type
                AND e.aggregate_id = s.aggregate_id AND e.sequence > s.cursor
               WHERE s."group" <> '' AND (s.due_at IS NOT NULL OR s.parked_at IS NOT NULL)
                 AND e.published_at IS NOT NULL
                 AND EXISTS (SELECT 1 FROM jsonb_array_elements_text(%s::jsonb) t
                             WHERE t = e.type || ' ' || s."group")
               LIMIT 100""",
            [_subscriptions()],
        )
        for id_, type_, group in cursor.fetchall():
            yield Finding(f"event:{id_}", f"{type_} is published although {group} has not handled it.")


@invariant("I5", "Every undelivered event has a wake-up or is parked")
def sleeping_streams() -> Iterator[Finding]:
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT DISTINCT s.id, s.aggregate_type, s.aggregate_id, s."group"
               FROM outbox_outboxevent e
               JOIN outbox_outboxstream s ON e.aggregate_type = s.aggregate_type
                AND e.aggregate_id = s.aggregate_id AND e.sequence > s.cursor
               WHERE e.published_at IS NULL AND s."group" <> ''
                 AND s.due_at IS NULL AND s.parked_at IS NULL LIMIT 100"""
        )
        for id_, type_, aggregate, group in cursor.fetchall():
            yield Finding(f"stream:{id_}", f"{type_} {aggregate} has events that {group} will never see.")


def _subscriptions() -> str:
    return json.dumps([f"{handler.type} {handler.group}" for handler in all_handlers()])
