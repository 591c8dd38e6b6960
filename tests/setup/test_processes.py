"""Supervised child processes: they die with their parent, and their death is told with their log."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.management.base import CommandError

from commerce.management.commands.demo import _only_demo
from commerce.processes import Process, ProcessDied, Stack

SLEEP = ["-c", "import time; print('up', flush=True); time.sleep(60)"]


def _eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_dies_with_its_supervisor_even_after_kill_9(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys, time; from commerce.processes import Process\n"
        f"child = Process('child', {SLEEP!r}, os.environ, pathlib.Path(sys.argv[1]) / 'log')\n"
        "child.start(); print(child.pid, flush=True); time.sleep(60)"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert supervisor.stdout
    child = int(supervisor.stdout.readline())
    assert _eventually(lambda: "up" in (tmp_path / "log").read_text())
    supervisor.kill()
    supervisor.communicate()
    assert _eventually(lambda: not _is_running(child))


def test_a_death_is_told_with_its_code_and_the_end_of_its_log(tmp_path: Path) -> None:
    child = Process("worker", ["-c", "raise SystemExit('no broker')"], os.environ, tmp_path / "log")
    child.check()
    child.start()
    child.wait(10)
    with pytest.raises(ProcessDied, match=r"(?s)worker ended with code 1\..*no broker"):
        child.check()


def test_killing_takes_the_whole_family_and_is_no_death_to_report(tmp_path: Path) -> None:
    family = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, *{SLEEP!r}]).pid, flush=True);"
        "import time; time.sleep(60)"
    )
    parent = Process("worker", ["-c", family], os.environ, tmp_path / "log")
    parent.start()
    assert _eventually(lambda: "up" in parent.log.read_text())
    grandchild = int(next(line for line in parent.log.read_text().split() if line.isdigit()))
    parent.kill()
    assert parent.exit_code == -signal.SIGKILL
    assert _eventually(lambda: not _is_running(grandchild))
    parent.check()
    parent.start()
    assert parent.exit_code is None
    parent.kill()


def test_a_stack_never_knows_a_real_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OPENMETER_BASE_URL",
        "OPENMETER_TOKEN",
        "MODERN_TREASURY_BASE_URL",
        "MODERN_TREASURY_API_KEY",
    ):
        monkeypatch.setenv(name, "https://real.example")
    stack = Stack(tmp_path)
    assert "https://real.example" not in stack.environment.values()
    assert stack.environment["OPENMETER_BASE_URL"].startswith("http://127.0.0.1:")


def test_two_stacks_get_different_ports(tmp_path: Path) -> None:
    one = Stack(tmp_path)
    assert one.web_url != one.sandbox_url


def test_a_second_demo_is_told_about_the_first(tmp_path: Path) -> None:
    path = tmp_path / "running"
    with _only_demo(path) as announce:
        announce("process 7, http://127.0.0.1:1")
        with pytest.raises(CommandError, match="process 7"), _only_demo(path):
            pass
    with _only_demo(path):
        pass
