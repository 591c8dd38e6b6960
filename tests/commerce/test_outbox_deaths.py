"""Who dies of an event, or is cut off by it: that counts as an attempt, and costs the others only time."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from commerce.errors import Busy, Retryable
from commerce.models import Heartbeat
from commerce.outbox import append, claims, drain, events, on, registry, relay
from commerce.outbox.breaker import Way
from commerce.outbox.models import Circuit, OutboxEvent, OutboxFailure, OutboxStream

AT = datetime(2027, 3, 1, tzinfo=UTC)
LANES: dict[str, dict[str, Any]] = {"local": {}, "batch": {"batch": True}, "acme": {"provider": "acme"}}

pytestmark = pytest.mark.django_db(transaction=True)


class Killed(BaseException):
    """What kill -9 leaves to its survivors: a transaction rolled back, leases that nobody ends."""


class Handler:
    """Raises what is set for an aggregate; else notes in the database what it was given."""

    def __init__(self, lane: str) -> None:
        self.raises: dict[str, BaseException] = {}
        self.calls: list[list[str]] = []
        on("thing.done", group="g", **LANES[lane])(self)

    def __call__(self, given: Any) -> None:
        taken: list[OutboxEvent] = given if isinstance(given, list) else [given]
        self.calls.append([event.aggregate_id for event in taken])
        for event in taken:
            if error := self.raises.get(event.aggregate_id):
                raise error
            Heartbeat.objects.create(name=f"{event.aggregate_id}#{event.sequence}", beaten_at=AT)

    def tries(self, id_: str) -> int:
        return sum(id_ in call for call in self.calls)


@pytest.fixture(autouse=True)
def _own_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_handlers", {})
    monkeypatch.setattr(events, "_quiet_until", float("inf"))
    monkeypatch.setattr(relay, "backoff", lambda attempt: timedelta(hours=1))


def write(*ids: str) -> None:
    for id_ in ids:
        with transaction.atomic():
            append("thing", id_, "thing.done", {}, at=AT)


def stream(id_: str) -> OutboxStream:
    return OutboxStream.objects.get(aggregate_id=id_, group="g")


def effects() -> list[str]:
    return sorted(Heartbeat.objects.values_list("name", flat=True))


def work_until_killed(lane: str) -> bool:
    """One claim by a worker that, when it is killed, gives back nothing; whether it lived."""
    token, report = uuid4(), relay.DrainReport()
    sizes = dict(relay.STREAMS_PER_CLAIM)
    streams = claims.claim(token=token, lane=lane, limit=sizes.get(lane, 1))
    try:
        relay._work_on(streams, lane, sizes, token, report, float("inf"), Way.FREE)
    except Killed:
        return False
    claims.let_go([stream for stream in streams if not stream.finished], token)
    return True


def time_passes() -> None:
    """Leases and back-offs are over."""
    OutboxStream.objects.filter(due_at__isnull=False).update(due_at=Now())


@pytest.mark.parametrize("lane", LANES)
def test_an_event_that_kills_its_workers_is_parked_after_the_usual_number_of_them(lane: str) -> None:
    handler = Handler(lane)
    handler.raises["3"] = Killed()
    ids = ("1", "2", "3", "4", "5")
    write(*ids)
    for _ in range(40):
        work_until_killed(lane)
        time_passes()
    bad = stream("3")
    assert bad.parked_at
    assert bad.attempts == handler.tries("3") == relay.ATTEMPTS_BEFORE_PARKING
    assert bad.parked_reason.startswith("thing.done #1: WorkerLost: whoever had it in hand ended, or could")
    assert OutboxFailure.objects.get().attempt == relay.ATTEMPTS_BEFORE_PARKING
    assert {f"{id_}#1" for id_ in ids if id_ != "3"} <= set(effects())
    for id_ in ids:
        if id_ != "3":
            done = stream(id_)
            assert (done.cursor, done.attempts, done.last_error, done.parked_at) == (1, 0, "", None)


@pytest.mark.parametrize("lane", ["local", "batch"])
def test_after_the_second_death_only_its_own_stream_is_left(lane: str) -> None:
    """Who was merely claimed beside it goes before it, alone, and is done before it kills again."""
    handler = Handler(lane)
    handler.raises["1"] = Killed()
    write(*map(str, range(1, 9)))
    assert not work_until_killed(lane)
    time_passes()
    assert not work_until_killed(lane)
    handler.calls.clear()
    time_passes()
    assert not work_until_killed(lane)
    assert handler.calls[-1] == ["1"]
    waiting = OutboxStream.objects.filter(due_at__isnull=False).values_list("aggregate_id", "attempts")
    assert list(waiting) == [("1", 3)]


def test_a_worker_that_was_killed_for_another_reason_costs_its_streams_nothing() -> None:
    handler = Handler("local")
    handler.raises["1"] = Killed()
    write("1", "2")
    work_until_killed("local")
    handler.raises.clear()
    time_passes()
    assert drain().handled == 2
    assert not OutboxStream.objects.exclude(attempts=0, last_error="").exists()
    assert not OutboxFailure.objects.exists()


@pytest.mark.parametrize("lane", LANES)
def test_a_failure_after_a_death_is_the_second_attempt(lane: str) -> None:
    handler = Handler(lane)
    handler.raises["1"] = Killed()
    write("1")
    work_until_killed(lane)
    handler.raises["1"] = Busy("later")
    time_passes()
    assert drain().retried == 1
    assert (stream("1").attempts, stream("1").last_error) == (2, "Busy: later")
    assert OutboxFailure.objects.get().attempt == 2


def test_an_outage_after_a_death_counts_no_attempt() -> None:
    handler = Handler("acme")
    handler.raises["1"] = Killed()
    write("1")
    work_until_killed("acme")
    handler.raises["1"] = Retryable("down")
    with transaction.atomic():
        Circuit.objects.create(lane="acme", failures=9, trips=1, opened_at=Now(), open_until=Now())
    time_passes()
    drain()
    assert handler.tries("1") == 2
    assert (stream("1").attempts, stream("1").parked_at) == (1, None)


def test_only_what_has_failed_costs_a_statement_to_count_in_advance() -> None:
    """Each of the others is one update: the end of its lease."""
    handler = Handler("local")
    handler.raises["1"] = Busy("later")
    write("1", "2", "3")
    drain()
    handler.raises.clear()
    time_passes()
    write("2", "3")
    with CaptureQueriesContext(connection) as asked:
        assert drain().handled == 3
    said = [query["sql"].replace('"', "").split() for query in asked]
    assert sum(words[:2] == ["UPDATE", "outbox_outboxstream"] for words in said) == 3 + 1


def test_who_gave_its_claim_back_did_not_die() -> None:
    Handler("local")
    write("1")
    token = uuid4()
    claims.let_go(claims.claim(token=token, lane="local", limit=1), token)
    claims.claim(token=uuid4(), lane="local", limit=1)
    assert (stream("1").attempts, stream("1").last_error) == (0, "")


def test_a_batch_that_outlasts_the_time_limit_goes_alone_the_next_time() -> None:
    handler = Handler("batch")
    handler.raises["3"] = SoftTimeLimitExceeded()
    ids = [str(n) for n in range(1, 7)]
    write(*ids)
    with pytest.raises(SoftTimeLimitExceeded):
        drain(lanes=["batch"])
    cut_off = OutboxStream.objects.exclude(group="")
    assert set(cut_off.values_list("attempts", "lease_token")) == {(1, None)}
    assert {row.last_error for row in cut_off} == {
        "SoftTimeLimitExceeded: SoftTimeLimitExceeded() in a batch of 6 streams"
    }
    assert effects() == []
    handler.calls.clear()
    for _ in range(relay.ATTEMPTS_BEFORE_PARKING - 2):
        time_passes()
        with pytest.raises(SoftTimeLimitExceeded):
            while drain(lanes=["batch"]).handled:
                pass
    assert all(len(call) == 1 for call in handler.calls)
    assert effects() == [f"{id_}#1" for id_ in ids if id_ != "3"]
    assert stream("3").parked_at is None
    time_passes()
    with pytest.raises(SoftTimeLimitExceeded):
        drain(lanes=["batch"])
    assert stream("3").parked_at
    assert stream("3").attempts == relay.ATTEMPTS_BEFORE_PARKING


def test_what_was_not_in_the_batch_that_was_cut_off_is_given_back_as_it_was() -> None:
    """A defect in the second half, and time that runs out in the first: the second was not tried."""
    handler = Handler("batch")
    write("1", "2", "3", "4")
    handler.raises["4"] = ValueError("bug")
    claim_order = [s.aggregate_id for s in OutboxStream.objects.exclude(group="").order_by("due_at")]
    assert claim_order == ["1", "2", "3", "4"]

    def time_is_up(given: list[OutboxEvent]) -> None:
        if len(given) < 4:
            raise SoftTimeLimitExceeded
        handler(given)

    registry._handlers.clear()
    on("thing.done", group="g", batch=True)(time_is_up)
    with pytest.raises(SoftTimeLimitExceeded):
        drain(lanes=["batch"])
    attempts = OutboxStream.objects.exclude(group="").values_list("attempts", flat=True)
    assert sorted(attempts) == [0, 0, 1, 1]
    assert effects() == []
