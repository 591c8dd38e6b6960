"""I9: an event is published only after the effects of every group that listens to it.
I5 for streams: whatever is not delivered has a wake-up or a person who knows.
I10 for months: each event lies in the partition of its month, and the next month has one.

Nothing of a month that was removed is asked for: all of it was published, and cursors go forward.
"""

from collections.abc import Iterator
from datetime import UTC

from django.db import connection
from django.utils import timezone

from commerce.invariants import Finding, invariant
from commerce.outbox.claims import IS_FOR
from commerce.outbox.partitions import KEYS, after, months, strays
from commerce.outbox.registry import subscriptions

# What was found right stays right, so that only so many events are looked at, the newest.
NEWEST = 200_000


@invariant("I9", "An event is published only after its effects")
def published_before_its_effects() -> Iterator[Finding]:
    newest = f"""(SELECT * FROM outbox_outboxevent WHERE published_at IS NOT NULL
                   AND recorded_at >= now() - interval '2 months' ORDER BY id DESC LIMIT {NEWEST})"""  # noqa: S608
    for id_, type_, group in _behind(newest, "true"):
        yield Finding(f"event:{id_}", f"{type_} is published although {group} has not handled it.")


@invariant("I5", "Every undelivered event has a wake-up or is parked")
def sleeping_streams() -> Iterator[Finding]:
    unpublished = "(SELECT * FROM outbox_outboxevent WHERE published_at IS NULL)"
    for id_, type_, group in _behind(unpublished, "s.due_at IS NULL AND s.parked_at IS NULL"):
        yield Finding(f"event:{id_}", f"{type_} will never be seen by {group}: nothing wakes its stream.")


@invariant("I10", "Every event lies in the partition of its month, and the next month has one")
def in_their_months() -> Iterator[Finding]:
    for table, rows, first, last in strays():
        yield Finding(
            f"{table}_default",
            f"{rows:,} rows from {first:%Y-%m-%d} to {last:%Y-%m-%d} lie in no month; "
            "`migrate` moves those whose month is not archived.",
        )
    next_month = after(timezone.now().astimezone(UTC).date())
    for table in KEYS:
        if next_month not in months(table):
            yield Finding(table, f"{next_month:%B %Y} has no partition: does beat run? `migrate` makes it.")


def _behind(events: str, condition: str) -> list[tuple[int, str, str]]:
    """(event id, type, group) of those events that a subscribed group has not dealt with, and `condition`."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT e.id, e.type, s."group" FROM {events} e
                JOIN outbox_outboxstream s ON s.aggregate_type = e.aggregate_type
                 AND s.aggregate_id = e.aggregate_id AND s.cursor < e.sequence
                WHERE s."group" <> '' AND {IS_FOR} AND {condition}
                ORDER BY e.id LIMIT 100""",  # noqa: S608 - the two above
            {"subscriptions": subscriptions()},
        )
        return cursor.fetchall()
