"""`outbox drain --follow`: delivers without any broker, and ends after the event in hand when told to."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from django.conf import settings
from django.db import connection, transaction

from commerce.outbox import append, catalog
from commerce.outbox.models import OutboxEvent

AT = datetime(2027, 3, 1, tzinfo=UTC)
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def follow() -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Start the command as a process of its own on this test's database."""
    own = {"DATABASE_NAME": str(connection.settings_dict["NAME"]), "TICK_SECONDS": "0.2"}
    started: list[subprocess.Popen[str]] = []

    def start() -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "manage.py", "outbox", "--json", "drain", "--follow"],
            cwd=settings.BASE_DIR,
            env=os.environ | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(10)


def released() -> OutboxEvent:
    """Money that is no settlement's, so that its subscriber has nothing to do but to have got it."""
    known = catalog.event_type("ledger.released")
    assert known
    payload = known.example | {"source": "other:1"}
    with transaction.atomic():
        return append(known.aggregate_type, "1", known.name, payload, at=AT)


def until_published(event: OutboxEvent) -> None:
    deadline = time.monotonic() + 60
    while not OutboxEvent.objects.filter(pk=event.pk, published_at__isnull=False).exists():
        assert time.monotonic() < deadline, "not delivered"
        time.sleep(0.05)


@pytest.mark.parametrize(("told", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_delivers_what_comes_and_ends_when_told(
    follow: Callable[[], "subprocess.Popen[str]"], told: signal.Signals, code: int
) -> None:
    first = released()
    process = follow()
    until_published(first)
    until_published(released())
    assert process.poll() is None, "it ended although nobody told it to"
    process.send_signal(told)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert json.loads(out) == {"handled": 2, "retried": 0, "parked": 0}
    last = released()
    time.sleep(0.5)
    last.refresh_from_db()
    assert last.published_at is None
