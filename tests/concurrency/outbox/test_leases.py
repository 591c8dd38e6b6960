"""Leases: two drains share nothing; a holder who wakes after its lease went to another changes nothing."""

import threading
from uuid import uuid4

import pytest
from django.db import transaction

from commerce.errors import Busy, Rejected
from commerce.models import Heartbeat
from commerce.outbox import claims, drain, relay
from commerce.outbox.models import Circuit, OutboxEvent, OutboxFailure, OutboxStream
from tests.concurrency.outbox.sides import (
    LANES,
    PATIENCE,
    Point,
    Side,
    expire_leases,
    keep,
    kept,
    listen,
    stop_before,
    stream,
    unpublished,
    untouched_by_failure,
    write,
)

pytestmark = pytest.mark.django_db(transaction=True)


class Interrupted:
    """An effect during which the first holder stands still; whoever comes next does it at once."""

    def __init__(self, lane: str, *, wakes_with: Exception | None = None) -> None:
        self.point, self.keys, self._wakes_with = Point(), [], wakes_with
        self._first = threading.Lock()
        listen(lane, self)

    def __call__(self, event: OutboxEvent) -> None:
        first = self._first.acquire(blocking=False)
        self.keys.append(event.key)
        keep(event)
        if first:
            self.point.stop()
            if self._wakes_with:
                raise self._wakes_with


@pytest.mark.parametrize("lane", LANES)
def test_a_holder_who_wakes_after_another_took_over_changes_nothing(lane: str) -> None:
    """In the database its effect is rolled back; a provider has got both requests, under one key."""
    interrupted = Interrupted(lane)
    write("1")
    write("1")
    holder = Side(drain)
    interrupted.point.reached()
    expire_leases()
    assert drain().handled == 2
    write("1")
    assert drain().handled == 1
    settled = stream()
    interrupted.point.go()
    assert holder.answer().handled == 0
    assert stream() == settled
    assert vars_of(stream()) == vars_of(settled)
    assert stream().cursor == 3
    assert untouched_by_failure(stream())
    assert unpublished() == 0
    if lane == "openmeter":
        assert kept() == ["1#1", "1#1", "1#2", "1#3"]
        assert interrupted.keys[0] == interrupted.keys[1]
    else:
        assert kept() == ["1#1", "1#2", "1#3"]


@pytest.mark.parametrize("lane", LANES)
def test_a_holder_who_wakes_while_another_works_disturbs_it_in_nothing(lane: str) -> None:
    interrupted, takers = Interrupted(lane), Point()
    write("1")
    holder = Side(drain)
    interrupted.point.reached()
    expire_leases()

    def take_over() -> int:
        token = uuid4()
        streams = claims.claim(token=token, lane=lane, limit=1)
        claims.read(streams)
        takers.stop()
        relay._one_by_one(streams, token, report := relay.DrainReport(), float("inf"), probe=False)
        claims.publish(streams)
        return report.handled

    taker = Side(take_over)
    takers.reached()
    leased = vars_of(stream())
    interrupted.point.go()
    assert holder.answer().handled == 0
    assert vars_of(stream()) == leased, "the lease is the taker's"
    assert drain().handled == 0
    takers.go()
    assert taker.answer() == 1
    assert stream().cursor == 1
    assert len(kept()) == (2 if lane == "openmeter" else 1)
    assert untouched_by_failure(stream())


