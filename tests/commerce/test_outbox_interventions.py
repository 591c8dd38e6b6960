"""Whoever moves the relay by hand leaves who, why and when, whatever the door; nothing is lost."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from commerce.actor import Actor
from commerce.errors import Conflict, InvalidInput, Rejected, Retryable, StateConflict
from commerce.models import TransitionLog
from commerce.outbox import append, drain, on, registry, services, traces
from commerce.outbox.invariants import sleeping_streams
from commerce.outbox.models import Circuit, OutboxEvent, OutboxStream

AT = datetime(2027, 3, 1, tzinfo=UTC)
ADA = Actor.system("ada")

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def effect(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Exception]]:
    """What the effect raises; nothing when the list is empty."""
    monkeypatch.setattr(registry, "_handlers", {})
    raised: list[Exception] = []

    def handle(event: OutboxEvent) -> None:
        if raised:
            raise raised[0]

    on("thing.done", group="g")(handle)
    on("thing.paid", group="bank", provider="bank")(handle)
    return raised


def write(id_: str, type_: str = "thing.done", **payload: Any) -> None:
    with transaction.atomic():
        append("thing", id_, type_, payload, at=AT)


def stream(id_: str = "1") -> OutboxStream:
    return OutboxStream.objects.get(aggregate_id=id_, group="g")


def noted(row: Any) -> list[tuple[str, str, str, str, str]]:
    found = TransitionLog.objects.filter(model=row._meta.label_lower, object_id=str(row.pk)).order_by("id")
    assert all(done.at == AT for done in found), "not the business time that it was told"
    return [(done.name, done.source, done.target, done.actor, done.reason) for done in found]


def test_who_parks_and_resumes_a_stream_and_why_is_kept() -> None:
    write("1")
    services.park_stream(stream=stream(), actor=ADA, at=AT, reason="The bank rings back.")
    services.resume_stream(stream=stream(), actor=ADA, at=AT, reason="It rang.")
    assert noted(stream()) == [
        ("park", "due", "parked", "system:ada", "The bank rings back."),
        ("resume", "parked", "due", "system:ada", "It rang."),
    ]
    with pytest.raises(DatabaseError), transaction.atomic():
        TransitionLog.objects.update(reason="")


def test_who_retries_a_stream_is_kept_and_who_is_refused_leaves_nothing(effect: list[Exception]) -> None:
    effect.append(Retryable("no answer"))
    write("1")
    drain()
    services.retry_stream(stream=stream(), actor=ADA, at=AT, reason="The line is back.")
    assert noted(stream()) == [("retry", "retrying", "due", "system:ada", "The line is back.")]
    with pytest.raises(StateConflict):
        services.resume_stream(stream=stream(), actor=ADA, at=AT, reason="x")
    assert len(noted(stream())) == 1


def lose_the_wake_up(id_: str = "1", *, columns: str) -> None:
    """What no statement here does: somebody wrote to the table."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE outbox_outboxstream SET {columns} WHERE aggregate_id = %s AND \"group\" = 'g'", [id_]
        )


@pytest.mark.parametrize("columns", ["due_at = NULL", "due_at = NULL, pending_since = NULL"])
@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
def test_parking_and_resuming_wakes_a_stream_that_sleeps(columns: str, together: bool) -> None:
    """Also when something came while it was parked: what it had slept over is delivered before that."""
    for id_ in ("1", "2"):
        write(id_)
        lose_the_wake_up(id_, columns=columns)
    assert len(list(sleeping_streams())) == 2
    for id_ in ("1", "2"):
        services.park_stream(stream=stream(id_), actor=ADA, at=AT, reason="It sleeps.")
    write("1")
    parked, how = services.parked_streams(), {"actor": ADA, "at": AT, "reason": "It sleeps."}
    if together:
        services.resume_streams(streams=parked, expected=2, **how)
    else:
        for row in parked:
            services.resume_stream(stream=row, **how)
    assert drain().handled == 3
    assert (stream("1").cursor, stream("2").cursor) == (2, 1)
    assert noted(stream("2"))[-1][:3] == ("resume", "parked", "due")
    write("2")
    assert drain().handled == 1
    assert not OutboxEvent.objects.filter(published_at__isnull=True).exists()
    assert list(sleeping_streams()) == []


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
def test_a_stream_that_was_parked_while_idle_has_nothing_to_do_when_it_goes_on(together: bool) -> None:
    """What is for another group, or for nobody, does not wake it."""
    write("1")
    drain()
    write("1", "thing.paid")
    services.park_stream(stream=stream(), actor=ADA, at=AT, reason="x")
    how = {"actor": ADA, "at": AT, "reason": "y"}
    if together:
        services.resume_streams(streams=services.parked_streams(), expected=1, **how)
    else:
        services.resume_stream(stream=stream(), **how)
    assert (stream().due_at, stream().pending_since, stream().parked_at) == (None, None, None)
    assert noted(stream())[-1][:3] == ("resume", "parked", "idle")


