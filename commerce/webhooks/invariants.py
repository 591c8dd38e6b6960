"""I5 for webhooks: every message has a wake-up to come or an end, and no event is overlooked."""

from collections.abc import Iterator

from django.db import connection

from commerce.invariants import Finding, invariant


@invariant("I5", "Every webhook message is due, delivered, failed or cancelled, and one of them")
def lost_messages() -> Iterator[Finding]:
    """Delivered means that a receiver said so. Among the newest, for the log is long."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT m.id, m.type FROM (
                 SELECT * FROM webhooks_webhookmessage ORDER BY id DESC LIMIT 100000) m
               WHERE num_nonnulls(m.due_at, m.delivered_at, m.failed_at, m.cancelled_at) <> 1
                  OR m.delivered_at IS NOT NULL AND NOT EXISTS (
                       SELECT 1 FROM webhooks_webhookattempt a
                       WHERE a.message_id = m.id AND a.status_code BETWEEN 200 AND 299)
               LIMIT 100"""
        )
        for id_, type_ in cursor.fetchall():
            yield Finding(
                f"webhook_message:{id_}", f"This {type_} neither waits nor has an end that is logged."
            )


@invariant("I5", "Every event that an endpoint wants is collected and becomes messages within an hour")
def forgotten_events() -> Iterator[Finding]:
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT 1 FROM pg_trigger t WHERE t.tgrelid = 'outbox_outboxevent'::regclass
                 AND t.tgname = 'collect_for_webhooks' AND t.tgenabled = 'A'"""
        )
        if not cursor.fetchone():
            yield Finding(
                "outbox_outboxevent", "The trigger collect_for_webhooks is gone: nobody is told of events."
            )
        cursor.execute(
            """SELECT event_id, attempts, last_error FROM webhooks_pendingevent
               WHERE due_at < now() - interval '1 hour' OR attempts >= 5 ORDER BY id LIMIT 100"""
        )
        for event_id, attempts, error in cursor.fetchall():
            yield Finding(f"event:{event_id}", f"No messages after {attempts} tries. {error}".strip())
