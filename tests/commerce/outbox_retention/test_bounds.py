"""The relay plans and reads the months that it needs, however many there are, and misses none."""

import re
from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.db import connection, transaction
from django.utils import timezone

from commerce.outbox import claims, drain
from commerce.outbox.models import OutboxEvent, OutboxStream
from tests.commerce.outbox_retention.conftest import LAST, OLD, OLDEST, THIS, make_month, move_back, write


class Plans:
    """Explains each statement about events instead of trusting it, then runs it."""

    def __init__(self) -> None:
        self.months: list[set[str]] = []

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "outbox_outboxevent" in sql and not sql.startswith("EXPLAIN"):
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN {sql}", params)
                plan = "\n".join(line for (line,) in cursor.fetchall())
            self.months.append(set(re.findall(r"outbox_outboxevent_(\w{6,7}) ", plan)))
        return execute(sql, params, many, context)


def test_reading_finishing_and_publishing_plan_only_the_month_of_what_is_pending(own: str) -> None:
    for month in (OLDEST, OLD, LAST):
        make_month(month)
    write("1", 1)
    with transaction.atomic():
        token = uuid4()
        streams = claims.claim(token=token, lane="local", limit=1)
        plans = Plans()
        with connection.execute_wrapper(plans):
            claims.read(streams)
            streams[0].reached = streams[0].last
            claims.hold(streams, token)
            claims.finish(streams)
            assert claims.publish(streams) == 1
    assert len(plans.months) == 3
    now = timezone.now()
    named = range(-claims.EARLIER // timedelta(hours=1), claims.LATER // timedelta(hours=1) + 1)
    near = {f"{now + timedelta(hours=hour):%Y%m}" for hour in named}
    for months in plans.months:
        assert f"{THIS:%Y%m}" in months
        assert months <= near, "no other month, and not the default partition"


def test_who_began_before_the_bound_is_delivered_in_order_by_the_next_claim(own: str, seen: list) -> None:
    """Between a claim and its read an older transaction appended: it sinks below what the statements name."""
    make_month(LAST)
    write("1", 1)
    token = uuid4()
    streams = claims.claim(token=token, lane="local", limit=1)
    write("1", 2)
    move_back(LAST, "(payload ->> 'n')::int = 1")
    moved = OutboxEvent.objects.get(payload__n=1)
    OutboxStream.objects.filter(group="g").update(pending_since=moved.recorded_at)
    claims.read(streams)
    assert streams[0].events == [], "not #2 without #1"
    with transaction.atomic():
        claims.hold(streams, token)
        claims.finish(streams)
    stream = OutboxStream.objects.get(group="g")
    assert (stream.cursor, stream.pending_since) == (0, moved.recorded_at)
    assert stream.due_at is not None, "it is not put to sleep"
    drain()
    assert seen == [("1", 1), ("1", 2)]


def test_who_is_still_at_work_after_the_bound_stays_due(own: str, seen: list) -> None:
    write("1", 1)
    token = uuid4()
    streams = claims.claim(token=token, lane="local", limit=1)
    claims.read(streams)
    streams[0].claimed_at -= 2 * claims.LATER
    with transaction.atomic():
        claims.hold(streams, token)
        claims.finish(streams)
    assert OutboxStream.objects.get(group="g").due_at is not None
    drain()
    assert OutboxStream.objects.get(group="g").due_at is None
