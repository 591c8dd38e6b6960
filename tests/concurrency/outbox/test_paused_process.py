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


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    """In each lane it has three events of two streams to deliver, and stands inside the first effect."""
    for lane in LANES:
        listen(lane, keep, group=lane)
    write("1", "2")
    write("1")
    database = {"DATABASE_NAME": connection.settings_dict["NAME"]}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.concurrency.outbox.worker", *LANES],
        cwd=REPOSITORY,
        env=os.environ | database | {"OUTBOX_LEASE_SECONDS": str(LEASE)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout
    assert {process.stdout.readline().strip() for _ in LANES} == set(LANES)
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


def test_a_process_that_is_stopped_beyond_its_leases_changes_nothing_when_it_goes_on(
    worker: subprocess.Popen[str],
) -> None:
    """In the middle of a local effect, of a batch and of a request to a provider, all at once."""
    os.kill(worker.pid, signal.SIGSTOP)
    until("stopped", lambda: stopped(worker))
    held = OutboxStream.objects.filter(lease_token__isnull=False)
    assert set(held.values_list("group", flat=True)) == set(LANES)
    until("the leases are over", all_due)
    assert drain().handled == 3 * len(LANES)
    settled, published = rows(), list(OutboxEvent.objects.order_by("id").values_list("published_at"))
    assert unpublished() == 0

    os.kill(worker.pid, signal.SIGCONT)
    said, _ = worker.communicate("go on\n", timeout=PATIENCE)
    *tried, handled = said.split()
    assert (worker.returncode, handled) == (0, "0"), "it has handled something"
    assert "openmeter" not in tried, "a request left without its lease"
    assert rows() == settled, "a cursor, a lease or a failure of the one who was overtaken"
    assert list(OutboxEvent.objects.order_by("id").values_list("published_at")) == published
    assert all(untouched_by_failure(row) for row in OutboxStream.objects.all())
    assert not OutboxFailure.objects.exists()
    paused = Heartbeat.objects.filter(name__endswith="paused")
    assert [name.split()[1] for name in paused.values_list("name", flat=True)] == ["openmeter"], (
        "the one request that was on its way; in the database each effect went with its cursor"
    )
    paused.delete()
    for lane in LANES:
        assert kept(lane) == ["1#1", "1#2", "2#1"]
