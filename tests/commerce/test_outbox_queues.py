"""Who waits for a provider holds up nobody else: remote groups have a drain and a queue of their own."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from celery.signals import before_task_publish
from django.db import close_old_connections, connection, transaction

from commerce.outbox import append, on, registry
from commerce.outbox.models import OutboxStream
from commerce.outbox.tasks import drain_lane

AT = datetime(2027, 3, 1, tzinfo=UTC)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _own_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_handlers", {})


def write(type_: str, id_: str = "1") -> None:
    with transaction.atomic():
        append("thing", id_, type_, {}, at=AT)


@pytest.fixture
def published() -> Iterator[list[tuple[str, str]]]:
    """Every task sent to the broker, with the queue it was sent to."""
    sent: list[tuple[str, str]] = []

    def note(sender: str, routing_key: str, **_: Any) -> None:
        sent.append((sender, routing_key))

    before_task_publish.connect(note)
    yield sent
    before_task_publish.disconnect(note)


class Slow:
    """A provider that answers when it is let to."""

    def __init__(self) -> None:
        self.asked, self.answer = threading.Semaphore(0), threading.Event()
        self.order: list[str] = []

    def __call__(self, event: Any) -> None:
        self.order.append(event.aggregate_id)
        self.asked.release()
        assert self.answer.wait(10)


def in_thread(work: Any) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_provider_that_does_not_answer_holds_back_no_local_effect() -> None:
    slow, collected = Slow(), []
    on("thing.sent", group="provider", provider="elsewhere")(slow)
    on("thing.done", group="collection")(lambda event: collected.append(event.aggregate_id))
    for n in range(30):
        write("thing.sent", f"r{n}")
    waiting = in_thread(lambda: drain_lane("elsewhere"))
    assert slow.asked.acquire(timeout=10)
    for n in range(30):
        write("thing.done", f"l{n}")
    assert drain_lane("local") == 30
    assert (len(collected), len(slow.order)) == (30, 1)
    slow.answer.set()
    waiting.join(20)
    assert len(slow.order) == 30


def test_local_work_holds_back_no_call_to_a_provider() -> None:
    told: list[str] = []
    on("thing.done", group="collection")(lambda event: None)
    on("thing.sent", group="provider", provider="elsewhere")(lambda event: told.append(event.aggregate_id))
    for n in range(30):
        write("thing.done", f"l{n}")
    write("thing.sent", "r")
    assert drain_lane("elsewhere") == 1
    assert told == ["r"]
    assert OutboxStream.objects.filter(group="collection", due_at__isnull=False).count() == 30


def test_while_one_stream_waits_for_its_provider_the_next_is_free() -> None:
    slow = Slow()
    on("thing.sent", group="provider", provider="elsewhere")(slow)
    for id_ in ("a", "b"):
        write("thing.sent", id_)
    first, second = in_thread(lambda: drain_lane("elsewhere")), in_thread(lambda: drain_lane("elsewhere"))
    assert slow.asked.acquire(timeout=10)
    assert slow.asked.acquire(timeout=10), "the second stream was claimed with the first"
    assert sorted(slow.order) == ["a", "b"]
    slow.answer.set()
    first.join(20)
    second.join(20)
    assert OutboxStream.objects.filter(due_at__isnull=False).count() == 0


def test_a_commit_wakes_the_workers_that_it_has_work_for_and_no_other(
    published: list[tuple[str, str]],
) -> None:
    on("thing.done", group="collection")(lambda event: None)
    on("thing.sent", group="provider", provider="openmeter")(lambda event: None)
    on("thing.both", group="collection")(lambda event: None)
    on("thing.both", group="provider", provider="openmeter")(lambda event: None)
    write("thing.done")
    assert published == [("outbox.drain", "outbox")]
    published.clear()
    write("thing.sent")
    assert published == [("outbox.drain", "provider-openmeter")]
    published.clear()
    with transaction.atomic():
        for type_ in ("thing.both", "thing.done", "thing.sent"):
            append("thing", "1", type_, {}, at=AT)
    assert sorted(published) == [("outbox.drain", "outbox"), ("outbox.drain", "provider-openmeter")]
    close_old_connections()
