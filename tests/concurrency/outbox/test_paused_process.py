"""A process that is stopped for longer than its lease, as a suspended machine is, changes nothing after."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection

from commerce.embedded import REPOSITORY
from commerce.models import Heartbeat
from commerce.outbox import drain
from commerce.outbox.models import OutboxEvent, OutboxFailure, OutboxStream
from tests.concurrency.outbox.sides import LANES, keep, kept, listen, unpublished, untouched_by_failure, write

pytestmark = pytest.mark.django_db(transaction=True)

LEASE = 1.0
PATIENCE = 30.0


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> str:
    listen(request.param, keep)
    return str(request.param)


@pytest.fixture
def worker(lane: str) -> Iterator[subprocess.Popen[str]]:
    """It has three events of two streams to deliver, and stands inside the first effect."""
    write("1", "2")
    write("1")
    database = {"DATABASE_NAME": connection.settings_dict["NAME"]}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.concurrency.outbox.worker", lane],
        cwd=REPOSITORY,
        env=os.environ | database | {"OUTBOX_LEASE_SECONDS": str(LEASE)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout
    assert process.stdout.readline() == "working\n"
    yield process
    process.kill()
    process.communicate()


def until(what: str, holds: object) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"not yet: {what}"
        time.sleep(0.02)


def stopped(process: subprocess.Popen[str]) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def all_due() -> bool:
    """By the database's clock, which is what a claim goes by."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT count(*) FROM outbox_outboxstream WHERE lease_token IS NOT NULL AND due_at > now()"""
        )
        return bool(cursor.fetchone()[0] == 0)


def rows() -> list[tuple[object, ...]]:
    return list(OutboxStream.objects.order_by("id").values_list())


def test_a_process_that_is_stopped_beyond_its_lease_changes_nothing_when_it_goes_on(
    lane: str, worker: subprocess.Popen[str]
) -> None:
    os.kill(worker.pid, signal.SIGSTOP)
    until("stopped", lambda: stopped(worker))
    assert OutboxStream.objects.filter(lease_token__isnull=False).exists()
    until("the lease is over", all_due)
    assert drain().handled == 3
    settled, published = rows(), list(OutboxEvent.objects.order_by("id").values_list("published_at"))
    assert unpublished() == 0

    os.kill(worker.pid, signal.SIGCONT)
    said, _ = worker.communicate("go on\n" * 3, timeout=PATIENCE)
    assert (worker.returncode, said.split()[-1]) == (0, "0")
    assert rows() == settled, "a cursor, a lease or a failure of the one who was overtaken"
    assert list(OutboxEvent.objects.order_by("id").values_list("published_at")) == published
    assert all(untouched_by_failure(row) for row in OutboxStream.objects.all())
    assert not OutboxFailure.objects.exists()
    paused = Heartbeat.objects.filter(name__contains="paused")
    if lane == "openmeter":
        assert paused.count() == 1, "the one request that was on its way; no other left without its lease"
    else:
        assert not paused.exists(), "its effect was rolled back with its cursor"
    paused.delete()
    assert kept() == ["1#1", "1#2", "2#1"]