def test_streams_resumed_together_are_noted_each(effect: list[Exception]) -> None:
    effect.append(Rejected("R20"))
    write("1")
    write("2")
    drain()
    resume = {
        "streams": services.parked_streams(error="R20"),
        "actor": ADA,
        "at": AT,
        "reason": "Account open.",
    }
    with pytest.raises(Conflict):
        services.resume_streams(expected=3, **resume)
    assert noted(stream()) == []
    assert services.resume_streams(expected=2, **resume) == 2
    for id_ in ("1", "2"):
        assert noted(stream(id_)) == [("resume", "parked", "due", "system:ada", "Account open.")]


def test_why_a_line_was_paused_outlives_the_pause() -> None:
    services.pause_lane(lane="bank", actor=ADA, at=AT, reason="Maintenance.")
    with pytest.raises(StateConflict):
        services.pause_lane(lane="bank", actor=ADA, at=AT, reason="Again.")
    Circuit.objects.update(opened_at=timezone.now(), open_until=timezone.now())
    services.resume_lane(lane="bank", actor=ADA, at=AT, reason="Over.")
    line = Circuit.objects.get()
    assert line.paused_reason == ""
    assert noted(line) == [
        ("pause", "closed", "paused", "system:ada", "Maintenance."),
        ("resume", "paused", "open", "system:ada", "Over."),
    ]


def test_parking_a_parked_stream_does_not_overwrite_its_error(effect: list[Exception]) -> None:
    effect.append(Rejected("R20 closed"))
    write("1")
    drain()
    with pytest.raises(StateConflict, match="R20 closed"):
        services.park_stream(stream=stream(), actor=ADA, at=AT, reason="maintenance")
    assert stream().parked_reason == "thing.done #1: Rejected: R20 closed"
    assert services.parked_like(stream()).count() == 1
    assert noted(stream()) == []


def test_a_stream_is_not_parked_without_a_reason() -> None:
    write("1")
    with pytest.raises(InvalidInput, match="Say why"):
        services.park_stream(stream=stream(), actor=ADA, at=AT, reason=" ")
    assert stream().parked_at is None


def test_the_command_line_parks_all_that_it_names_or_none() -> None:
    write("1")
    write("2")
    services.park_stream(stream=stream("2"), actor=ADA, at=AT, reason="first")
    with pytest.raises(SystemExit):
        call_command(
            "outbox", "park", str(stream("1").pk), str(stream("2").pk), "--reason", "x",
            stdout=StringIO(), stderr=StringIO(),
        )  # fmt: skip
    assert stream("1").parked_at is None
    assert noted(stream("1")) == []


def shown(id_: str) -> Any:
    out = StringIO()
    call_command("outbox", "--json", "show", str(stream(id_).pk), stdout=out)
    return json.loads(out.getvalue())


def test_the_command_shows_who_intervened_and_what_the_event_says() -> None:
    write("1", n=7)
    services.park_stream(stream=stream(), actor=ADA, at=AT, reason="The bank rings back.")
    data = shown("1")
    (done,) = data["interventions"]
    assert (done["actor"], done["name"], done["reason"]) == ("system:ada", "park", "The bank rings back.")
    assert data["stands_at"]["payload"] == {"n": 7}


def test_the_command_shows_who_paused_a_line_that_goes_on_again() -> None:
    for pause in (services.pause_lane, services.resume_lane):
        pause(lane="bank", actor=ADA, at=AT, reason=f"Because of {pause.__name__}.")
    out = StringIO()
    call_command("outbox", "--json", "show", "bank", stdout=out)
    data = json.loads(out.getvalue())
    assert data["line"] == "closed"
    reasons = [(done["name"], done["reason"]) for done in data["interventions"]]
    assert reasons == [("resume", "Because of resume_lane."), ("pause", "Because of pause_lane.")]


def test_a_very_long_payload_is_cut() -> None:
    write("1", text="é" * 50_000)
    said = shown("1")["stands_at"]["payload"]
    assert len(said) < traces.LONGEST_PAYLOAD + 100
    assert said.endswith("characters")
