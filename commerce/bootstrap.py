"""The environment that manage.py needs, made on first use: .venv with the hash-locked packages.

Standard library only, because it runs before anything is installed. Where the packages are importable already
(a container, an activated environment) it does nothing. A stamp with the lock's hash, written last, tells a finished
environment from an interrupted one and makes a changed lock install again.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
OLDEST_PYTHON = (3, 11)
NEEDED = ("django", "celery", "django_fsm", "environ", "psycopg", "redis", "rest_framework", "unfold")


class BootstrapError(Exception):
    """The environment could not be made; the message says what to do."""


def ensure_environment(repository: Path = REPOSITORY, needed: Sequence[str] = NEEDED) -> None:
    """Return inside a complete environment, or replace this process by the same command in .venv."""
    ours = Path(sys.prefix).resolve() == (repository / ".venv").resolve()
    if not ours and all(importlib.util.find_spec(name) for name in needed):
        return
    try:
        changed = prepare(repository)
    except BootstrapError as error:
        sys.exit(f"{error}")
    if changed or not ours:
        python = str(repository / ".venv" / "bin" / "python")
        os.execv(python, [python, *sys.argv])


def prepare(repository: Path) -> bool:
    """Make or update .venv where the lock asks for it; answer whether anything was done."""
    if sys.version_info < OLDEST_PYTHON:
        raise BootstrapError(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}.")
    environment, lock = repository / ".venv", repository / "requirements.lock"
    stamp, wanted = environment / ".requirements.sha256", hashlib.sha256(lock.read_bytes()).hexdigest()
    if _finished(environment, stamp, wanted):
        return False
    folder = os.open(repository, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # somebody else may be installing: wait, then look again
        if _finished(environment, stamp, wanted):
            return True
        _install(environment, lock, stamp)
        stamp.write_text(wanted)
        return True
    except PermissionError as error:
        raise BootstrapError(
            f"{error}\n{environment} cannot be written by this user: who made it?"
        ) from error
    finally:
        os.close(folder)


def _finished(environment: Path, stamp: Path, wanted: str) -> bool:
    return (environment / "bin" / "python").exists() and stamp.exists() and stamp.read_text() == wanted


def _install(environment: Path, lock: Path, stamp: Path) -> None:
    python, uv = environment / "bin" / "python", environment / "bin" / "uv"
    if not (python.exists() and stamp.exists()):
        if importlib.util.find_spec("ensurepip") is None:
            raise BootstrapError(
                "This Python cannot make virtual environments: its `venv` module is incomplete. Install it (on "
                "Debian and Ubuntu: apt install python3-venv), or activate an environment that has the packages "
                "of requirements.lock."
            )
        shutil.rmtree(environment, ignore_errors=True)
        _step("1/3 making .venv", [sys.executable, "-m", "venv", environment])
    stamp.unlink(missing_ok=True)  # from here to the new stamp the environment counts as unfinished
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    locked = ["--require-hashes", "--no-deps", "--requirement", lock]
    packages = sum(" ==" in line or "==" in line.split(" ")[0] for line in lock.read_text().splitlines())
    try:
        if not uv.exists():
            _step("2/3 installing uv, the fast installer", [*pip, "uv"])
        _step(
            f"3/3 installing {packages} packages",
            [uv, "pip", "install", "--quiet", "--python", python, *locked],
        )
    except BootstrapError as first:
        print(f"      uv did not manage ({_last_line(first)}); trying pip", file=sys.stderr)
        try:
            _step(f"3/3 installing {packages} packages with pip", [*pip, *locked])
        except BootstrapError as error:
            raise BootstrapError(
                f"{error}\n\nThe packages could not be installed. This step needs a Python package index: check "
                "the network, or point PIP_INDEX_URL (and UV_DEFAULT_INDEX) at a mirror, and run the same command "
                "again. Nothing has to be cleaned up."
            ) from error


def _step(title: str, command: Sequence[object]) -> None:
    """Run one command quietly, with a sign of life every five seconds, and its output only when it fails."""
    print(f"set-up {title} ...", end="", flush=True, file=sys.stderr)
    started = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while True:
        try:
            output, _ = process.communicate(timeout=5)
            break
        except subprocess.TimeoutExpired:
            print(".", end="", flush=True, file=sys.stderr)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        print(" failed", file=sys.stderr)
        raise BootstrapError(output.strip()[-2000:] or f"exit code {process.returncode}")
    print(f" {time.monotonic() - started:.1f} s", file=sys.stderr)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
