"""Batch handlers: many streams in one transaction, in order within each; one that fails stays alone."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.utils import timezone

from commerce.errors import Rejected, Retryable
from commerce.models import Heartbeat
from commerce.outbox import append, claims, drain, on, registry
from commerce.outbox.models import OutboxEvent, OutboxFailure, OutboxStream

AT = datetime(2027, 3, 1, tzinfo=UTC)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _own_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_handlers", {})


def write(id_: str, type_: str = "thing.done") -> OutboxEvent:
    with transaction.atomic():
        return append("thing", id_, type_, {}, at=AT)


def effects() -> list[str]:
    return sorted(Heartbeat.objects.values_list("name", flat=True))


def keep(events: list[OutboxEvent]) -> None:
    Heartbeat.objects.bulk_create(
        Heartbeat(name=f"{event.aggregate_id}#{event.sequence}", beaten_at=AT) for event in events
    )


def test_one_call_takes_the_events_of_every_stream_in_order_within_each() -> None:
    calls: list[list[tuple[str, int]]] = []

    @on("thing.done", group="g", batch=True)
    def note(events: list[OutboxEvent]) -> None:
        calls.append([(event.aggregate_id, event.sequence) for event in events])

    for id_ in ("1", "2", "1", "3", "1"):
        write(id_)
    report = drain()
    assert report.handled == 5
    assert len(calls) == 1
    assert sorted(calls[0]) == [("1", 1), ("1", 2), ("1", 3), ("2", 1), ("3", 1)]
    assert [sequence for id_, sequence in calls[0] if id_ == "1"] == [1, 2, 3]
    assert not OutboxEvent.objects.filter(published_at__isnull=True).exists()
    assert not OutboxStream.objects.filter(due_at__isnull=False).exists()
    assert drain().handled == 0


def test_types_of_different_handlers_keep_the_order_of_their_stream() -> None:
    seen: list[tuple[str, str]] = []
    for type_ in ("thing.opened", "thing.closed"):

        @on(type_, group="g", batch=True)
        def note(events: list[OutboxEvent]) -> None:
            seen.extend((event.aggregate_id, event.type) for event in events)

    for id_ in ("1", "2"):
        for type_ in ("thing.opened", "thing.closed", "thing.opened"):
            write(id_, type_)
    assert drain().handled == 6
    for id_ in ("1", "2"):
        assert [type_ for who, type_ in seen if who == id_] == [
            "thing.opened",
            "thing.closed",
            "thing.opened",
        ]


@pytest.mark.parametrize("error", [Rejected("no"), Retryable("not yet")])
def test_an_event_that_fails_holds_back_its_stream_and_no_other(error: Exception) -> None:
    @on("thing.done", group="g", batch=True)
    def fail_for_two(events: list[OutboxEvent]) -> None:
        keep(events)
        if any(event.aggregate_id == "2" and event.sequence == 2 for event in events):
            raise error

    for id_ in ("1", "2", "3"):
        write(id_)
        write(id_)
    report = drain()
    assert effects() == ["1#1", "1#2", "2#1", "3#1", "3#2"]
    assert report.handled == 5
    bad = OutboxStream.objects.get(group="g", aggregate_id="2")
    assert (bad.cursor, bool(bad.parked_at), bad.attempts) == (1, isinstance(error, Rejected), 1)
    assert OutboxFailure.objects.values_list("stream_id", flat=True).get() == bad.pk
    assert OutboxEvent.objects.filter(published_at__isnull=True).count() == 1


def test_effects_and_all_cursors_commit_together_or_not_at_all() -> None:
    """The whole batch rolls back with its last statement, and is done again stream by stream."""

    @on("thing.done", group="g", batch=True)
    def note(events: list[OutboxEvent]) -> None:
        keep(events)
        if len(events) > 1:
            raise RuntimeError("not in one go")

    for id_ in ("1", "2"):
        write(id_)
    assert drain().handled == 2
    assert effects() == ["1#1", "2#1"]
    assert not OutboxFailure.objects.exists()


def test_a_batch_waits_for_no_row_that_an_append_holds() -> None:
    """Who holds one of its rows may be waiting for another: the batch gives way, and each goes alone."""
    rounds: list[int] = []
    appended, go_on = threading.Event(), threading.Event()

    def hold_the_row() -> None:
        try:
            with transaction.atomic():
                append("thing", "1", "thing.done", {}, at=AT)
                appended.set()
                go_on.wait(10)
        finally:
            connection.close()

    writer = threading.Thread(target=hold_the_row)

    @on("thing.done", group="g", batch=True)
    def note(events: list[OutboxEvent]) -> None:
        rounds.append(len(events))
        keep(events)
        if len(rounds) == 1:
            writer.start()
            assert appended.wait(10)
        elif len(rounds) == 2:
            go_on.set()

    write("1")
    write("2")
    drain()
    writer.join()
    assert rounds[0] == 2
    assert effects() == ["1#1", "1#2", "2#1"]
    assert not OutboxStream.objects.filter(due_at__isnull=False).exists()


def test_a_batch_whose_lease_went_to_another_changes_nothing() -> None:
    def take_over() -> None:
        try:
            OutboxStream.objects.filter(group="g").update(lease_token=uuid4())
        finally:
            connection.close()

    @on("thing.done", group="g", batch=True)
    def overtaken(events: list[OutboxEvent]) -> None:
        keep(events)
        thief = threading.Thread(target=take_over)
        thief.start()
        thief.join()

    write("1")
    write("2")
    drain()
    assert effects() == []
    assert set(OutboxStream.objects.filter(group="g").values_list("cursor", flat=True)) == {0}


def test_what_a_claim_may_not_read_at_once_is_read_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "EVENTS_PER_CLAIM", 3)
    monkeypatch.setattr(claims, "EVENTS_PER_STREAM", 2)
    on("thing.done", group="g", batch=True)(keep)
    for id_ in ("1", "2", "3"):
        for _ in range(3):
            write(id_)
    assert drain().handled == 9
    assert effects() == [f"{id_}#{n}" for id_ in "123" for n in (1, 2, 3)]


def test_an_event_recorded_by_an_older_transaction_than_the_first_is_not_overlooked() -> None:
    """`recorded_at` is when a transaction began: the second in line may be the older one."""
    on("thing.done", group="g", batch=True)(keep)
    began, first_committed = threading.Event(), threading.Event()

    def begin_early() -> None:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT now()")
                began.set()
                assert first_committed.wait(10)
                append("thing", "1", "thing.done", {}, at=AT)
        finally:
            connection.close()

    early = threading.Thread(target=begin_early)
    early.start()
    assert began.wait(10)
    first = write("1")
    first_committed.set()
    early.join()
    second = OutboxEvent.objects.get(sequence=2)
    assert second.recorded_at < first.recorded_at
    assert drain().handled == 2
    assert effects() == ["1#1", "1#2"]


def test_a_group_is_drained_in_one_way_only() -> None:
    on("thing.done", group="g", batch=True)(keep)
    with pytest.raises(ImproperlyConfigured, match="g is drained as batch, not as local"):
        on("thing.more", group="g")(lambda event: None)
    with pytest.raises(ImproperlyConfigured, match="one event at a time"):
        on("thing.more", group="h", batch=True, provider="elsewhere")
    assert registry.lanes() == ["batch", "local"]


def test_a_deployment_that_moves_a_group_takes_its_waiting_streams_along() -> None:
    on("thing.done", group="g", provider="elsewhere")(lambda event: None)
    write("1")
    registry._handlers.clear()
    on("thing.done", group="g", batch=True)(keep)
    assert drain().handled == 0
    claims.assign_lanes()
    assert drain().handled == 1
    assert effects() == ["1#1"]


def test_a_claim_looks_past_what_others_hold_and_what_is_not_due() -> None:
    on("thing.done", group="g", batch=True)(keep)
    for id_ in ("held", "later", "due"):
        write(id_)
    OutboxStream.objects.filter(aggregate_id="later", group="g").update(
        due_at=timezone.now() + timedelta(hours=1)
    )
    held = claims.claim(token=uuid4(), lane="batch", limit=1)
    assert [stream.aggregate_id for stream in held] == ["held"]
    assert drain().handled == 1
    assert effects() == ["due#1"]
    working: Any = OutboxStream.objects.get(aggregate_id="held", group="g")
    assert working.lease_token
    assert working.due_at > timezone.now()
