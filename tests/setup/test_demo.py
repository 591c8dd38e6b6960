"""`manage.py demo` as a person sees it: it plays, stays up, stops what it started, comes up again."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from commerce.embedded import REPOSITORY

UP = "Ctrl-C stops everything."
SECONDS = 240
FIRST = ("--scenario", "first_dollar")


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    yield folder
    _command(folder, "embedded", "stop").wait(SECONDS)
    shutil.rmtree(folder)


def _command(state: Path, *arguments: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL", "TEST_DB_SUFFIX")}
    return subprocess.Popen(
        [sys.executable, "manage.py", *arguments],
        cwd=REPOSITORY,
        env=clean | {"COMMERCE_STATE": str(state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _until_it_says(process: subprocess.Popen[str], what: str) -> str:
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if what in line:
            return said
    raise AssertionError(f"it ended without saying {what!r}:\n{said}\n{process.communicate()[1]}")


def _part(demo: subprocess.Popen[str], words: str) -> psutil.Process:
    return next(p for p in psutil.Process(demo.pid).children() if words in " ".join(p.cmdline()))


def _running(state: Path, program: str = "") -> list[psutil.Process]:
    """What runs out of this state folder, zombies apart."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if str(state) in words and program in words and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_once_plays_a_story_and_leaves_nothing_running(state: Path) -> None:
    """The second one is played with the other stories, tests/scenarios/test_stories.py."""
    demo = _command(state, "demo", "--once", *FIRST)
    out, err = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 0, out + err
    assert "first_dollar is played" in out
    assert UP not in out
    assert _running(state) == []


def test_a_killed_worker_ends_it_with_a_sentence_and_the_next_one_stays_until_it_is_told(state: Path) -> None:
    demo = _command(state, "demo", *FIRST)
    said = _until_it_says(demo, UP)
    assert "approver-demo" in said
    _part(demo, "--hostname worker@").kill()
    _, err = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 1
    assert "worker ended with code -9" in err
    assert "worker.log" in err

    again = _command(state, "demo", *FIRST)
    _until_it_says(again, UP)
    second = _command(state, "demo")
    _, err = second.communicate(timeout=SECONDS)
    assert second.returncode == 1
    assert f"process {again.pid}" in err
    (postgres,) = _running(state, "bin/postgres")
    postgres.kill()
    _until_it_says(again, "PostgreSQL is gone; starting it again")
    deadline = time.monotonic() + 30
    while not _running(state, "bin/postgres") and time.monotonic() < deadline:
        time.sleep(0.1)
    again.send_signal(signal.SIGTERM)
    _, err = again.communicate(timeout=SECONDS)
    assert again.returncode == 0, err
    assert _running(state) == []
