"""Who listens in the benchmark: handlers that do nothing, and one that tells when it is done."""

from django.db import connection

from commerce.outbox import on
from commerce.outbox.models import OutboxEvent

HANDLED = "handled"


@on("bench.one", "bench.one_twice", group="bench.one")
@on("bench.one_twice", group="bench.other")
def one(event: OutboxEvent) -> None:
    pass


@on("bench.many", "bench.many_twice", group="bench.many", batch=True)
@on("bench.many_twice", group="bench.others", batch=True)
def many(events: list[OutboxEvent]) -> None:
    pass


@on("bench.told", group="bench.told")
def tell(event: OutboxEvent) -> None:
    """The listener hears of it when the effect's transaction, and with it the cursor, has committed."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [HANDLED, event.aggregate_id])
