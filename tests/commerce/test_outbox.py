"""The relay: in order within a stream, exactly once for local effects, nothing lost, nothing skipped."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.utils import timezone

from commerce.actor import Actor
from commerce.errors import PermissionDenied, Rejected, Retryable, StateConflict
from commerce.logs import bound
from commerce.models import Heartbeat
from commerce.outbox import append, catalog, claims, drain, on, registry, relay, replay, services, traces
from commerce.outbox.invariants import published_before_its_effects, sleeping_streams
from commerce.outbox.models import OutboxEvent, OutboxStream

AT = datetime(2027, 3, 1, tzinfo=UTC)
OPERATOR = Actor.system("test")

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass(frozen=True)
class Nothing:
    """The payload of an event that says it all by its type."""


@pytest.fixture(autouse=True)
def _own_subscriptions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test subscribes its own handlers; nobody else's see its events."""
    monkeypatch.setattr(registry, "_handlers", {})
    monkeypatch.setattr(catalog, "_types", {})
    catalog.event("thing.ignored", Nothing, aggregate="thing", summary="Nobody listens.", example={})
    return


def write(id_: str, type_: str, **payload: Any) -> OutboxEvent:
    with transaction.atomic():
        return append("thing", id_, type_, payload, at=AT)


def stream_of(id_: str, group: str) -> OutboxStream:
    return OutboxStream.objects.get(aggregate_id=id_, group=group)


def make_due() -> None:
    OutboxStream.objects.filter(due_at__isnull=False).update(due_at=timezone.now())


def test_append_refuses_to_run_outside_a_transaction() -> None:
    with pytest.raises(transaction.TransactionManagementError):
        append("thing", "1", "thing.ignored", {}, at=AT)
    assert not OutboxEvent.objects.exists()


def test_an_event_type_that_nobody_handles_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Nobody handles thing\.unheard"):
        write("1", "thing.unheard")
    assert not OutboxEvent.objects.exists()


def test_an_external_event_needs_no_delivery() -> None:
    event = write("1", "thing.ignored")
    assert event.published_at is not None
    assert not OutboxStream.objects.exclude(group="").exists()


def test_a_rolled_back_change_leaves_no_event_and_no_gap() -> None:
    on("thing.done", group="g")(lambda event: None)
    write("1", "thing.done")
    with pytest.raises(RuntimeError), transaction.atomic():
        append("thing", "1", "thing.done", {}, at=AT)
        raise RuntimeError
    write("1", "thing.done")
    assert list(OutboxEvent.objects.order_by("id").values_list("sequence", flat=True)) == [1, 2]


def test_events_reach_the_handler_in_order_and_are_published_after_it() -> None:
    seen: list[int] = []

    @on("thing.done", group="g")
    def note(event: OutboxEvent) -> None:
        assert not OutboxEvent.objects.filter(
            sequence__gte=event.sequence, published_at__isnull=False
        ).exists()
        seen.append(event.payload["n"])

    for n in range(5):
        write("1", "thing.done", n=n)
    assert drain().handled == 5
    assert seen == [0, 1, 2, 3, 4]
    assert not OutboxEvent.objects.filter(published_at__isnull=True).exists()
    assert stream_of("1", "g").due_at is None
    assert drain().handled == 0


def test_a_local_effect_and_its_cursor_commit_together() -> None:
    calls = []

    @on("thing.done", group="g")
    def fail_after_writing(event: OutboxEvent) -> None:
        calls.append(event.sequence)
        Heartbeat.objects.create(name="effect", beaten_at=AT)
        if len(calls) == 1:
            raise Retryable("not yet")

    write("1", "thing.done")
    assert drain().retried == 1
    assert not Heartbeat.objects.exists()
    assert stream_of("1", "g").cursor == 0
    make_due()
    assert drain().handled == 1
    assert Heartbeat.objects.count() == 1


def test_a_remote_effect_runs_outside_any_transaction_with_a_stable_key() -> None:
    keys = []

    @on("thing.done", group="g", provider="elsewhere")
    def call_out(event: OutboxEvent) -> None:
        assert not connection.in_atomic_block
        keys.append(event.key)
        if len(keys) == 1:
            raise Retryable("no answer")

    write("1", "thing.done")
    drain()
    make_due()
    drain()
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_failing_stream_holds_back_only_itself_and_only_its_group() -> None:
    seen = []

    @on("thing.done", group="bad")
    def fail(event: OutboxEvent) -> None:
        if event.aggregate_id == "1":
            raise Retryable("down")
        seen.append(("bad", event.aggregate_id))

    on("thing.done", group="good")(lambda event: seen.append(("good", event.aggregate_id)))
    first = write("1", "thing.done")
    write("2", "thing.done")
    drain()
    assert sorted(seen) == [("bad", "2"), ("good", "1"), ("good", "2")]
    first.refresh_from_db()
    assert first.published_at is None, "published although one group has not handled it"
    assert list(published_before_its_effects()) == []


