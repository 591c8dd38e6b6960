"""Publishing: exactly when the last group's cursor has committed; never before, and nobody waits for it."""

import threading
from uuid import uuid4

import pytest
from django.db import transaction

from commerce.outbox import claims, drain, relay
from commerce.outbox.invariants import published_before_its_effects
from commerce.outbox.models import OutboxEvent, OutboxStream
from tests.concurrency.outbox.sides import (
    PATIENCE,
    Point,
    Side,
    expire_leases,
    keep,
    kept,
    listen,
    stop_after,
    stop_at,
    stop_before,
    unpublished,
    write,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _two_groups() -> None:
    for group in ("first", "second"):
        listen("local", keep, group=group)
    write("1")


def published() -> bool:
    return not unpublished()


def test_an_event_is_not_published_while_a_group_has_its_cursor_uncommitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = stop_after(monkeypatch, claims, "finish")
    second = Side(lambda: drain(groups=["second"]))
    point.reached()
    assert drain(groups=["first"]).handled == 1
    assert not published(), "published before the second group's effect"
    point.go()
    second.answer()
    assert published()
    assert list(published_before_its_effects()) == []


def test_the_last_of_two_that_have_both_committed_publishes_whoever_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = stop_before(monkeypatch, claims, "publish")
    first = Side(lambda: drain(groups=["first"]))
    point.reached()
    assert not published(), "published although one group has not begun"
    drain(groups=["second"])
    assert published()
    at = OutboxEvent.objects.get().published_at
    point.go()
    first.answer()
    assert OutboxEvent.objects.get().published_at == at, "published a second time"


def test_two_groups_that_commit_and_publish_at_the_same_moment_publish_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    barrier, publish, counts = threading.Barrier(2), claims.publish, []

    def together(streams: list[claims.Claimed]) -> int:
        assert not published()
        barrier.wait(PATIENCE)
        counts.append(publish(streams))
        return counts[-1]

    monkeypatch.setattr(claims, "publish", together)
    write(*map(str, range(2, 30)))
    sides = [
        Side(lambda g=group: drain(groups=[g], lanes=["local"], limit=20)) for group in ("first", "second")
    ]
    for side in sides:
        side.answer()
    monkeypatch.setattr(claims, "publish", publish)
    drain()
    claims.publish_left()
    assert published()
    assert sum(counts) <= 20
    for group in ("first", "second"):
        assert len(kept(group)) == len(set(kept(group))) == 29


def test_a_group_waits_for_no_other_that_is_publishing_the_same_event() -> None:
    drain(groups=["first"])
    point = Point()

    def publish_slowly() -> int:
        with transaction.atomic():
            count = claims.publish_left()
            point.stop()
        return count

    with pytest.MonkeyPatch.context() as unpublishing:
        unpublishing.setattr(claims, "publish", lambda streams: 0)
        drain(groups=["second"])
    slow = Side(publish_slowly)
    point.reached()
    assert claims.publish_left() == 0, "it passes by what is being published"
    assert not published()
    point.go()
    assert slow.answer() == 1
    assert published()


def test_a_group_that_dies_between_its_commit_and_publishing_leaves_it_to_the_tick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Died(BaseException):
        pass

    def die(name: str) -> None:
        if name == "outbox.after_commit":
            raise Died

    drain(groups=["first"])
    with monkeypatch.context() as dying:
        dying.setattr(relay, "crash_point", die)
        dying.setattr(claims, "publish", lambda streams: 0)
        with pytest.raises(Died):
            drain(groups=["second"])
    assert kept("second") == ["1#1"]
    assert drain().handled == 0
    assert not published()
    assert claims.publish_left() == 1
    assert published()


def test_in_one_transaction_with_the_cursor_neither_group_would_see_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why publishing comes after the commit: two that finish at once would leave the event to nobody."""
    before_commit = {"first": Point(), "second": Point()}
    publish = claims.publish

    def work(group: str) -> None:
        with transaction.atomic():
            drain(groups=[group])
            before_commit[group].stop()

    sides = [Side(lambda g=group: work(g)) for group in before_commit]
    for point in before_commit.values():
        point.reached()
    for point in before_commit.values():
        point.go()
    for side in sides:
        side.answer()
    assert (kept("first"), kept("second")) == (["1#1"], ["1#1"])
    assert not published()
    assert claims.publish is publish
    assert claims.publish_left() == 1


def test_a_rolled_back_effect_publishes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    drain(groups=["first"])
    point = stop_at(monkeypatch, "outbox.before_local_commit")
    second = Side(lambda: drain(groups=["second"]))
    point.reached()
    OutboxStream.objects.filter(group="second").update(lease_token=uuid4())
    point.go()
    assert second.answer().handled == 0
    assert kept("second") == []
    assert not published()
    expire_leases()
    assert drain().handled == 1
    assert published()
