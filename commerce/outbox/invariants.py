"""I9: an event is published only after the effects of every group that listens to it.
I5 for streams: whatever is not delivered has a wake-up or a person who knows."""

from collections.abc import Iterator

from django.db import connection

from commerce.invariants import Finding, invariant
from commerce.outbox.registry import subscriptions


@invariant("I9", "An event is published only after its effects")
def published_before_its_effects() -> Iterator[Finding]:
    for id_, type_, group in _behind("e.published_at IS NOT NULL"):
        yield Finding(f"event:{id_}", f"{type_} is published although {group} has not handled it.")


@invariant("I5", "Every undelivered event has a wake-up or is parked")
def sleeping_streams() -> Iterator[Finding]:
    asleep = "e.published_at IS NULL AND s.due_at IS NULL AND s.parked_at IS NULL"
    for id_, type_, group in _behind(asleep):
        yield Finding(f"event:{id_}", f"{type_} will never be seen by {group}: nothing wakes its stream.")


def _behind(condition: str) -> list[tuple[int, str, str]]:
    """(event id, type, group) of events that a subscribed group has not dealt with, and `condition`."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT e.id, e.type, s."group" FROM outbox_outboxstream s
                JOIN outbox_outboxevent e ON e.aggregate_type = s.aggregate_type
                 AND e.aggregate_id = s.aggregate_id AND e.sequence > s.cursor
                WHERE s."group" <> '' AND (e.type || ' ' || s."group") = ANY (%s)
                 AND COALESCE(e.headers -> 'only' ? s."group", true) AND {condition}
                ORDER BY e.id LIMIT 100""",  # noqa: S608 - the conditions are the two above
            [subscriptions()],
        )
        return cursor.fetchall()
