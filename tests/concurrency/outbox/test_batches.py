"""A batch whose handler appends, beside writers of the same aggregates: no effect comes twice of it."""

import pytest
from django.db import OperationalError, transaction

from commerce.outbox import append, claims, drain, on
from commerce.outbox.models import OutboxEvent, OutboxFailure, OutboxStream
from tests.concurrency.outbox.sides import (
    AT,
    Point,
    Side,
    keep,
    kept,
    listen,
    sequences,
    stop_before,
    unpublished,
    write,
    write_slowly,
)

pytestmark = pytest.mark.django_db(transaction=True)


class Answering:
    """A batch handler that answers each event with an append to the same aggregate."""

    def __init__(self) -> None:
        self.begun, self.between, self.sizes = Point(), Point(), []
        on("thing.done", group="g", batch=True)(self)
        listen("local", lambda event: None, group="others")
        on("thing.answered", group="others")(lambda event: None)

    def __call__(self, events: list[OutboxEvent]) -> None:
        self.sizes.append(len(events))
        self.begun.stop()
        for event in sorted(events, key=lambda event: event.aggregate_id):
            keep(event)
            append("thing", event.aggregate_id, "thing.answered", {}, at=AT)
            self.between.stop()


def answers() -> int:
    return OutboxEvent.objects.filter(type="thing.answered").count()


def all_quiet() -> None:
    drain()
    assert not OutboxStream.objects.filter(due_at__isnull=False).exists()
    assert not OutboxFailure.objects.exists()
    assert unpublished() == 0


def test_an_append_waits_for_a_batch_that_has_appended_to_its_aggregate() -> None:
    answering = Answering()
    answering.begun.go()
    write("1", "2")
    batch = Side(lambda: drain(lanes=["batch"], limit=1))
    answering.between.reached()
    writer = Side(lambda: write("1"))
    writer.waits_for_a_lock()
    answering.between.go()
    assert batch.answer().handled == 2
    writer.answer()
    assert (kept(), answering.sizes) == (["1#1", "2#1"], [2])
    assert sequences() == [1, 2, 3]
    drain()
    assert (kept(), answers()) == (["1#1", "1#3", "2#1"], 3)
    all_quiet()


def test_a_batch_waits_for_an_append_that_was_first_and_takes_its_event_next() -> None:
    answering = Answering()
    answering.between.go()
    write("1", "2")
    batch = Side(lambda: drain(lanes=["batch"], limit=1))
    answering.begun.reached()
    point = Point()
    writer = Side(lambda: write_slowly(point, "1"))
    point.reached()
    answering.begun.go()
    batch.waits_for_a_lock()
    point.go()
    writer.answer()
    assert batch.answer().handled == 2
    assert kept() == ["1#1", "2#1"]
    drain()
    assert kept() == ["1#1", "1#2", "2#1"]
    assert answers() == 3
    all_quiet()


def test_a_batch_and_a_writer_in_opposite_order_end_in_each_event_handled_once() -> None:
    """A deadlock takes one of them: the batch goes again stream by stream, the writer hears of it."""
    answering = Answering()
    answering.begun.go()
    write("1", "2")
    batch = Side(lambda: drain(lanes=["batch"]))
    answering.between.reached()
    half_way = Point()

    def write_both() -> None:
        with transaction.atomic():
            append("thing", "2", "thing.done", {}, at=AT)
            half_way.stop()
            append("thing", "1", "thing.done", {}, at=AT)

    writer = Side(write_both)
    half_way.reached()
    half_way.go()
    writer.waits_for_a_lock()
    answering.between.go()
    refused = writer.error()
    assert refused is None or isinstance(refused, OperationalError)
    batch.answer()
    drain()
    written = 2 if refused else 4
    assert len(kept()) == len(set(kept())) == answers() == written
    for id_ in ("1", "2"):
        assert sequences(id_) == list(range(1, written + 1))
    all_quiet()


def test_two_batches_that_answer_in_the_same_aggregates_do_not_share_a_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answering = Answering()
    answering.begun.go()
    answering.between.go()
    write("1", "2", "3")
    point = stop_before(monkeypatch, claims, "read")
    first = Side(lambda: drain(lanes=["batch"]))
    point.reached()
    assert drain(lanes=["batch"]).handled == 0
    write("4")
    assert drain(lanes=["batch"]).handled == 1
    point.go()
    assert first.answer().handled == 3
    assert kept() == ["1#1", "2#1", "3#1", "4#1"]
    assert answering.sizes == [1, 3]
    all_quiet()