def test_back_off_grows_with_full_jitter_up_to_an_hour() -> None:
    assert all(relay.backoff(3) <= timedelta(seconds=8) for _ in range(50))
    assert all(relay.backoff(60) <= timedelta(hours=1) for _ in range(50))
    assert len({relay.backoff(10) for _ in range(20)}) > 1


@pytest.mark.parametrize("error", [Rejected("no"), ValueError("bug")])
def test_what_is_not_retryable_parks_the_stream_and_drops_nothing(error: Exception) -> None:
    seen = []

    @on("thing.done", group="g")
    def fail_first(event: OutboxEvent) -> None:
        if event.sequence == 1 and not seen:
            raise error
        seen.append(event.sequence)

    write("1", "thing.done")
    write("1", "thing.done")
    assert drain().parked == 1
    parked = stream_of("1", "g")
    assert parked.parked_at
    assert "thing.done #1" in parked.parked_reason
    assert parked.due_at is None
    write("1", "thing.done")
    assert drain().handled == 0, "a parked stream woke up by itself"
    seen.append("fixed")
    services.resume_stream(stream=parked, actor=OPERATOR, at=AT)
    drain()
    assert seen == ["fixed", 1, 2, 3]


def test_twelve_attempts_park_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "backoff", lambda attempt: timedelta(hours=1))

    @on("thing.done", group="g")
    def fail(event: OutboxEvent) -> None:
        raise Retryable("down")

    write("1", "thing.done")
    for _ in range(relay.ATTEMPTS_BEFORE_PARKING):
        assert stream_of("1", "g").parked_at is None
        make_due()
        drain()
    assert stream_of("1", "g").parked_at


def test_a_group_that_subscribes_later_does_not_see_the_past() -> None:
    on("thing.done", group="early")(lambda event: None)
    write("1", "thing.done")
    seen: list[int] = []
    on("thing.done", group="late")(lambda event: seen.append(event.sequence))
    write("1", "thing.done")
    drain()
    assert seen == [2]


def test_a_worker_that_lost_its_lease_cannot_move_the_cursor() -> None:
    """A paused worker wakes up after another took over: its effect is rolled back."""
    effects = []

    @on("thing.done", group="g")
    def note(event: OutboxEvent) -> None:
        Heartbeat.objects.create(name=f"effect {len(effects)}", beaten_at=AT)
        effects.append(event.sequence)
        if len(effects) == 1:
            in_another_thread(take_over)

    def take_over() -> None:
        OutboxStream.objects.filter(group="g").update(due_at=timezone.now() - timedelta(seconds=1))
        drain()

    write("1", "thing.done")
    drain()
    assert len(effects) == 2, "both workers ran the handler"
    assert list(Heartbeat.objects.values_list("name", flat=True)) == ["effect 1"]
    assert stream_of("1", "g").cursor == 1


def test_an_append_during_the_last_look_is_not_put_to_sleep() -> None:
    """Lost wake-up: an event is appended while the relay gives the stream back."""
    seen: list[int] = []
    on("thing.done", group="g")(lambda event: seen.append(event.sequence))
    write("1", "thing.done")
    appended, committed = threading.Event(), threading.Event()

    def append_slowly() -> None:
        with transaction.atomic():
            append("thing", "1", "thing.done", {}, at=AT)
            appended.set()
            committed.wait(0.5)

    writer = threading.Thread(target=with_own_connection, args=[append_slowly])
    writer.start()
    assert appended.wait(5)
    drain()
    writer.join()
    assert drain().handled + len(seen) >= 2
    assert seen == [1, 2]
    assert list(sleeping_streams()) == []


