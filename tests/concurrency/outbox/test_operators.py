"""Operators between the relay's steps: what they decide stands, whoever is at work on the stream."""

import pytest
from django.db import transaction

from commerce.actor import Actor
from commerce.errors import Busy, StateConflict
from commerce.outbox import claims, drain, services
from commerce.outbox.models import OutboxEvent
from tests.concurrency.outbox.sides import (
    AT,
    LANES,
    Point,
    Side,
    keep,
    kept,
    listen,
    stop_after,
    stream,
    unpublished,
    untouched_by_failure,
    write,
)

pytestmark = pytest.mark.django_db(transaction=True)

BY = {"actor": Actor.system("test"), "at": AT, "reason": "a question"}


class AtWork:
    """A drain that stands still in its first effect."""

    def __init__(self, lane: str) -> None:
        self.point, self.keys = Point(), []
        listen(lane, self)
        write("1")
        self.drain = Side(drain)
        self.point.reached()

    def __call__(self, event: OutboxEvent) -> None:
        self.keys.append(event.key)
        keep(event)
        self.point.stop()


def once_more_at_a_provider(lane: str) -> list[str]:
    return ["1#1"] if lane == "openmeter" else []


@pytest.mark.parametrize("lane", LANES)
def test_a_stream_parked_during_its_effect_stays_parked_and_its_effect_is_undone(lane: str) -> None:
    work = AtWork(lane)
    services.park_stream(stream=stream(), **BY)
    work.point.go()
    assert work.drain.answer().handled == 0
    assert stream().parked_at is not None
    assert "a question" in stream().parked_reason
    assert (stream().cursor, stream().attempts, stream().due_at) == (0, 0, None)
    assert kept() == once_more_at_a_provider(lane)
    assert unpublished() == 1
    assert drain().handled == 0
    services.resume_stream(stream=stream(), **BY)
    assert drain().handled == 1
    assert kept() == [*once_more_at_a_provider(lane), "1#1"]
    assert len(set(work.keys)) == 1
    assert unpublished() == 0


@pytest.mark.parametrize("lane", LANES)
def test_a_stream_resumed_during_its_effect_belongs_to_whoever_claims_it_then(lane: str) -> None:
    work = AtWork(lane)
    services.park_stream(stream=stream(), **BY)
    services.resume_stream(stream=stream(), **BY)
    assert drain().handled == 1
    work.point.go()
    assert work.drain.answer().handled == 0
    assert kept() == [*once_more_at_a_provider(lane), "1#1"]
    assert (stream().cursor, stream().due_at) == (1, None)
    assert untouched_by_failure(stream())


@pytest.mark.parametrize("lane", LANES)
def test_a_stream_resumed_and_claimed_by_nobody_is_not_its_former_holders(lane: str) -> None:
    work = AtWork(lane)
    services.park_stream(stream=stream(), **BY)
    services.resume_stream(stream=stream(), **BY)
    work.point.go()
    assert work.drain.answer().handled == 1, "the same drain, by a new claim"
    assert kept() == [*once_more_at_a_provider(lane), "1#1"]
    assert len(work.keys) == (3 if lane == "batch" else 2)


def test_a_stream_that_is_being_worked_on_cannot_be_retried() -> None:
    work = AtWork("local")
    with pytest.raises(StateConflict, match="A worker holds the stream"):
        services.retry_stream(stream=stream(), **BY)
    work.point.go()
    assert work.drain.answer().handled == 1
    assert kept() == ["1#1"]
    with pytest.raises(StateConflict, match="Nothing waits"):
        services.retry_stream(stream=stream(), **BY)


def test_a_retry_ends_the_back_off_for_one_drain_only() -> None:
    errors = [Busy("later")]

    def fail_once(event: OutboxEvent) -> None:
        keep(event)
        if errors:
            raise errors.pop()

    listen("local", fail_once)
    write("1")
    drain(limit=1)
    services.retry_stream(stream=stream(), **BY)
    sides = [Side(drain), Side(drain)]
    assert sorted(side.answer().handled for side in sides) == [0, 1]
    assert kept() == ["1#1"]


def test_whoever_parks_a_stream_that_is_being_finished_comes_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The effect had its row first: it counts, and what is appended later waits for a person."""
    listen("local", keep)
    write("1")
    point = stop_after(monkeypatch, claims, "finish")
    relay = Side(lambda: drain(limit=1))
    point.reached()
    parking = Side(lambda: services.park_stream(stream=stream(), **BY))
    parking.waits_for_a_lock()
    point.go()
    assert relay.answer().handled == 1
    parking.answer()
    assert (kept(), stream().cursor) == (["1#1"], 1)
    write("1")
    assert drain().handled == 0
    services.resume_stream(stream=stream(), **BY)
    assert drain().handled == 1
    assert kept() == ["1#1", "1#2"]


@pytest.mark.parametrize("first", ["append", "park"])
def test_an_append_beside_parking_waits_for_the_person_in_both_orders(first: str) -> None:
    listen("local", keep)
    write("1")
    drain()
    point = Point()

    def slowly(verb: str) -> None:
        with transaction.atomic():
            do(verb)
            point.stop()

    def do(verb: str) -> None:
        write("1") if verb == "append" else services.park_stream(stream=stream(), **BY)

    one = Side(lambda: slowly(first))
    point.reached()
    other = Side(lambda: do("park" if first == "append" else "append"))
    other.waits_for_a_lock()
    point.go()
    one.answer()
    other.answer()
    assert stream().parked_at is not None
    assert drain().handled == 0
    services.resume_stream(stream=stream(), **BY)
    assert drain().handled == 1
    assert kept() == ["1#1", "1#2"]
