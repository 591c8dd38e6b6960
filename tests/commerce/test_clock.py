"""Business time moves forward only, for everybody at once; without a test clock it is real time."""

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as project

from commerce import clock
from commerce.errors import Conflict, InvalidInput
from commerce.sandbox.clock import Clock, ClockBackwards

MARCH = datetime(2027, 3, 1, tzinfo=UTC)


@pytest.fixture
def path(settings: Any, tmp_path: Path) -> Path:
    settings.CLOCK_FILE = str(tmp_path / "clock")
    return Path(settings.CLOCK_FILE)


def test_without_a_test_clock_it_is_now_and_nobody_can_move_it(settings: Any) -> None:
    settings.CLOCK_FILE = ""
    before = datetime.now(UTC)
    assert before <= clock.now() <= datetime.now(UTC)
    assert not clock.is_simulated()
    with pytest.raises(Conflict, match="CLOCK_FILE is not set") as refused:
        clock.set_test_clock(MARCH)
    assert refused.value.code == "no_test_clock"


def test_an_absent_file_is_real_time_until_somebody_sets_it(path: Path) -> None:
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
    clock.set_test_clock(MARCH)
    assert clock.now() == MARCH
    assert clock.is_simulated()


def test_it_stands_still_and_moves_forward_only(path: Path) -> None:
    clock.set_test_clock(MARCH)
    clock.set_test_clock(MARCH)
    with pytest.raises(Conflict) as refused:
        clock.set_test_clock(MARCH - timedelta(microseconds=1))
    assert refused.value.code == "clock_backwards"
    assert clock.now() == MARCH
    clock.set_test_clock(MARCH + timedelta(microseconds=1))
    assert clock.now() == MARCH + timedelta(microseconds=1)


def test_an_instant_without_an_offset_is_refused(path: Path) -> None:
    clock.set_test_clock(MARCH)
    with pytest.raises(InvalidInput) as refused:
        clock.set_test_clock(datetime(2027, 4, 1))
    assert refused.value.errors[0].pointer == "/now"
    assert clock.now() == MARCH


def test_any_offset_is_kept_as_utc(path: Path) -> None:
    clock.set_test_clock(datetime(2027, 3, 1, 1, tzinfo=timezone(timedelta(hours=1))))
    assert clock.now() == MARCH
    assert clock.now().tzinfo is UTC
    assert path.read_text() == "2027-03-01T00:00:00+00:00"


@pytest.mark.parametrize("content", ["", "tomorrow", "2027-03-01T00:00:00"])
def test_a_file_that_holds_no_instant_is_not_guessed_at(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(ValueError):
        clock.now()
    assert not clock.is_readable()


def test_many_writers_leave_the_latest_instant_and_no_draft(path: Path) -> None:
    hours = [MARCH + timedelta(hours=n) for n in range(40)]
    seen: list[datetime] = []

    def move(mine: list[datetime]) -> None:
        for to in mine:
            try:
                clock.set_test_clock(to)
            except Conflict:
                pass
            seen.append(clock.now())

    clock.set_test_clock(MARCH)
    threads = [threading.Thread(target=move, args=(hours[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.now() == hours[-1]
    assert len(seen) == len(hours)
    assert {entry.name for entry in path.parent.iterdir()} == {"clock", "clock.lock"}


def test_another_process_and_the_simulators_share_it(path: Path) -> None:
    simulator = Clock(path)
    clock.set_test_clock(MARCH)
    assert simulator.now() == MARCH
    simulator.advance(MARCH + timedelta(days=1))
    assert clock.now() == MARCH + timedelta(days=1)
    with pytest.raises(Conflict):
        clock.set_test_clock(MARCH)
    clock.set_test_clock(MARCH + timedelta(days=2))
    with pytest.raises(ClockBackwards):
        simulator.advance(MARCH + timedelta(days=1))
    other = subprocess.run(
        [
            sys.executable,
            "-c",
            "import django; django.setup(); from commerce import clock; print(clock.now())",
        ],
        cwd=project.BASE_DIR,
        env=os.environ | {"CLOCK_FILE": str(path), "DJANGO_SETTINGS_MODULE": "commerce.settings"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == "2027-03-03 00:00:00+00:00"
