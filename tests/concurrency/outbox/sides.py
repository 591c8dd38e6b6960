"""The sides of a named interleaving: threads with a connection of their own that stand still where told.

Nobody sleeps to let another come first. A side stops at a `Point` and goes on when the test says so; that
it waits for a lock is read from the database's own list of locks.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from commerce.models import Heartbeat
from commerce.outbox import append, on, relay
from commerce.outbox.models import OutboxEvent, OutboxFailure, OutboxStream

AT = datetime(2027, 3, 1, tzinfo=UTC)
PATIENCE = 10.0
LANES = ("local", "batch", "openmeter")
_numbers = count(1)


class Point:
    """A place where the first who comes stands still until it is let go."""

    def __init__(self) -> None:
        self._reached, self._go, self._taken = threading.Event(), threading.Event(), threading.Lock()

    def stop(self) -> None:
        if self._taken.acquire(blocking=False):
            self._reached.set()
            assert self._go.wait(PATIENCE), "nobody let this side go on"

    def reached(self) -> None:
        assert self._reached.wait(PATIENCE), "this point was never reached"

    def go(self) -> None:
        self._go.set()


class Side(threading.Thread):
    """Begins at once. What it returned or was refused with is its `answer()`."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work, self._answer, self._connected = work, None, threading.Event()
        self._error: BaseException | None = None
        self.start()
        assert self._connected.wait(PATIENCE)

    def run(self) -> None:
        try:
            connection.ensure_connection()
            self.pid = connection.connection.info.backend_pid
            self._connected.set()
            self._answer = self._work()
        except BaseException as error:
            self._error = error
        finally:
            connection.close()

    def waits_for_a_lock(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not _waits(self.pid):
            assert self.is_alive(), f"it did not wait: {self._error!r}"
            assert time.monotonic() < deadline, "it waits for no lock"

    def answer(self) -> Any:
        self.join(PATIENCE)
        assert not self.is_alive(), "this side hangs"
        if self._error:
            raise self._error
        return self._answer

    def error(self) -> BaseException | None:
        self.join(PATIENCE)
        return self._error


def _waits(pid: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND NOT granted)", [pid])
        return bool(cursor.fetchone()[0])


def stop_at(monkeypatch: pytest.MonkeyPatch, name: str) -> Point:
    """The first who passes this crash point of the relay stands still there."""
    point = Point()
    monkeypatch.setattr(relay, "crash_point", lambda here: point.stop() if here == name else None)
    return point


def stop_before(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> Point:
    point, go_on = Point(), getattr(module, name)

    def stop_first(*args: Any, **kwargs: Any) -> Any:
        point.stop()
        return go_on(*args, **kwargs)

    monkeypatch.setattr(module, name, stop_first)
    return point


def stop_after(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> Point:
    point, first = Point(), getattr(module, name)

    def then_stop(*args: Any, **kwargs: Any) -> Any:
        answer = first(*args, **kwargs)
        point.stop()
        return answer

    monkeypatch.setattr(module, name, then_stop)
    return point


def listen(lane: str, effect: Callable[[OutboxEvent], None], group: str = "g") -> None:
    """Subscribe to `thing.done` in this lane; the same effect whether it comes alone or in a batch."""
    if lane == "batch":

        def each(events: list[OutboxEvent]) -> None:
            for event in events:
                effect(event)

        on("thing.done", group=group, batch=True)(each)
    else:
        on("thing.done", group=group, provider="" if lane == "local" else lane)(effect)


def keep(event: OutboxEvent, by: str = "") -> None:
    """An effect in the database; twice is two rows."""
    name = f"{event.aggregate_id}#{event.sequence} {event.group} {next(_numbers):04}{by}"
    Heartbeat.objects.create(name=name, beaten_at=AT)


def kept(group: str = "g") -> list[str]:
    """The effects that were committed, by aggregate and in the order of the work."""
    names = [name.split() for name in Heartbeat.objects.values_list("name", flat=True)]
    return [
        event
        for event, by, _ in sorted(names, key=lambda name: (name[0].split("#")[0], name[2]))
        if by == group
    ]


def write(*ids: str, type_: str = "thing.done") -> None:
    """One after the other in one transaction."""
    with transaction.atomic():
        for id_ in ids:
            append("thing", id_, type_, {}, at=AT)


def write_slowly(point: Point, *ids: str, roll_back: bool = False) -> None:
    """Appends, and stands still before its transaction ends."""
    with transaction.atomic():
        for id_ in ids:
            append("thing", id_, "thing.done", {}, at=AT)
        point.stop()
        transaction.set_rollback(roll_back)


def stream(id_: str = "1", group: str = "g") -> OutboxStream:
    return OutboxStream.objects.get(aggregate_id=id_, group=group)


def expire_leases() -> None:
    OutboxStream.objects.filter(lease_token__isnull=False).update(due_at=Now())


def sequences(id_: str = "1") -> list[int]:
    found = OutboxEvent.objects.filter(aggregate_id=id_).order_by("id")
    return list(found.values_list("sequence", flat=True))


def unpublished() -> int:
    return OutboxEvent.objects.filter(published_at__isnull=True).count()


def untouched_by_failure(row: OutboxStream) -> bool:
    return (row.attempts, row.last_error, row.parked_at) == (
        0,
        "",
        None,
    ) and not OutboxFailure.objects.exists()
