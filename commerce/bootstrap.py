"""The environment that manage.py needs, made on first use: .venv with the hash-locked packages.

Standard library only, because it runs before anything is installed. Where the packages are importable already
(a container, an activated environment) it does nothing. A stamp with the lock's hash, written last, tells a
finished environment from an interrupted one and makes a changed lock install again.
"""

from __future__ import annotations  # an older Python must get as far as the sentence that refuses it

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
    environment = repository / ".venv"
    ours = Path(sys.prefix).resolve() == environment.resolve() and _stamp(environment).exists()
    if not ours and all(importlib.util.find_spec(name) for name in needed):
        return
    try:
        changed = prepare(repository)
    except BootstrapError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same command starts again where it has to.")
    if changed or not ours:
        python = str(environment / "bin" / "python")
        os.execv(python, [python, *sys.argv])  # noqa: S606


def prepare(repository: Path) -> bool:
    """Make or update .venv where the lock asks for it; answer whether anything was done."""
    if sys.version_info < OLDEST_PYTHON:
        raise BootstrapError(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}.")
    environment, lock = repository / ".venv", repository / "requirements.lock"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if _finished(environment, wanted):
        return False
    folder = os.open(repository, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # somebody else may be installing: wait, then look again
        if not _finished(environment, wanted):
            _install(environment, lock)
            _stamp(environment).write_text(wanted)
        return True
    except PermissionError as error:
        raise BootstrapError(
            f"{error}\n{environment} belongs to somebody else: remove it or use theirs."
        ) from error
    finally:
        os.close(folder)


def _stamp(environment: Path) -> Path:
    return environment / ".requirements.sha256"


def _finished(environment: Path, wanted: str) -> bool:
    stamp = _stamp(environment)
    return (environment / "bin" / "python").exists() and stamp.exists() and stamp.read_text() == wanted


def _install(environment: Path, lock: Path) -> None:
    python, uv = environment / "bin" / "python", environment / "bin" / "uv"
    if not (python.exists() and _stamp(environment).exists()):
        if importlib.util.find_spec("ensurepip") is None:
            raise BootstrapError(
                "This Python cannot make virtual environments: its `venv` module is incomplete. "
                "Install it (Debian, Ubuntu: apt install python3-venv), or activate an environment "
                "that has the packages of requirements.lock."
            )
        shutil.rmtree(environment, ignore_errors=True)
        _step("making .venv", [sys.executable, "-m", "venv", environment])
    _stamp(environment).unlink(missing_ok=True)  # until the new stamp it counts as unfinished
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    locked = ["--require-hashes", "--no-deps", "--requirement", lock]
    try:
        if not uv.exists():
            _step("installing uv, the fast installer", [*pip, "uv"])
        _step("installing the packages", [uv, "pip", "install", "--quiet", "--python", python, *locked])
    except BootstrapError:
        try:
            _step("installing the packages with pip instead", [*pip, *locked])
        except BootstrapError as error:
            raise BootstrapError(
                f"{error}\n\nThe packages could not be installed. This needs a Python package index: "
                "check the network, or name a mirror in PIP_INDEX_URL (pip) and UV_DEFAULT_INDEX (uv), "
                "then run the same command again. Nothing has to be cleaned up."
            ) from error


def _step(title: str, command: Sequence[object]) -> None:
    """Run one command quietly, with a sign of life every five seconds, and its output only when it fails."""
    print(f"{title} ...", end="", flush=True, file=sys.stderr)
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
