"""The wake-up after a commit: a broker that is down or hangs delays one caller and fails none."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_WAKE_TWICE = """
import time, django
django.setup()
import commerce.celery
from commerce.outbox import events
for _ in range(2):
    start = time.monotonic()
    events._wake_worker()
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
def test_a_broker_that_does_not_answer_delays_one_caller_for_seconds_and_fails_none(broker) -> None:
    with broker() as port:
        environment = {
            **os.environ,
            "REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "DJANGO_SETTINGS_MODULE": "commerce.settings",
        }
        done = subprocess.run(
            [sys.executable, "-c", _WAKE_TWICE],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50, check=True,
        )  # fmt: skip
    first, second = map(float, done.stdout.split())
    assert first < 5
    assert second < 0.1
