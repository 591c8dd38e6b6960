"""The wake-up after a commit: a broker that is down or hangs delays one caller and fails none.

Who waits for the broker itself, worker and beat, waits for as long as it takes.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from commerce.celery import app

ROOT = Path(__file__).resolve().parents[2]
_WAKE = """
import time, django
django.setup()
import commerce.celery
from commerce.outbox import events
from commerce.webhooks import tasks
for wake in ({}):
    start = time.monotonic()
    wake()
    print(time.monotonic() - start)
"""


@contextmanager
def refused() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def hung() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("broker", [refused, hung], ids=["down", "hanging"])
@pytest.mark.parametrize(
    "callers",
    ['events._waker("local"), events._waker("local")', 'tasks.wake, tasks.wake, events._waker("local")'],
    ids=["events", "webhooks"],
)
def test_a_broker_that_does_not_answer_delays_one_caller_for_seconds_and_fails_none(broker, callers) -> None:
    with broker() as port:
        environment = {
            **os.environ,
            "REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "DJANGO_SETTINGS_MODULE": "commerce.settings",
        }
        done = subprocess.run(
            [sys.executable, "-c", _WAKE.format(callers)],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50, check=True,
        )  # fmt: skip
    first, *others = map(float, done.stdout.split())
    assert first < 8
    assert max(others) < 0.1


class Enough(Exception):
    """The waiting has gone on for longer than any default would."""


def test_worker_and_beat_never_give_up_on_a_broker_that_is_away() -> None:
    """What both of them call, with their setting: an hour away is a hundred tries, and not the last."""
    tries = 0

    def failed(error: BaseException, interval: float) -> None:
        nonlocal tries
        tries += 1
        if tries > 300:
            raise Enough

    with (
        refused() as port,
        app.connection(f"redis://127.0.0.1:{port}/0") as connection,
        pytest.raises(Enough),
    ):
        connection.ensure_connection(
            failed, app.conf.broker_connection_max_retries, interval_start=0, interval_step=0, interval_max=0
        )
    assert app.conf.broker_connection_retry
    assert app.conf.broker_connection_retry_on_startup
