"""`manage.py test`: every check and every test, as continuous integration runs them.

Replaces Django's command, because pytest runs the tests. A check that cannot run has failed; none is skipped.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from django.core.management.base import BaseCommand

from commerce.embedded import REPOSITORY

USAGE = """usage: manage.py test [--only-pytest] [pytest's own arguments]

Runs ruff, mypy, the import rules, the migrations, schema and system checks, then all tests with
pytest over two processes. Everything but --only-pytest is handed to pytest: `manage.py test -k wallet`.
"""
TOOLS = Path(sys.executable).parent
MANAGE = [sys.executable, "manage.py"]
CHECKS: dict[str, list[str | Path]] = {  # the slowest first: two run at a time
    "mypy": [TOOLS / "mypy"],
    "import rules": [TOOLS / "lint-imports", "--no-cache"],
    "migrations": [*MANAGE, "makemigrations", "--check", "--dry-run"],
    "API schema": [*MANAGE, "spectacular", "--validate", "--fail-on-warn", "--file", os.devnull],
    "system check": [*MANAGE, "check", "--fail-level", "WARNING"],
    "ruff format": [TOOLS / "ruff", "format", "--check", "."],
    "ruff check": [TOOLS / "ruff", "check", "."],
}
TEST_REDIS_DB = "63"  # so that tests do not wake the worker of a demo that runs beside them
PYTEST = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup"]


class Result(NamedTuple):
    name: str
    passed: bool
    seconds: float
    output: str


class Command(BaseCommand):
    help = "Run every check and every test; arguments go to pytest."

    def run_from_argv(self, argv: list[str]) -> None:
        arguments = argv[2:]
        if "--help" in arguments or "-h" in arguments:
            self.stdout.write(USAGE)
            return
        try:
            sys.exit(self._run(arguments))
        except KeyboardInterrupt:
            sys.exit(130)

    def _run(self, arguments: list[str]) -> int:
        started = time.monotonic()
        results = [] if "--only-pytest" in arguments else self._check()
        self._say("pytest")
        command = [*PYTEST, *(a for a in arguments if a != "--only-pytest")]
        tests = subprocess.run(command, cwd=REPOSITORY, env={"REDIS_DB": TEST_REDIS_DB, **os.environ})
        results.append(Result("pytest", tests.returncode == 0, 0, ""))
        failed = [result.name for result in results if not result.passed]
        verdict = (
            f"FAILED: {', '.join(failed)}" if failed else "all passed: " + ", ".join(r.name for r in results)
        )
        self._say(f"{verdict} ({time.monotonic() - started:.0f} s)")
        return 1 if failed else 0

    def _check(self) -> list[Result]:
        results = []
        with ThreadPoolExecutor(max_workers=2) as pool:
            for result in pool.map(_run_check, CHECKS):
                self._say(f"{'ok    ' if result.passed else 'FAILED'} {result.name} ({result.seconds:.1f} s)")
                if not result.passed:
                    self._say(result.output)
                results.append(result)
        return results

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _run_check(name: str) -> Result:
    started = time.monotonic()
    try:
        done = subprocess.run(
            [str(part) for part in CHECKS[name]],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except FileNotFoundError as missing:
        return Result(name, False, 0, f"{missing.filename} is not installed.")
    return Result(name, done.returncode == 0, time.monotonic() - started, done.stdout.strip())
