"""What an outage, a deployment, a clock or a stranger's words must not do to the relay."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from django.db import connection, transaction
from django.utils import timezone

from commerce.actor import Actor
from commerce.errors import Rejected, Retryable, StateConflict
from commerce.outbox import append, breaker, claims, drain, events, invariants, on, registry, relay, services
from commerce.outbox.models import Circuit, OutboxEvent, OutboxFailure, OutboxStream

AT = datetime(2027, 3, 1, tzinfo=UTC)
OPERATOR = Actor.system("test")

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _own_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_handlers", {})
    monkeypatch.setattr(relay, "backoff", lambda attempt: timedelta(hours=1))


def write(*ids: str, type_: str = "thing.done") -> None:
    for id_ in ids:
        with transaction.atomic():
            append("thing", id_, type_, {}, at=AT)


def stream(id_: str, group: str = "g") -> OutboxStream:
    return OutboxStream.objects.get(aggregate_id=id_, group=group)


def open_circuit() -> None:
    now = timezone.now()
    Circuit.objects.create(
        lane="acme",
        failures=5,
        streams=[1, 2, 3],
        trips=1,
        opened_at=now,
        open_until=now - timedelta(seconds=1),
    )


@pytest.mark.parametrize(
    "words", ["a NUL \x00", "half a pair \ud800", "long " * 10_000], ids=["nul", "pair", "long"]
)
@pytest.mark.parametrize("provider", ["", "acme"], ids=["local", "remote"])
def test_whatever_an_error_says_parks_its_stream_and_no_other(
    words: str, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay.log, "disabled", True)  # what keeps the log of a test cannot keep such words
    seen = []

    @on("thing.done", group="g", provider=provider)
    def refuse_the_first(event: OutboxEvent) -> None:
        seen.append(event.aggregate_id)
        if event.aggregate_id == "1":
            raise Rejected(words)

    write("1", "2", "3")
    assert drain().handled == 2
    assert seen == ["1", "2", "3"]
    parked = stream("1")
    assert parked.parked_at
    assert len(parked.last_error) <= relay.LONGEST_ERROR
    assert OutboxFailure.objects.count() == 1


def test_a_failure_that_cannot_be_recorded_holds_back_its_stream_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    @on("thing.done", group="g")
    def fail_the_first(event: OutboxEvent) -> None:
        seen.append(event.aggregate_id)
        if event.aggregate_id == "1":
            raise Rejected("no")

    def refuse(error: Exception) -> str:
        raise RuntimeError("no words for it")

    monkeypatch.setattr(relay, "_said", refuse)
    write("1", "2", "3")
    assert drain().handled == 2
    assert seen == ["1", "2", "3"]
    held = stream("1")
    assert (held.cursor, held.lease_token) == (0, None)
    assert held.due_at
    assert held.due_at > timezone.now() + timedelta(minutes=50), "tried again at once, for ever"


@pytest.mark.parametrize(("kind", "stale"), [("batch", "local"), ("acme", "local"), ("local", "acme")])
def test_how_an_effect_runs_is_for_the_code_to_say_and_not_for_a_row(kind: str, stale: str) -> None:
    """A process of an older release writes the lane that it knows, also after the deployment."""
    inside: list[Any] = []

    def note(event: Any) -> None:
        inside.append((connection.in_atomic_block, isinstance(event, list)))

    on("thing.done", group="g", provider="acme" if kind == "acme" else "", batch=kind == "batch")(note)
    write("1")
    OutboxStream.objects.filter(group="g").update(lane=stale)
    assert drain(lanes=[stale]).handled == 0
    assert inside == []
    assert stream("1").lane == kind
    assert drain(lanes=[kind]).handled == 1
    assert inside == [(kind != "acme", kind == "batch")]


def test_a_clock_that_was_ahead_and_went_back_hides_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    on("thing.done", group="g")(lambda event: seen.append(event.sequence))
    with monkeypatch.context() as ahead:
        ahead.setattr(events, "_APPEND", events._APPEND.replace("now()", "now() + interval '2 hours'"))
        write("1")
    OutboxStream.objects.filter(group="g").update(due_at=timezone.now())
    write("1")
    drain()
    assert seen == [1, 2]


def test_a_lease_is_renewed_by_the_clock_that_claims_look_at() -> None:
    over: list[bool] = []

    @on("thing.done", group="g", provider="acme")
    def look(event: OutboxEvent) -> None:
        with connection.cursor() as cursor:
            cursor.execute("""SELECT due_at < now() FROM outbox_outboxstream WHERE "group" = 'g'""")
            over.append(cursor.fetchone()[0])

    write("1")
    with time_machine.travel(datetime.now(UTC) - timedelta(minutes=3)):
        drain()
    assert over == [False], "another worker could have asked the provider at the same time"


def test_giving_back_waits_for_nobody() -> None:
    """A service that appends to two aggregates and a worker that gives both back would wait in a circle."""
    on("thing.done", group="g")(lambda event: None)
    write(*map(str, range(20)))
    token = uuid4()
    streams = sorted(claims.claim(token=token, lane="local", limit=100), key=lambda claimed: claimed.id)
    first, last = streams[0].aggregate_id, streams[-1].aggregate_id
    appended, go_on, answers = threading.Event(), threading.Event(), []

    def append_to_both() -> None:
        try:
            with transaction.atomic():
                append("thing", last, "thing.done", {}, at=AT)
                appended.set()
                assert go_on.wait(10)
                append("thing", first, "thing.done", {}, at=AT)
            answers.append("committed")
        finally:
            connection.close()

    service = threading.Thread(target=append_to_both)
    service.start()
    assert appended.wait(10)
    with transaction.atomic():
        claims.let_go(streams, token)
        assert OutboxStream.objects.filter(lease_token=token).count() == 1, "what is locked keeps its lease"
        go_on.set()
        time.sleep(0.1)
    service.join(10)
    assert answers == ["committed"]


def test_a_probe_that_met_a_defect_leaves_the_question_to_the_next_at_once() -> None:
    @on("thing.done", group="g", provider="acme")
    def defect(event: OutboxEvent) -> None:
        if event.aggregate_id == "bad":
            raise StateConflict("cancelled meanwhile")
        breaker.hear()

    write("bad", "good")
    open_circuit()
    drain()
    assert stream("bad").parked_at
    assert stream("good").cursor == 1
    assert Circuit.objects.get().open_until is None


@pytest.mark.parametrize("lost", ["time", "claim"])
def test_a_probe_that_came_to_nothing_is_given_back(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on("thing.done", group="g", provider="acme")(lambda event: breaker.hear())
    write("1")
    open_circuit()

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("lost")

    with monkeypatch.context() as patch:
        if lost == "claim":
            patch.setattr(claims, "read", fail)
            with pytest.raises(RuntimeError):
                drain(lanes=["acme"])
        else:
            answers = iter([False])
            patch.setattr(relay, "_is_over", lambda deadline: next(answers, True))
            drain(lanes=["acme"])
    circuit = Circuit.objects.get()
    assert circuit.open_until
    assert circuit.open_until <= timezone.now()
    assert drain(lanes=["acme"]).handled == 1


def test_a_paused_line_sends_nothing_more_of_the_stream_in_hand() -> None:
    sent = []

    @on("thing.done", group="g", provider="acme")
    def harm(event: OutboxEvent) -> None:
        sent.append(event.sequence)
        services.pause_lane(lane="acme", actor=OPERATOR, at=AT, reason="it does harm")

    for _ in range(5):
        write("1")
    drain()
    assert sent == [1]
    assert stream("1").cursor == 1


def test_an_interrupted_connection_is_nobodys_fault() -> None:
    calls = []

    @on("thing.done", group="g")
    def paused(event: OutboxEvent) -> None:
        calls.append(event.sequence)
        if len(calls) == 1:
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
            time.sleep(0.3)
            OutboxFailure.objects.exists()

    write("1")
    drain()
    failed = stream("1")
    assert failed.parked_at is None
    assert failed.attempts == 1


def test_a_group_that_begins_to_listen_to_a_type_gets_what_happens_from_then_on() -> None:
    seen: list[str] = []

    def note(event: OutboxEvent) -> None:
        seen.append(f"{event.type} #{event.sequence}")

    on("thing.opened", group="g")(note)
    on("thing.done", group="other")(lambda event: None)
    write("1", type_="thing.opened")
    write("1")
    drain()
    write("1")
    on("thing.done", group="g")(note)
    assert list(invariants.published_before_its_effects()) == []
    drain()
    claims.publish_left()
    assert not OutboxEvent.objects.filter(published_at__isnull=True).exists(), "nobody is waited for in vain"
    write("1")
    drain()
    assert seen == ["thing.opened #1", "thing.done #4"]


def test_one_bad_event_costs_a_batch_a_few_more_transactions_and_not_one_for_each_stream() -> None:
    calls: list[int] = []

    @on("thing.done", group="g", batch=True)
    def fail_for_seven(events: list[OutboxEvent]) -> None:
        calls.append(len(events))
        if any(event.aggregate_id == "7" for event in events):
            raise Retryable("not yet")

    write(*map(str, range(64)))
    assert drain(limit=64).handled == 63
    assert len(calls) <= 2 * 6 + 2
    calls.clear()
    write(*map(str, range(8, 40)))
    OutboxStream.objects.filter(due_at__isnull=False).update(due_at=timezone.now())
    drain(limit=32)
    assert sorted(calls)[-1] == 32, "the bad one was let in with the others again"


def test_a_batch_claims_no_more_streams_than_it_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "EVENTS_PER_CLAIM", 100)
    claimed: list[int] = []
    claim: Callable[..., Any] = claims.claim

    def counted(**arguments: Any) -> Any:
        streams = claim(**arguments)
        claimed.append(len(streams))
        return streams

    monkeypatch.setattr(claims, "claim", counted)
    on("thing.done", group="g", batch=True)(lambda events: None)
    with transaction.atomic():
        for id_ in range(60):
            for _ in range(10):
                append("thing", str(id_), "thing.done", {}, at=AT)
    assert drain(lanes=["batch"]).handled == 600
    assert claimed[0] == 60
    assert max(claimed[1:]) <= 20
