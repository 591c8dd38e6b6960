"""Effects that are rows without a key: one too many, or one too early, is seen."""

import os
import time
from pathlib import Path

from django.db import connection

from commerce.outbox import on
from commerce.outbox.models import OutboxEvent

TYPES = ("scale.everywhere", "scale.local", "scale.batch", "scale.remote")


def subscribe() -> None:
    on("scale.everywhere", "scale.local", group="scale.local")(one)
    on("scale.everywhere", "scale.batch", group="scale.batch", batch=True)(many)
    on("scale.everywhere", "scale.remote", group="scale.remote", provider="openmeter")(one)


def one(event: OutboxEvent) -> None:
    if marker := event.payload.get("marker"):
        Path(marker).touch()
    time.sleep(event.payload.get("seconds", 0))
    many([event])


def many(events: list[OutboxEvent]) -> None:
    rows = [(event.group, event.aggregate_id, event.sequence, os.getpid()) for event in events]
    with connection.cursor() as cursor:
        cursor.executemany(
            'INSERT INTO scale_effect ("group", stream, sequence, pid) VALUES (%s, %s, %s, %s)', rows
        )
