"""`outbox tail --follow`: each event once, also one whose number was taken long before it was committed."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections, transaction

from commerce.console.management.commands import outbox
from commerce.outbox import append, on, registry
from commerce.outbox.models import OutboxEvent

AT = datetime(2027, 3, 1, tzinfo=UTC)
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _own_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_handlers", {})
    on("thing.done", group="g")(lambda event: None)


@pytest.fixture
def late() -> Iterator[Any]:
    """A connection of its own, whose transaction takes a number and waits."""
    other = connections.create_connection("default")
    other.set_autocommit(False)
    yield other
    other.close()


def write(*numbers: int, id_: str = "1") -> None:
    for n in numbers:
        with transaction.atomic():
            append("thing", id_, "thing.done", {"n": n}, at=AT)


def follow(monkeypatch: pytest.MonkeyPatch, *meanwhile: Callable[[], Any], last: int = 1) -> list[str]:
    """What is told when this happens between its looks; then it is interrupted."""
    steps = iter(meanwhile)

    def step(_: float) -> None:
        try:
            next(steps)()
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(outbox, "time", SimpleNamespace(sleep=step))
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command(
            "outbox", "--json", "tail", "--follow", "--last", str(last), stdout=out, stderr=StringIO()
        )
    return [json.loads(line)["event_id"] for line in out.getvalue().splitlines()]


def test_what_is_committed_late_is_told_and_nothing_is_told_twice(
    monkeypatch: pytest.MonkeyPatch, late: Any
) -> None:
    monkeypatch.setattr(outbox, "LOOKED_AT_AGAIN", 20)
    write(*range(40))
    mine = connections["default"]

    def take_a_number() -> None:
        connections["default"] = late
        try:
            write(99, id_="late")
        finally:
            connections["default"] = mine
        write(*range(40, 55))

    told = follow(monkeypatch, take_a_number, late.commit, lambda: write(55), lambda: None)
    assert [event_id for event_id, times in Counter(told).items() if times > 1] == []
    assert len(told) == 1 + 15 + 1 + 1
    assert str(OutboxEvent.objects.get(aggregate_id="late").event_id) in told


def test_more_than_it_looks_back_over_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "LOOKED_AT_AGAIN", 5)
    write(*range(12))
    told = follow(monkeypatch, lambda: write(*range(12, 30)), lambda: None, lambda: write(30), last=10)
    assert len(told) == len(set(told)) == 10 + 18 + 1