@pytest.mark.parametrize(
    "error", [Busy("later"), Rejected("no"), ValueError("bug")], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("lane", LANES)
def test_the_failure_of_a_holder_who_was_overtaken_is_not_the_streams(lane: str, error: Exception) -> None:
    interrupted = Interrupted(lane, wakes_with=error)
    write("1")
    holder = Side(drain)
    interrupted.point.reached()
    expire_leases()
    assert drain().handled == 1
    interrupted.point.go()
    report = holder.answer()
    assert (report.handled, report.retried, report.parked) == (0, 0, 0)
    assert untouched_by_failure(stream())
    assert (stream().cursor, stream().due_at) == (1, None)
    assert not Circuit.objects.exclude(open_until=None).exists()


@pytest.mark.parametrize("lane", LANES)
def test_a_holder_whose_taker_failed_does_not_finish_what_waits_now(lane: str) -> None:
    """The token is gone with the taker's failure: the back-off stands, and the next attempt is the third."""
    point, calls = Point(), []

    def effect(event: OutboxEvent) -> None:
        calls.append(event.key)
        keep(event)
        if len(calls) == 1:
            point.stop()
        elif len(calls) <= (3 if lane == "batch" else 2):
            raise Busy("later")

    listen(lane, effect)
    write("1")
    holder = Side(drain)
    point.reached()
    expire_leases()
    assert drain(limit=1).retried == 1
    waiting = vars_of(stream())
    point.go()
    assert holder.answer().handled == 0
    assert vars_of(stream()) == waiting
    assert (stream().cursor, stream().attempts, OutboxFailure.objects.count()) == (0, 2, 1)
    assert unpublished() == 1


@pytest.mark.parametrize("lane", LANES)
def test_a_lease_that_ended_and_that_nobody_took_is_still_its_holders(lane: str) -> None:
    interrupted = Interrupted(lane)
    write("1")
    holder = Side(drain)
    interrupted.point.reached()
    expire_leases()
    interrupted.point.go()
    assert holder.answer().handled == 1
    assert (kept(), stream().cursor, stream().due_at) == (["1#1"], 1, None)
    assert unpublished() == 0


def test_a_remote_holder_who_lost_its_lease_between_two_events_does_not_send_the_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lease is renewed before each request: nothing leaves without it."""
    sent: list[tuple[str, int]] = []
    listen("openmeter", lambda event: sent.append((threading.current_thread().name, event.sequence)))
    write("1")
    write("1")
    point = stop_before(monkeypatch, claims, "renew")
    holder = Side(drain)
    point.reached()
    expire_leases()
    assert drain().handled == 2
    point.go()
    assert holder.answer().handled == 0
    assert sent == [(threading.current_thread().name, 1), (threading.current_thread().name, 2)]


def test_a_second_claim_waits_for_no_first_and_takes_none_of_its_streams() -> None:
    listen("local", keep)
    write("1", "2", "3", "4")
    point = Point()

    def claim_slowly() -> list[int]:
        with transaction.atomic():
            claimed = claims.claim(token=uuid4(), lane="local", limit=2)
            point.stop()
        return [stream.id for stream in claimed]

    first = Side(claim_slowly)
    point.reached()
    second = [stream.id for stream in claims.claim(token=uuid4(), lane="local", limit=10)]
    assert claims.claim(token=uuid4(), lane="local", limit=10) == []
    point.go()
    assert len(first.answer()) == len(second) == 2
    assert not set(first.answer()) & set(second)
    assert set(first.answer()) | set(second) == set(
        OutboxStream.objects.exclude(group="").values_list("pk", flat=True)
    )


@pytest.mark.parametrize("lane", LANES)
def test_a_second_drain_takes_what_the_first_has_not_and_none_of_what_it_has(
    lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for own in ("local", "batch"):
        monkeypatch.setitem(relay.STREAMS_PER_CLAIM, own, 1)
    interrupted = Interrupted(lane)
    for id_ in ("1", "2", "3"):
        write(id_)
        write(id_)
    first = Side(lambda: drain(limit=1))
    interrupted.point.reached()
    assert drain().handled == 4
    held = OutboxStream.objects.get(lease_token__isnull=False)
    assert not any(event.startswith(f"{held.aggregate_id}#2") for event in kept())
    interrupted.point.go()
    assert first.answer().handled == 2
    assert kept() == [f"{id_}#{n}" for id_ in "123" for n in (1, 2)]
    assert unpublished() == 0


@pytest.mark.parametrize("lane", LANES)
def test_drains_that_begin_together_handle_each_event_once_and_in_order(
    lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for own in ("local", "batch"):
        monkeypatch.setitem(relay.STREAMS_PER_CLAIM, own, 3)
    listen(lane, keep)
    ids = [f"{n:02}" for n in range(24)]
    for _ in range(3):
        write(*ids)
    barrier, claimed = threading.Barrier(3), []
    claim = claims.claim

    def note(**arguments: object) -> list[claims.Claimed]:
        streams = claim(**arguments)
        claimed.extend(stream.id for stream in streams)
        return streams

    monkeypatch.setattr(claims, "claim", note)

    def begin_together() -> int:
        barrier.wait(PATIENCE)
        return drain().handled

    sides = [Side(begin_together) for _ in range(3)]
    assert sum(side.answer() for side in sides) == 72
    assert sorted(claimed) == sorted(set(claimed)), "a stream was claimed twice"
    assert kept() == [f"{id_}#{n}" for id_ in ids for n in (1, 2, 3)]
    assert Heartbeat.objects.count() == 72
    assert unpublished() == 0


def vars_of(row: OutboxStream) -> dict[str, object]:
    return {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}
