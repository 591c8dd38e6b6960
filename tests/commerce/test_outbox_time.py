"""The relay and time: what is cut off is tried again, what is not reached is left to others at once."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.db import connection, transaction
from django.utils import timezone

from commerce.models import Heartbeat
from commerce.outbox import append, drain, on, registry
from commerce.outbox.models import OutboxEvent, OutboxStream

AT = datetime(2027, 3, 1, tzinfo=UTC)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _own_subscriptions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_handlers", {})
    return


def write(id_: str) -> None:
    with transaction.atomic():
        append("thing", id_, "thing.done", {}, at=AT)


def leased() -> list[str]:
    return list(OutboxStream.objects.filter(lease_token__isnull=False).values_list("aggregate_id", flat=True))


@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
def test_a_handler_that_the_worker_cuts_off_is_tried_again_and_parks_nothing(remote: bool) -> None:
    @on("thing.done", group="g", provider="elsewhere" if remote else "")
    def cut_off(event: OutboxEvent) -> None:
        if not remote:
            Heartbeat.objects.create(name="effect", beaten_at=AT)
        raise SoftTimeLimitExceeded

    write("1")
    write("2")
    with pytest.raises(SoftTimeLimitExceeded):
        drain()
    tried, untouched = OutboxStream.objects.filter(group="g").order_by("-attempts")
    assert (tried.attempts, tried.parked_at, tried.cursor) == (1, None, 0)
    assert tried.due_at is not None
    assert (untouched.attempts, untouched.parked_at) == (0, None)
    assert leased() == []
    assert not Heartbeat.objects.exists()


def test_a_drain_out_of_time_leaves_what_it_claimed_to_the_next_one() -> None:
    seen = []

    @on("thing.done", group="g", provider="elsewhere")
    def slow(event: OutboxEvent) -> None:
        seen.append((event.aggregate_id, event.sequence))
        if len(seen) == 1:
            time.sleep(2.1)

    for id_ in ("1", "2", "3"):
        write(id_)
        write(id_)
    assert drain(seconds=2).handled == 1
    assert leased() == []
    assert drain().handled == 5
    assert sorted(seen) == [(id_, n) for id_ in ("1", "2", "3") for n in (1, 2)]


def test_a_database_that_hangs_up_in_the_middle_of_an_effect_costs_one_attempt() -> None:
    calls = []

    @on("thing.done", group="g")
    def hung_up_on(event: OutboxEvent) -> None:
        Heartbeat.objects.create(name=f"effect {event.sequence}", beaten_at=AT)
        calls.append(event.sequence)
        if len(calls) == 1:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    write("1")
    assert drain().retried == 1
    OutboxStream.objects.filter(due_at__isnull=False).update(due_at=timezone.now())
    assert drain().handled == 1
    assert calls == [1, 1]
    assert Heartbeat.objects.count() == 1
