"""Releases beside each other: what is for a subscriber unknown here waits; who has retired does not."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from commerce.actor import Actor
from commerce.outbox import append, claims, drain, events, on, registry, services, traces
from commerce.outbox.invariants import published_before_its_effects, sleeping_streams
from commerce.outbox.models import OutboxEvent, OutboxFailure, OutboxStream

AT = datetime(2027, 3, 1, tzinfo=UTC)
OPERATOR = Actor.system("test")
LANES: dict[str, dict[str, Any]] = {"local": {}, "batch": {"batch": True}, "acme": {"provider": "acme"}}

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(registry, "_handlers", {})
    monkeypatch.setattr(registry, "_retired", {})
    monkeypatch.setattr(events, "_quiet_until", float("inf"))
    return []


def note(heard: list[str], word: str) -> Any:
    def effect(given: Any) -> None:
        for event in given if isinstance(given, list) else [given]:
            heard.append(f"{word} {event.type} #{event.sequence}")

    return effect


def write(type_: str = "thing.done", id_: str = "1") -> OutboxEvent:
    with transaction.atomic():
        return append("thing", id_, type_, {}, at=AT)


def stream(group: str, id_: str = "1") -> OutboxStream:
    return OutboxStream.objects.get(aggregate_id=id_, group=group)


def unpublished() -> list[str]:
    claims.publish_left()
    waiting = OutboxEvent.objects.filter(published_at__isnull=True).order_by("id")
    return [f"{event.type} #{event.sequence}" for event in waiting]


@pytest.mark.parametrize("lane", LANES)
def test_an_event_for_a_group_that_only_a_newer_release_knows_waits_for_it(
    lane: str, heard: list[str]
) -> None:
    """An older worker drains the same lane; the group that it knows goes on."""
    on("thing.done", group="old", **LANES[lane])(note(heard, "old"))
    on("thing.done", group="new", **LANES[lane])(note(heard, "new"))
    write()
    newer = registry._handlers["thing.done"].pop("new")
    drain()
    assert heard == ["old thing.done #1"]
    waiting = stream("new")
    assert (waiting.cursor, waiting.due_at) == (0, None)
    assert waiting.parked_at
    assert "UnknownVersion: This release does not know what new does about thing.done" in waiting.last_error
    assert unpublished() == ["thing.done #1"]
    registry._handlers["thing.done"]["new"] = newer
    services.resume_stream(stream=waiting, actor=OPERATOR, at=AT)
    drain()
    assert heard == ["old thing.done #1", "new thing.done #1"]
    assert unpublished() == []
    assert [*published_before_its_effects(), *sleeping_streams()] == []


@pytest.mark.parametrize("lane", LANES)
def test_an_event_of_a_type_that_its_group_does_not_know_yet_holds_back_what_comes_after(
    lane: str, heard: list[str]
) -> None:
    on("thing.done", "thing.new", group="g", **LANES[lane])(note(heard, "g"))
    for id_ in ("1", "2"):
        write(id_=id_)
    write("thing.new")
    write()
    newer = registry._handlers.pop("thing.new")
    drain()
    assert sorted(heard) == ["g thing.done #1", "g thing.done #1"]
    assert stream("g").cursor == 1
    assert stream("g", "2").parked_at is None
    assert OutboxFailure.objects.get().type == "thing.new"
    assert unpublished() == ["thing.new #2", "thing.done #3"]
    registry._handlers["thing.new"] = newer
    services.resume_stream(stream=stream("g"), actor=OPERATOR, at=AT)
    drain()
    assert heard[2:] == ["g thing.new #2", "g thing.done #3"]


def test_an_operator_sees_what_it_waits_at_and_who_it_is_for() -> None:
    on("thing.done", group="old")(lambda event: None)
    on("thing.done", group="new")(lambda event: None)
    event = write()
    del registry._handlers["thing.done"]["new"]
    drain()
    assert services.blocking_event(stream("new")) == event
    assert services.why_not_skip(stream("new"), event.event_id) == ""
    assert [(to.group, to.state) for to in traces.deliveries(event)] == [("new", "parked"), ("old", "done")]


@pytest.mark.parametrize("lane", LANES)
def test_a_retired_group_is_worked_off_and_an_unknown_one_waits(lane: str, heard: list[str]) -> None:
    for group in ("gone", "unknown"):
        on("thing.done", group=group, **LANES[lane])(note(heard, group))
    write()
    registry._handlers.clear()
    registry.retire("thing.done", group="gone")
    claims.assign_lanes()
    drain(lanes=["local", lane])
    assert heard == []
    assert (stream("gone").cursor, stream("gone").due_at, stream("gone").parked_at) == (1, None, None)
    assert stream("unknown").cursor == 0
    assert stream("unknown").parked_at
    assert unpublished() == ["thing.done #1"]


def test_a_group_that_retired_from_one_type_still_gets_the_others(heard: list[str]) -> None:
    on("thing.done", "thing.more", group="g")(note(heard, "g"))
    for type_ in ("thing.done", "thing.more", "thing.done"):
        write(type_)
    registry._handlers.pop("thing.more")
    registry.retire("thing.more", group="g")
    drain()
    assert heard == ["g thing.done #1", "g thing.done #3"]
    assert unpublished() == []


def test_a_group_cannot_retire_from_what_it_handles_nor_handle_what_it_retired_from() -> None:
    on("thing.done", group="g")(lambda event: None)
    with pytest.raises(ImproperlyConfigured, match=r"g has a handler for thing\.done"):
        registry.retire("thing.done", group="g")
    registry.retire("thing.more", group="g")
    with pytest.raises(ImproperlyConfigured, match=r"g has retired from thing\.more"):
        on("thing.more", group="g")(lambda event: None)
    assert registry.subscriptions() == ["thing.done g"]


def test_who_begins_to_listen_is_not_given_what_nobody_listened_to(heard: list[str]) -> None:
    """Not even by a stream of its own that was behind at that time."""
    on("thing.done", group="g")(note(heard, "g"))
    on("thing.opened", group="other")(lambda event: None)
    write()
    registry._handlers["thing.opened"] = {}
    event = write("thing.opened")
    assert event.headers["for"] == []
    on("thing.opened", group="g")(note(heard, "g"))
    drain()
    assert heard == ["g thing.done #1"]
    assert list(published_before_its_effects()) == []
