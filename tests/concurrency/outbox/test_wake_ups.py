"""Append beside claim, read and finish: in every order the event is handled, and by no tick's luck.

The relay locks a row and then looks once more. One test takes the lock away and loses a wake-up, so that the
others are known to look at the right place.
"""

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from commerce.outbox import append, claims, drain, on
from commerce.outbox.invariants import sleeping_streams
from commerce.outbox.models import OutboxEvent, OutboxStream
from tests.concurrency.outbox.sides import (
    AT,
    LANES,
    Point,
    Side,
    keep,
    kept,
    listen,
    stop_after,
    stop_at,
    stop_before,
    stream,
    unpublished,
    write,
    write_slowly,
)

pytestmark = pytest.mark.django_db(transaction=True)

BEFORE_THE_CURSOR = {
    "local": "outbox.before_local_commit",
    "batch": "outbox.before_batch_commit",
    "openmeter": "outbox.after_remote_effect",
}


def test_an_append_that_has_not_committed_is_neither_handled_nor_waited_for() -> None:
    listen("local", keep)
    point = Point()
    writer = Side(lambda: write_slowly(point, "1"))
    point.reached()
    assert drain().handled == 0
    point.go()
    writer.answer()
    assert stream().due_at is not None
    assert drain().handled == 1
    assert kept() == ["1#1"]


def test_a_claim_passes_by_a_stream_that_is_being_appended_to() -> None:
    """The row is locked by the append: the claim takes the others, and this one whole afterwards."""
    listen("local", keep)
    write("1", "2")
    point = Point()
    writer = Side(lambda: write_slowly(point, "1"))
    point.reached()
    assert drain().handled == 1
    assert kept() == ["2#1"]
    point.go()
    writer.answer()
    assert drain().handled == 2
    assert kept() == ["1#1", "1#2", "2#1"]


@pytest.mark.parametrize("lane", LANES)
def test_what_is_appended_between_claim_and_read_is_read(lane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listen(lane, keep)
    write("1")
    point = stop_before(monkeypatch, claims, "read")
    relay = Side(drain)
    point.reached()
    write("1")
    assert stream().lease_token is not None, "an append ends no lease"
    point.go()
    assert relay.answer().handled == 2
    assert kept() == ["1#1", "1#2"]
    assert stream().due_at is None


@pytest.mark.parametrize("lane", LANES)
def test_an_older_transaction_that_appends_between_claim_and_read_is_not_overlooked(
    lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event was recorded before all that the stream was claimed for, and is followed by a newer one."""
    listen(lane, keep)
    began, goes_on = Point(), stop_before(monkeypatch, claims, "read")

    def begin_early() -> None:
        with transaction.atomic():
            OutboxStream.objects.annotate(began=Now()).first()
            began.stop()
            append("thing", "1", "thing.done", {}, at=AT)

    early = Side(begin_early)
    began.reached()
    write("1")
    relay = Side(lambda: drain(limit=1))
    goes_on.reached()
    began.go()
    early.answer()
    write("1")
    recorded = list(OutboxEvent.objects.order_by("recorded_at").values_list("sequence", flat=True))
    assert recorded == [2, 1, 3]
    goes_on.go()
    relay.answer()
    drain()
    assert kept() == ["1#1", "1#2", "1#3"]
    assert unpublished() == 0


@pytest.mark.parametrize("lane", LANES)
def test_what_is_appended_after_the_read_keeps_the_stream_due(
    lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen(lane, keep)
    write("1")
    point = stop_after(monkeypatch, claims, "read")
    relay = Side(lambda: drain(limit=1))
    point.reached()
    write("1")
    point.go()
    assert relay.answer().handled == 1
    assert (kept(), stream().lease_token) == (["1#1"], None)
    assert stream().due_at is not None
    assert drain().handled == 1
    assert kept() == ["1#1", "1#2"]


@pytest.mark.parametrize("lane", LANES)
def test_an_append_that_waits_for_the_finishing_relay_wakes_the_stream(
    lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen(lane, keep)
    write("1")
    point = stop_after(monkeypatch, claims, "finish")
    relay = Side(lambda: drain(limit=1))
    point.reached()
    writer = Side(lambda: write("1"))
    writer.waits_for_a_lock()
    assert OutboxEvent.objects.count() == 1
    point.go()
    assert relay.answer().handled == 1
    writer.answer()
    assert (kept(), stream().cursor) == (["1#1"], 1)
    assert stream().due_at is not None
    assert drain().handled == 1
    assert kept() == ["1#1", "1#2"]
    assert unpublished() == 0


def relay_waits_for_append(lane: str, monkeypatch: pytest.MonkeyPatch, *, roll_back: bool = False) -> None:
    """The relay has done its effect; before it can write its cursor, an append has the stream's row."""
    listen(lane, keep)
    write("1")
    before_cursor, before_commit = stop_at(monkeypatch, BEFORE_THE_CURSOR[lane]), Point()
    relay = Side(lambda: drain(limit=1))
    before_cursor.reached()
    writer = Side(lambda: write_slowly(before_commit, "1", roll_back=roll_back))
    before_commit.reached()
    before_cursor.go()
    relay.waits_for_a_lock()
    before_commit.go()
    writer.answer()
    assert relay.answer().handled == 1
    assert (kept(), stream().cursor, stream().lease_token) == (["1#1"], 1, None)


@pytest.mark.parametrize("lane", LANES)
def test_a_relay_that_waits_for_an_append_leaves_the_stream_due(
    lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay_waits_for_append(lane, monkeypatch)
    assert stream().due_at is not None
    assert list(sleeping_streams()) == []
    assert drain().handled == 1
    assert kept() == ["1#1", "1#2"]
    assert unpublished() == 0


@pytest.mark.parametrize("lane", LANES)
def test_an_append_that_rolls_back_after_all_wakes_nobody(lane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    relay_waits_for_append(lane, monkeypatch, roll_back=True)
    assert (stream().due_at, stream().pending_since) == (None, None)
    assert drain().handled == 0
    assert kept() == ["1#1"]


@pytest.mark.parametrize("lane", LANES)
def test_without_the_lock_before_its_last_look_the_relay_would_lose_the_wake_up(
    lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One statement that waits looks for events with the eyes that it had before the wait."""
    locking, lock = claims._LOCK, "FOR NO KEY UPDATE {wait}"
    assert lock in locking
    monkeypatch.setattr(claims, "_LOCK", locking.replace(lock, ""))
    relay_waits_for_append(lane, monkeypatch)
    assert stream().due_at is None
    assert drain().handled == 0
    assert len(list(sleeping_streams())) == 1


def test_an_effect_that_appends_to_its_own_aggregate_wakes_the_stream() -> None:
    """Own writes are seen by the look that ends the lease, and a writer who waits comes after them."""
    appended = Point()

    @on("thing.done", group="g")
    def answer(event: OutboxEvent) -> None:
        keep(event)
        if event.sequence == 1:
            append("thing", "1", "thing.done", {}, at=AT)
            appended.stop()

    write("1")
    relay = Side(lambda: drain(limit=1))
    appended.reached()
    writer = Side(lambda: write("1"))
    writer.waits_for_a_lock()
    appended.go()
    relay.answer()
    writer.answer()
    assert drain().handled == 2
    assert kept() == ["1#1", "1#2", "1#3"]
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM outbox_outboxstream WHERE due_at IS NOT NULL")
        assert cursor.fetchone() == (0,)
