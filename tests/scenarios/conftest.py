"""One stack of real processes per test worker: web, Celery worker, beat and the simulators, over HTTP."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from commerce import roles
from commerce.processes import WORKERS, Stack
from commerce.sandbox import scenarios

ROOT = Path(__file__).parents[2]


class System:
    """A stack on a database of its own, with a platform key, and `verify` at hand."""

    def __init__(
        self, folder: Path, database: str, redis_db: int, environment: dict[str, str] | None = None
    ) -> None:
        quick = {**QUICK, **(environment or {})}
        self.stack = Stack(folder, database=database, redis_db=redis_db, environment=quick)
        scopes = [argument for scope in SCOPES for argument in ("--scope", scope)]
        issue = self.manage(
            "apikey", "--json", "issue", "--organization", "platform", "--label", "tests", *scopes
        )
        self.api_key = json.loads(issue)["key"]
        people = self.manage("shell", "--verbosity", "0", "-c", PEOPLE)
        self.approver = ("approver", json.loads(people)["approver"])

    def manage(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.stack.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def play(self, name: str, patience: float = 60) -> scenarios.World:
        said: list[str] = []
        try:
            return scenarios.run(
                name,
                base_url=self.stack.web_url,
                sandbox_url=self.stack.sandbox_url,
                api_key=self.api_key,
                report=said.append,
                patience=patience,
                approver=self.approver,
            )
        except scenarios.ScenarioFailed as failure:
            self.stack.check()
            logs = [self.stack.log(name).read_text(errors="replace")[-3000:] for name in WORKERS]
            raise AssertionError("\n".join([*said[-12:], str(failure), *logs])) from failure

    def verify(self) -> None:
        """The invariants hold; prints what breaks them."""
        report = json.loads(self.manage("verify", "--json"))
        assert report["findings"] == []
        assert set(report["checked"]) >= {"I1", "I2", "I5", "I7", "I9"}

    def effects(self) -> dict[str, Any]:
        return dict(self.stack.control("effects"))


QUICK = {
    "TICK_SECONDS": "0.5",
    "POLL_SECONDS": "2",
    "OUTBOX_LEASE_SECONDS": "3",
    "PROVIDER_TIMEOUT_SECONDS": "2",
    "LOG_LEVEL": "WARNING",
}
PEOPLE = """
import json
from commerce.console.demo_users import ensure_demo_users

print(json.dumps(ensure_demo_users()))
"""
SCOPES = (
    *(f"{name}:{verb}" for name in ("organizations", "contracts", "usage", "invoices", "wallets")
      for verb in ("read", "write")),
    *(f"{name}:{verb}" for name in ("settlements", "payouts", "ledger") for verb in ("read", "write")),
    "payouts:approve",
    "service:write",
)  # fmt: skip


@contextmanager
def own_database(name: str, blocker: Any, template: str = "template1") -> Iterator[str]:
    """One of this test worker; the test's own connection is unblocked only to make and to drop it."""
    name = f"{name}_{own_number()}{os.environ.get('TEST_DB_SUFFIX', '')}"

    def execute(*statements: str) -> None:
        with blocker.unblock(), roles.owner(), connection._nodb_cursor() as cursor:  # type: ignore[attr-defined]
            for statement in ("SET statement_timeout = 0", *statements):
                cursor.execute(statement)

    drop = f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'
    make = f'CREATE DATABASE "{name}" TEMPLATE "{template}"'
    # The one right that a copy does not have from its template.
    execute(drop, make, f'REVOKE TEMPORARY ON DATABASE "{name}" FROM PUBLIC')
    yield name
    execute(drop)


def make_system(
    folder: Path, name: str, redis_db: int, blocker: Any, migrated: str, **options: Any
) -> Iterator[System]:
    with own_database(name, blocker, migrated) as database:
        system = System(folder, database, redis_db + own_number(), **options)
        with system.stack:
            yield system


def own_number() -> int:
    """0, 1, … of this test worker, for names and Redis databases that do not clash."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


@pytest.fixture(scope="package")
def system(
    tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any, migrated: str
) -> Iterator[System]:
    yield from make_system(tmp_path_factory.mktemp("system"), "scenarios", 4, django_db_blocker, migrated)


@pytest.fixture
def fragile_system(tmp_path: Path, django_db_blocker: Any, migrated: str) -> Iterator[System]:
    """A system of its own whose worker is to die again and again, on leases of a second."""
    leases = {"OUTBOX_LEASE_SECONDS": "1"}
    yield from make_system(tmp_path, "fragile", 8, django_db_blocker, migrated, environment=leases)


@pytest.fixture
def young_system(tmp_path: Path, django_db_blocker: Any, migrated: str) -> Iterator[System]:
    """A system of its own without a past: a story of a year would be one for every contract beside it."""
    yield from make_system(tmp_path, "young", 12, django_db_blocker, migrated)


@pytest.fixture(autouse=True)
def _no_faults_left(request: pytest.FixtureRequest) -> Iterator[Callable[[], None] | None]:
    """Each test leaves the simulators as it found them."""
    yield
    if "system" in request.fixturenames:
        stack = request.getfixturevalue("system").stack
        stack.control("faults", method="DELETE")
        stack.control("webhooks", {"copies": 1, "shuffle": False, "lose": 0.0, "delay_ms": 0})
