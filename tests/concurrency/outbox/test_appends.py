"""Append beside append: the lock on the head makes sequence order commit order; who loses leaves nothing."""

import pytest
from django.db import OperationalError, transaction

from commerce.outbox import append, drain
from commerce.outbox.models import OutboxEvent, OutboxStream
from tests.concurrency.outbox.sides import AT, Point, Side, keep, kept, listen, sequences, write, write_slowly

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=["new", "known"])
def before(request: pytest.FixtureRequest) -> int:
    """How many events the aggregate has: with none, its head has yet to be written."""
    listen("local", keep)
    if request.param == "known":
        write("1")
    return OutboxEvent.objects.count()


def test_the_second_append_to_an_aggregate_waits_for_the_first_to_commit(before: int) -> None:
    point = Point()
    first = Side(lambda: write_slowly(point, "1"))
    point.reached()
    second = Side(lambda: write("1"))
    second.waits_for_a_lock()
    assert len(sequences()) == before, "an event is seen before its transaction ended"
    point.go()
    first.answer()
    second.answer()
    assert sequences() == list(range(1, before + 3))
    assert drain().handled == before + 2
    assert kept() == [f"1#{n}" for n in range(1, before + 3)]


def test_an_append_that_rolls_back_leaves_no_gap_to_the_one_that_waited(before: int) -> None:
    point = Point()
    first = Side(lambda: write_slowly(point, "1", roll_back=True))
    point.reached()
    second = Side(lambda: write("1"))
    second.waits_for_a_lock()
    point.go()
    first.answer()
    second.answer()
    assert sequences() == list(range(1, before + 2))
    assert OutboxStream.objects.get(group="").cursor == before + 1
    drain()
    assert kept() == [f"1#{n}" for n in range(1, before + 2)]


def test_appends_to_two_aggregates_do_not_wait_for_each_other() -> None:
    listen("local", keep)
    point = Point()
    slow = Side(lambda: write_slowly(point, "1"))
    point.reached()
    Side(lambda: write("2")).answer()
    assert (sequences("1"), sequences("2")) == ([], [1])
    point.go()
    slow.answer()
    assert sequences("1") == [1]


def test_two_appends_in_opposite_order_cost_one_of_them_and_write_nothing_by_half() -> None:
    listen("local", keep)
    points = {"1": Point(), "2": Point()}

    def write_both(mine: str, other: str) -> None:
        with transaction.atomic():
            append("thing", mine, "thing.done", {"by": mine}, at=AT)
            points[mine].stop()
            append("thing", other, "thing.done", {"by": mine}, at=AT)

    sides = [Side(lambda: write_both("1", "2")), Side(lambda: write_both("2", "1"))]
    for point in points.values():
        point.reached()
    points["1"].go()
    sides[0].waits_for_a_lock()
    points["2"].go()
    errors = [side.error() for side in sides]
    assert sorted(isinstance(error, OperationalError) for error in errors) == [False, True]
    assert errors.count(None) == 1
    survivor = str(errors.index(None) + 1)
    assert [event.payload["by"] for event in OutboxEvent.objects.all()] == [survivor] * 2
    assert (sequences("1"), sequences("2")) == ([1], [1])
    assert drain().handled == 2
    assert kept() == ["1#1", "2#1"]