def test_concurrent_writers_and_drainers_keep_the_order_of_every_stream() -> None:
    lock = threading.Lock()
    seen: dict[str, list[int]] = {}

    @on("thing.done", group="g")
    def note(event: OutboxEvent) -> None:
        with lock:
            seen.setdefault(event.aggregate_id, []).append(event.sequence)

    def write_some(worker: int) -> None:
        for n in range(20):
            write(str((worker + n) % 4), "thing.done")

    threads = [
        threading.Thread(target=with_own_connection, args=[lambda w=w: write_some(w)]) for w in range(4)
    ]
    threads += [threading.Thread(target=with_own_connection, args=[drain]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while drain().handled:
        pass
    assert sum(len(events) for events in seen.values()) == 80
    for events in seen.values():
        assert events == list(range(1, len(events) + 1))
    assert not OutboxEvent.objects.filter(published_at__isnull=True).exists()


def test_an_effect_may_append_to_the_stream_it_came_from_while_others_do() -> None:
    """The order of locks, head before group, keeps a handler and a writer from deadlocking."""

    @on("thing.done", group="g")
    def answer(event: OutboxEvent) -> None:
        append("thing", event.aggregate_id, "thing.ignored", {}, at=AT)

    threads = [
        threading.Thread(
            target=with_own_connection, args=[lambda: [write("1", "thing.done") for _ in range(15)]]
        ),
        threading.Thread(target=with_own_connection, args=[lambda: [drain() for _ in range(15)]]),
        threading.Thread(target=with_own_connection, args=[lambda: [drain() for _ in range(15)]]),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    make_due()
    while drain().handled:
        make_due()
    assert OutboxEvent.objects.filter(type="thing.ignored").count() == 15
    assert OutboxStream.objects.get(group="g").attempts == 0


def test_a_crash_before_publishing_is_made_good_by_the_tick() -> None:
    on("thing.done", group="g")(lambda event: None)
    event = write("1", "thing.done")
    drain()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE outbox_outboxevent SET published_at = NULL")
    assert claims.publish_left() == 1
    event.refresh_from_db()
    assert event.published_at


@pytest.mark.parametrize("provider", ["", "elsewhere"], ids=["local", "remote"])
def test_what_an_effect_appends_names_the_event_and_the_request_that_it_comes_from(provider: str) -> None:
    @on("thing.done", group="g", provider=provider)
    def answer(event: OutboxEvent) -> None:
        with transaction.atomic():
            append("thing", "2", "thing.ignored", {}, at=AT, actor=OPERATOR)

    with bound(request_id="request-1"):
        cause = write("1", "thing.done")
    with bound(request_id="somebody else's"):
        drain()
    (answered,) = OutboxEvent.objects.filter(type="thing.ignored")
    assert answered.headers["causation_id"] == str(cause.event_id)
    assert answered.headers["request_id"] == cause.headers["request_id"] == "request-1"
    assert "causation_id" not in cause.headers
    assert "causation_id" not in write("3", "thing.ignored").headers, "it outlived the handler"
    assert list(traces.causes(answered)) == [cause]
    assert list(traces.consequences(cause)) == [answered]


def test_a_cause_that_is_named_goes_before_the_event_in_hand() -> None:
    named = write("9", "thing.ignored")

    @on("thing.done", group="g", batch=True)
    def answer(events: list[OutboxEvent]) -> None:
        for event in events:
            cause = named.event_id if event.aggregate_id == "1" else event.event_id
            append("thing", "2", "thing.ignored", {}, at=AT, causation_id=cause)

    first, second = write("1", "thing.done"), write("3", "thing.done")
    drain()
    assert len(list(traces.consequences(named))) == 1
    assert list(traces.consequences(first)) == []
    assert len(list(traces.consequences(second))) == 1


def test_replay_appends_a_copy_and_leaves_history_alone() -> None:
    seen: list[int] = []
    on("thing.done", group="g")(lambda event: seen.append(event.payload["n"]))
    original = write("1", "thing.done", n=7)
    drain()
    copy = replay.replay_event(event=original, actor=OPERATOR, at=AT, reason="again")
    drain()
    assert seen == [7, 7]
    assert copy.sequence == 2
    assert copy.headers["causation_id"] == str(original.event_id)


def test_only_who_may_operate_the_relay_can() -> None:
    on("thing.done", group="g")(lambda event: None)
    event = write("1", "thing.done")
    stranger = Actor(type="api_key", id="1", label="stranger")
    for verb in (services.park_stream, services.retry_stream):
        with pytest.raises(PermissionDenied):
            verb(stream=stream_of("1", "g"), actor=stranger, at=AT, reason="x")
    with pytest.raises(PermissionDenied):
        replay.replay_event(event=event, actor=stranger, at=AT, reason="x")
    with pytest.raises(StateConflict):
        services.resume_stream(stream=stream_of("1", "g"), actor=OPERATOR, at=AT)


def test_events_cannot_be_changed_or_removed() -> None:
    event = write("1", "thing.ignored")
    from django.db import DatabaseError

    for sql in (
        "UPDATE outbox_outboxevent SET payload = '{}' || payload || '{\"a\": 1}'",
        "DELETE FROM outbox_outboxevent",
    ):
        with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql)
    event.refresh_from_db()
    assert event.payload == {}


def test_verify_finds_an_event_published_too_early_and_a_stream_that_sleeps() -> None:
    on("thing.done", group="g")(lambda event: None)
    write("1", "thing.done")
    write("2", "thing.done")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE outbox_outboxevent SET published_at = now() WHERE aggregate_id = '1'")
        cursor.execute("UPDATE outbox_outboxstream SET due_at = NULL WHERE aggregate_id = '2'")
    assert len(list(published_before_its_effects())) == 1
    assert len(list(sleeping_streams())) == 1


def with_own_connection(work: Any) -> None:
    try:
        work()
    finally:
        connection.close()


def in_another_thread(work: Any) -> None:
    thread = threading.Thread(target=with_own_connection, args=[work])
    thread.start()
    thread.join()
