"""Replay: counted before it is done, never twice, only for whom it is meant, and with the same outcome."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from commerce.actor import Actor
from commerce.errors import Conflict, InvalidInput, PermissionDenied, StateConflict
from commerce.models import Heartbeat
from commerce.outbox import append, catalog, claims, drain, on, registry, replay
from commerce.outbox.invariants import published_before_its_effects, sleeping_streams
from commerce.outbox.models import OutboxEvent, OutboxStream
from commerce.outbox.replay import Selection
from commerce.webhooks.fan_out import fan_out
from tests.commerce.webhooks.conftest import ORGANIZATION_EVENT, endpoint, happens, organization

AT = datetime(2027, 3, 1, tzinfo=UTC)
OPERATOR = Actor.system("test")
PAYOUT = {
    "payout_id": "01956f1c-3c00-7000-8000-000000005001",
    "payee_id": "01956f1c-3c00-7000-8000-0000000000e1",
    "currency": "USD",
    "amount_minor": 2_700_000,
    "status": "approved",
    "attempt": 1,
    "external_id": "payout_1",
    "provider_id": "",
    "failure_code": "",
}

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, int]]]:
    """What each of two groups was given: group, aggregate and number."""
    monkeypatch.setattr(registry, "_handlers", {})
    given: list[tuple[str, str, int]] = []

    def note(group: str) -> Any:
        return lambda event: given.append((group, event.aggregate_id, event.payload["n"]))

    for group in ("a", "b"):
        on("thing.done", group=group)(note(group))
    on("thing.undone", group="b")(note("b"))
    return given


def write(id_: str, n: int, type_: str = "thing.done", at: datetime = AT) -> OutboxEvent:
    with transaction.atomic():
        return append("thing", id_, type_, {"n": n}, at=at)


def copies() -> list[OutboxEvent]:
    return list(OutboxEvent.objects.filter(headers__has_key="replay").order_by("id"))


def run(selection: Selection, **more: Any) -> int:
    return replay.apply(replay.plan(selection), actor=OPERATOR, at=AT, reason="lost", **more)


def test_a_plan_counts_events_and_streams_per_subscriber_and_writes_nothing() -> None:
    for id_, n in (("1", 1), ("1", 2), ("2", 3)):
        write(id_, n)
    write("2", 4, "thing.undone")
    made = replay.plan(Selection(aggregate_type="thing"))
    assert (made.events, made.streams) == (4, 2)
    assert [(line.type, line.group, line.events, line.streams) for line in made.lines] == [
        ("thing.done", "a", 3, 2),
        ("thing.done", "b", 3, 2),
        ("thing.undone", "b", 1, 1),
    ]
    assert replay.plan(Selection(groups=("a",))).events == 3
    assert OutboxEvent.objects.count() == 4


def test_a_plan_names_the_money_and_what_a_providers_keys_no_longer_protect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on("payout.approved", group="bank", provider="modern_treasury")(lambda event: None)
    for n in range(3):
        with transaction.atomic():
            append("payout", str(n), "payout.approved", PAYOUT, at=AT)
    chosen = Selection(types=("payout.approved",))
    made = replay.plan(chosen)
    assert made.money == {"USD": 8_100_000}
    assert "81,000.00 USD" in made.in_words()[0]
    assert "forgotten" not in " ".join(made.in_words())
    monkeypatch.setitem(replay.KEYS_KEPT, "modern_treasury", timedelta(0))
    later = replay.plan(chosen)
    assert [line.keys_forgotten for line in later.lines] == [3]
    assert "may have forgotten their keys" in " ".join(later.in_words())
    assert later.digest == made.digest, "a plan changes because time goes by"


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"types": ("thing.undone",)}, [4]),
        ({"aggregate_type": "thing", "aggregate_id": "1"}, [1, 2]),
        ({"since": AT + timedelta(days=1)}, [3, 4]),
        ({"until": AT + timedelta(days=1)}, [1, 2]),
        ({"recorded_until": AT - timedelta(days=3650)}, []),
        ({"groups": ("a",)}, [1, 2, 3]),
        ({"groups": ("a",), "types": ("thing.undone",)}, []),
    ],
)
def test_a_selection_chooses_by_type_stream_time_and_subscriber(chosen: Any, expected: list[int]) -> None:
    write("1", 1)
    write("1", 2)
    write("2", 3, at=AT + timedelta(days=1))
    write("2", 4, "thing.undone", at=AT + timedelta(days=2))
    drain()
    assert run(Selection(**chosen)) == len(expected)
    assert [copy.payload["n"] for copy in copies()] == expected


def test_a_copy_has_its_originals_time_and_version_and_names_it_as_its_cause() -> None:
    original = write("1", 7)
    assert run(Selection(events=(original.event_id,))) == 1
    (copy,) = copies()
    assert (copy.occurred_at, copy.version, copy.payload) == (AT, original.version, original.payload)
    assert copy.headers["causation_id"] == str(original.event_id)
    assert copy.headers["reason"] == "lost"
    assert copy.event_id != original.event_id
    assert copy.sequence == 2


def test_the_same_replay_again_appends_nothing_and_a_further_one_is_named() -> None:
    for n in range(3):
        write("1", n)
    chosen = Selection(types=("thing.done",))
    assert run(chosen) == 3
    assert run(chosen) == 0
    assert run(chosen, again="second") == 3
    assert run(chosen, again="second") == 0
    assert len(copies()) == 6, "copies were taken for originals"


def test_a_replay_that_was_interrupted_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "BATCH", 2)
    for n in range(5):
        write("1", n)

    def stop(copied: int) -> None:
        if copied == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Selection(types=("thing.done",)), progress=stop)
    assert len(copies()) == 4
    assert run(Selection(types=("thing.done",))) == 1
    assert [copy.payload["n"] for copy in copies()] == [0, 1, 2, 3, 4]


def test_two_runs_of_one_replay_at_once_never_double() -> None:
    for n in range(40):
        write(str(n % 4), n)
    start = threading.Barrier(2)
    made = replay.plan(Selection(types=("thing.done",)))

    def work() -> None:
        start.wait(10)
        replay.apply(made, actor=OPERATOR, at=AT, reason="lost")
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(copies()) == 40
    assert len({copy.headers["causation_id"] for copy in copies()}) == 40


def test_what_came_after_the_plan_is_not_replayed() -> None:
    write("1", 1)
    made = replay.plan(Selection(types=("thing.done",)))
    write("1", 2)
    assert replay.apply(made, actor=OPERATOR, at=AT, reason="lost") == 1
    again = replay.plan(Selection(types=("thing.done",)).as_planned(made.digest))
    assert again.digest == made.digest
    assert replay.apply(again, actor=OPERATOR, at=AT, reason="lost") == 0, "a replay could not go on later"
    with pytest.raises(Conflict, match="look again"):
        replay.confirm(replay.plan(Selection(types=("thing.done",))), digest=made.digest)
    with pytest.raises(Conflict, match="2 events match, not 1"):
        replay.confirm(replay.plan(Selection(types=("thing.done",))), expected=1)


def test_a_replay_for_one_subscriber_reaches_no_other(heard: list[Any]) -> None:
    write("1", 1)
    drain()
    heard.clear()
    assert run(Selection(groups=("a",))) == 1
    assert OutboxStream.objects.get(group="b").due_at is None
    drain()
    assert heard == [("a", "1", 1)]
    write("1", 2)
    drain()
    assert ("b", "1", 1) not in heard
    assert ("b", "1", 2) in heard
    assert not OutboxEvent.objects.filter(published_at__isnull=True).exists()
    assert list(published_before_its_effects()) == []
    assert list(sleeping_streams()) == []


def test_a_copy_for_one_subscriber_is_published_although_another_is_behind(heard: list[Any]) -> None:
    write("1", 1)
    drain()
    OutboxStream.objects.filter(group="b").update(parked_at=AT, parked_reason="x", pending_since=AT)
    run(Selection(groups=("a",)))
    drain()
    assert copies()[0].published_at is not None
    assert heard.count(("b", "1", 1)) == 1
    second = write("1", 2)
    drain()
    claims.publish_left()
    second.refresh_from_db()
    assert second.published_at is None, "published although b has not had it"


def test_a_batch_group_passes_over_what_is_for_others(heard: list[Any]) -> None:
    got: list[int] = []
    on("thing.done", group="c", batch=True)(lambda events: got.extend(e.payload["n"] for e in events))
    write("1", 1)
    drain()
    run(Selection(groups=("a",)))
    write("1", 2)
    drain()
    assert got == [1, 2]


def test_everything_from_the_beginning_into_an_emptied_projection_gives_the_same_state() -> None:
    """The projection keeps each thing's last number as a time: order matters, and so does each event."""

    @on("thing.done", "thing.undone", group="projection")
    def project(event: OutboxEvent) -> None:
        row, _ = Heartbeat.objects.select_for_update().get_or_create(
            name=event.aggregate_id, defaults={"beaten_at": AT}
        )
        row.beaten_at = AT + (row.beaten_at - AT) * 2 + timedelta(seconds=event.payload["n"])
        row.save()

    for n in range(30):
        write(str(n % 3), n, "thing.undone" if n % 4 else "thing.done")
    drain()
    before = list(Heartbeat.objects.order_by("name").values_list("name", "beaten_at"))
    assert len(before) == 3
    Heartbeat.objects.all().delete()
    assert run(Selection(groups=("projection",))) == 30
    drain()
    assert list(Heartbeat.objects.order_by("name").values_list("name", "beaten_at")) == before
    assert not OutboxEvent.objects.filter(published_at__isnull=True).exists()


