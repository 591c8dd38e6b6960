"""An outbox of three months in a database of its own; months that are over have to be made.

The relay records by the wall clock, so the owner moves what was appended back in time, guards off.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from django.db import transaction

from commerce.actor import Actor
from commerce.outbox import append, catalog, drain, on, registry, retention
from commerce.outbox.models import OutboxEvent, OutboxFailure, OutboxStream
from tests.ledger.months import own_database, sql

AT = datetime(2027, 3, 1, tzinfo=UTC)
ACTOR = Actor.system("test")


def month_before(day: date, months: int = 1) -> date:
    for _ in range(months):
        day = (day.replace(day=1) - timedelta(days=1)).replace(day=1)
    return day


THIS = datetime.now(UTC).date().replace(day=1)
LAST, OLD, OLDEST = (month_before(THIS, months) for months in (1, 2, 3))


@dataclass(frozen=True)
class Thing:
    """Which one, and anything that is hard to write down."""

    n: int
    text: str = ""


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What the only handler was given; nobody else objects or listens."""
    monkeypatch.setattr(registry, "_handlers", {})
    monkeypatch.setattr(catalog, "_types", {})
    monkeypatch.setattr(retention, "_vetoes", [])
    catalog.event(
        "thing.ignored", Thing, aggregate="thing", summary="Nobody listens.", example={"n": 1, "text": ""}
    )
    handled: list[tuple[str, int]] = []
    on("thing.done", group="g")(lambda event: handled.append((event.aggregate_id, event.payload["n"])))
    return handled


@pytest.fixture
def own(transactional_db: None) -> Iterator[str]:
    with own_database() as name:
        yield name


@pytest.fixture
def outbox(own: str) -> str:
    """Two streams with events in each month, all handled, and a failure in each month."""
    for number, month in enumerate((OLDEST, OLD, LAST, THIS)):
        for n in range(3):
            write("1", number * 10 + n, text='"quoted" \\ tab\t é\u2028 \n line')
            write("2", number * 10 + n)
        drain()
        stream = OutboxStream.objects.filter(group="g").latest("id")
        OutboxFailure.objects.create(
            stream=stream, event_id=OutboxEvent.objects.latest("id").event_id, type="thing.done", group="g",
            attempt=1, error="no\tanswer\\n", retryable=True, failed_at=datetime.now(UTC),
        )  # fmt: skip
        if month != THIS:
            make_month(month)
            move_back(month)
    return own


def write(id_: str, n: int, type_: str = "thing.done", **more: Any) -> OutboxEvent:
    with transaction.atomic():
        return append("thing", id_, type_, {"n": n, **more}, at=AT)


def make_month(month: date) -> None:
    for table in ("outbox_outboxevent", "outbox_outboxfailure"):
        part = f"{table}_{month:%Y%m}"
        sql(f"CREATE TABLE {part} (LIKE {table}_default INCLUDING ALL)")
        sql("SELECT outbox_attach_partition(%s::regclass, %s, %s)", table, part, month)


def move_back(month: date, where: str = "true") -> None:
    """What this month has was recorded in the middle of that one, in the same order."""
    to = datetime.combine(month.replace(day=15), time(12), UTC)
    for table, key in (("outbox_outboxevent", "recorded_at"), ("outbox_outboxfailure", "failed_at")):
        start = datetime.combine(THIS, time(0), UTC)
        if table.endswith("failure") and where != "true":
            continue
        sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        sql(
            f"UPDATE {table} SET {key} = %s + ({key} - now()) * 0.001 WHERE {key} >= %s AND {where}",
            to, start,
        )  # fmt: skip
        for (guard,) in sql("SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass", table):
            sql(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {guard}")


def rows(table: str = "outbox_outboxevent", month: date | None = None) -> list[tuple]:
    of = f"{table}_{month:%Y%m}" if month else table
    return sql(f"SELECT * FROM {of} ORDER BY id")


def parts(table: str = "outbox_outboxevent") -> list[str]:
    found = sql(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass ORDER BY 1", table
    )
    return [name.removeprefix(f"{table}_") for (name,) in found]
