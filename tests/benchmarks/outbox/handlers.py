"""Who listens in the benchmark: handlers that do nothing, and one that tells when it is done."""

from django.db import connection

from commerce.outbox import on
from commerce.outbox.models import OutboxEvent

HANDLED = "handled"


@on("bench.one", group="bench.one")
def one(event: OutboxEvent) -> None:
    pass


@on("bench.many", group="bench.many", batch=True)
def many(events: list[OutboxEvent]) -> None:
    pass


@on("bench.told", group="bench.told")
def tell(event: OutboxEvent) -> None:
    """The listener hears of it when the effect's transaction, and with it the cursor, has committed."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [HANDLED, event.aggregate_id])