@pytest.mark.parametrize(
    ("chosen", "field"), [({"types": ("thing.unheard",)}, "/types"), ({"groups": ("nobody",)}, "/groups")]
)
def test_a_type_or_subscriber_that_does_not_exist_is_named(chosen: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        replay.plan(Selection(**chosen))
    assert refused.value.errors[0].pointer == field


def test_who_may_not_operate_replays_nothing() -> None:
    event = write("1", 1)
    stranger = Actor(type="api_key", id="1", label="stranger")
    with pytest.raises(PermissionDenied):
        replay.apply(replay.plan(Selection()), actor=stranger, at=AT, reason="x")
    with pytest.raises(InvalidInput, match="Say why"):
        replay.apply(replay.plan(Selection()), actor=OPERATOR, at=AT, reason=" ")
    with pytest.raises(InvalidInput, match="does not listen"):
        replay.replay_event(event=event, actor=OPERATOR, at=AT, reason="x", group="nobody")
    registry._handlers.clear()
    with pytest.raises(StateConflict, match="reach nobody"):
        replay.replay_event(event=event, actor=OPERATOR, at=AT, reason="x")
    assert copies() == []


def test_one_event_goes_to_one_subscriber_and_a_copy_of_the_copy_too(heard: list[Any]) -> None:
    event = write("1", 1)
    drain()
    heard.clear()
    copy = replay.replay_event(event=event, actor=OPERATOR, at=AT, reason="x", group="b")
    second = replay.replay_event(event=copy, actor=OPERATOR, at=AT, reason="x")
    drain()
    assert heard == [("b", "1", 1), ("b", "1", 1)]
    assert UUID(second.headers["causation_id"]) == copy.event_id


def test_a_replay_tells_nobody_outside(heard: list[Any]) -> None:
    """An endpoint that wants everything hears of what happened, not of its copies."""
    seller = organization("seller")
    to, _ = endpoint(seller, "https://hooks.example.com/in", ORGANIZATION_EVENT)
    on(ORGANIZATION_EVENT, group="a")(lambda event: None)
    original = happens(seller)
    fan_out(at=AT)
    assert run(Selection(types=(ORGANIZATION_EVENT,))) == 1
    replay.replay_event(event=original, actor=OPERATOR, at=AT, reason="x")
    fan_out(at=AT)
    assert list(to.messages.values_list("event_id", flat=True)) == [original.event_id]


def test_a_replay_for_webhooks_tells_whoever_was_there_and_nobody_who_came_later(heard: list[Any]) -> None:
    """What happened while nobody collected is told again when `webhooks` is named, to no group besides."""
    on(ORGANIZATION_EVENT, group="a")(lambda event: heard.append(("a", event.aggregate_id, 0)))
    seller = organization("seller")
    then, _ = endpoint(seller, "https://hooks.example.com/then", ORGANIZATION_EVENT)
    original = happens(seller)
    fan_out(at=AT)
    drain()
    heard.clear()
    later, _ = endpoint(seller, "https://hooks.example.com/later", ORGANIZATION_EVENT)
    selection = Selection(types=(ORGANIZATION_EVENT,), groups=("webhooks",))
    (line,) = replay.plan(selection).lines
    assert (line.group, line.lane, line.events) == ("webhooks", "webhooks", 1)
    assert run(selection) == 1
    fan_out(at=AT)
    drain()
    (copy,) = copies()
    told = list(then.messages.order_by("id").values_list("event_id", flat=True))
    assert told == [original.event_id, copy.event_id]
    assert not later.messages.exists()
    assert heard == []


@pytest.mark.parametrize("batch", [False, True], ids=["local", "batch"])
def test_a_copy_for_webhooks_is_passed_over_by_a_group_that_is_behind(batch: bool) -> None:
    """It is for no group at all, which is not the same as for everybody."""
    got: list[int] = []

    def note(given: Any) -> None:
        got.extend(event.sequence for event in (given if batch else [given]))

    on(ORGANIZATION_EVENT, group="behind", batch=batch)(note)
    seller = organization("seller")
    original = happens(seller)
    assert run(Selection(types=(ORGANIZATION_EVENT,), groups=("webhooks",))) == 1
    (copy,) = copies()
    assert (copy.headers["for"], copy.headers["only"]) == ([], ["webhooks"])
    assert copy.published_at is not None
    assert list(published_before_its_effects()) == []
    drain()
    assert got == [original.sequence]
    assert list(sleeping_streams()) == []


def test_an_event_is_not_replayed_for_a_subscriber_that_it_is_not_for() -> None:
    with transaction.atomic():
        event = append("thing", "1", "thing.done", {"n": 1}, at=AT, only=["a"])
    drain()
    with pytest.raises(StateConflict, match="not for b"):
        replay.replay_event(event=event, actor=OPERATOR, at=AT, reason="x", group="b")
    made = replay.plan(Selection(groups=("b",)))
    assert (made.events, made.lines) == (0, [])
    assert run(Selection(groups=("b",))) == 0
    assert copies() == []
    assert replay.replay_event(event=event, actor=OPERATOR, at=AT, reason="x").headers["only"] == ["a"]


def test_an_empty_plan_stays_empty_whatever_is_written_later() -> None:
    made = replay.plan(Selection(types=("thing.done",)))
    write("1", 1)
    assert replay.apply(made, actor=OPERATOR, at=AT, reason="lost") == 0
    assert copies() == []


def test_what_an_older_transaction_commits_after_the_plan_is_not_copied_uncounted() -> None:
    """Its events have smaller numbers than the last one that was counted."""
    written, go = threading.Event(), threading.Event()

    def older() -> None:
        with transaction.atomic():
            append("thing", "old", "thing.done", {"n": 1}, at=AT)
            written.set()
            go.wait(10)
        connection.close()

    thread = threading.Thread(target=older)
    thread.start()
    assert written.wait(10)
    write("1", 2)
    chosen = Selection(types=("thing.done",))
    made = replay.plan(chosen)
    go.set()
    thread.join(10)
    with pytest.raises(Conflict, match="look again"):
        replay.apply(made, actor=OPERATOR, at=AT, reason="lost")
    with pytest.raises(Conflict, match="look again"):
        replay.confirm(replay.plan(chosen.as_planned(made.digest)), digest=made.digest)
    assert copies() == []
    assert run(chosen) == 2


def test_a_second_plan_of_as_many_other_events_is_another_plan() -> None:
    first, second = write("1", 1), write("1", 2)
    digests = {
        replay.plan(Selection(events=(first.event_id, second.event_id), aggregate_id=id_)).events_sha256
        for id_ in ("", "1")
    }
    other = replay.plan(Selection(events=(second.event_id,))).events_sha256
    assert len(digests) == 1
    assert other not in digests


def test_a_copy_says_when_and_why_it_was_told_again() -> None:
    write("1", 1)
    run(Selection(types=("thing.done",)))
    (copy,) = copies()
    assert (copy.headers["replayed_at"], copy.headers["reason"]) == (AT.isoformat(), "lost")
    assert copy.headers["actor"] == str(OPERATOR)


def test_a_batch_asks_only_for_the_last_copy_of_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a stream is, what was copied before is not read again."""
    monkeypatch.setattr(replay, "BATCH", 5)
    for n in range(40):
        write("1", n)
    with CaptureQueriesContext(connection) as made:
        assert run(Selection(types=("thing.done",))) == 40
    asked = [query["sql"] for query in made if "'replay'" in query["sql"] and "DESC" in query["sql"]]
    assert len(asked) == 8
    assert all("LIMIT 1" in query for query in asked)


def of_a_release_to_come(id_: str, monkeypatch: pytest.MonkeyPatch) -> OutboxEvent:
    """An event that the next release has written, whose payload names an amount."""
    known = catalog.event_type("payout.approved")
    assert known
    with monkeypatch.context() as newer, transaction.atomic():
        newer.setitem(catalog._types, known.name, replace(known, version=99))
        return append("payout", id_, known.name, PAYOUT, at=AT)


def test_a_plan_leaves_out_and_counts_what_a_newer_release_wrote(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on("payout.approved", group="bank", provider="modern_treasury")(lambda event: None)
    newer = of_a_release_to_come("1", monkeypatch)
    alone = replay.plan(Selection(types=("payout.approved",)))
    assert (alone.events, alone.newer) == (0, 1)
    assert alone.in_words() == [
        "1 events of a newer version, left out: deploy the release that wrote them first."
    ]
    with transaction.atomic():
        known = append("payout", "1", "payout.approved", PAYOUT, at=AT)
    made = replay.plan(Selection(types=("payout.approved",)))
    assert (made.events, made.newer, made.money) == (1, 1, {"USD": 2_700_000})
    assert alone.in_words()[0] in made.in_words()
    call_command("outbox", "--json", "--dry-run", "replay", "--type", "payout.approved", "--reason", "x")
    assert json.loads(capsys.readouterr().out)["newer"] == 1
    assert replay.apply(made, actor=OPERATOR, at=AT, reason="lost") == 1
    assert [copy.headers["causation_id"] for copy in copies()] == [str(known.event_id)]
    with pytest.raises(StateConflict, match="A newer release wrote it, in version 99"):
        replay.replay_event(event=newer, actor=OPERATOR, at=AT, reason="x")
    assert len(copies()) == 1
