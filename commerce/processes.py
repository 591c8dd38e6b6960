"""Web, worker, beat and sandbox as one stack of supervised child processes, for demo and fault tests.

Every child has its own session and log file and dies with its parent, even when that is killed with -9.
Providers' addresses and keys are always the sandbox's: a stack cannot reach a real provider.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

REPOSITORY = Path(__file__).resolve().parents[1]
CLOCK_START = "2027-03-01T00:00:00+00:00"
START_SECONDS = 60
STOP_SECONDS = 10
PR_SET_PDEATHSIG = 1
# Whoever outside is slow holds up one of them, and none of our own work.
OUTSIDE = "provider-openmeter,provider-modern_treasury,webhooks"
WORKERS = {"worker": ("--exclude-queues", OUTSIDE), "providers": ("--queues", OUTSIDE)}
_loopback = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ProcessDied(Exception):
    """A child ended by itself, or did not answer; the message ends with what its log says."""

    def __init__(self, what: str, log: Path) -> None:
        self.log = log
        lines = log.read_text(errors="replace").splitlines()[-12:] if log.exists() else []
        super().__init__(
            "\n".join([f"{what} Its log, {log}, ends with:", *(f"    {line}" for line in lines)])
        )


class Process:
    """One child process and its log file."""

    def __init__(self, name: str, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.name, self.arguments, self.environment, self.log = name, arguments, environment, log
        self._child: subprocess.Popen[bytes] | None = None
        self._told_to_end = False

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        self._told_to_end = False
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, *self.arguments],
                cwd=REPOSITORY,
                env={**self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the supervisor, who stops them in order
                preexec_fn=_die_with_parent(os.getpid()),
            )

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs or before it was started; negative for a signal."""
        return self._child.poll() if self._child else None

    def check(self) -> None:
        if self.exit_code is not None and not self._told_to_end:
            raise ProcessDied(f"{self.name} ended with code {self.exit_code}.", self.log)

    def terminate(self) -> None:
        """Ask it to finish what it does."""
        self._told_to_end = True
        if self._child:
            self._child.terminate()

    def kill(self) -> None:
        """kill -9, together with whatever it has started."""
        self._told_to_end = True
        if self._child:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()

    def wait(self, seconds: float) -> bool:
        """Whether it ended in time."""
        with suppress(subprocess.TimeoutExpired):
            if self._child:
                self._child.wait(seconds)
            return True
        return False


class Stack:
    """The whole system on free ports of this machine, on one database and one Redis database.

    The database has to exist and to be migrated. `folder` holds logs, test clock and the sandbox's store.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database: str = "",
        redis_db: int = 0,
        worker: bool = True,
        beat: bool = True,
        worker_pool: str = "prefork",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        web_port, sandbox_port = _free_ports(2)
        self.web_url, self.sandbox_url = f"http://127.0.0.1:{web_port}", f"http://127.0.0.1:{sandbox_port}"
        self.clock_file, self.crash_markers = folder / "clock", folder / "crashed"
        self.environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "DATABASE_NAME": database,
            "REDIS_DB": str(redis_db),
            "CLOCK_FILE": str(self.clock_file),
            "PUBLIC_URL": self.web_url,
            "ALLOWED_HOSTS": "127.0.0.1,localhost",
            "SANDBOX_URL": self.sandbox_url,
            "SANDBOX_DIR": str(folder / "sandbox"),
            "MODERN_TREASURY_BASE_URL": f"{self.sandbox_url}/modern-treasury",
            "MODERN_TREASURY_ORGANIZATION_ID": "sandbox",
            "MODERN_TREASURY_API_KEY": "sandbox-key",
            "MODERN_TREASURY_WEBHOOK_KEY": "sandbox-webhook-key",
            "MODERN_TREASURY_INTERNAL_ACCOUNT_ID": "00000000-0000-4000-8000-000000000001",
            "OPENMETER_BASE_URL": f"{self.sandbox_url}/openmeter",
            "OPENMETER_TOKEN": "sandbox-token",
            "OPENMETER_WEBHOOK_SECRET": "whsec_c2FuZGJveC13ZWJob29rLXNlY3JldA==",
            "CRASH_MARKERS": str(self.crash_markers),
            "TICK_SECONDS": "1",
            "POLL_SECONDS": "5",
            **(environment or {}),
        }
        celery = ["-m", "celery", "-A", "commerce"]
        quick = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        commands: dict[str, list[str]] = {
            "sandbox": ["-m", "commerce.sandbox.server", "--port", str(sandbox_port)],
            "web": [
                *("-m", "gunicorn", "commerce.wsgi", "--bind", f"127.0.0.1:{web_port}"),
                *(
                    "--worker-class",
                    "gthread",
                    "--threads",
                    "8",
                    "--graceful-timeout",
                    "2",
                    "--no-control-socket",
                ),
            ],
        }
        if worker:
            pool = ["--pool", worker_pool, "--concurrency", "1" if worker_pool == "solo" else "2"]
            for name, queues in WORKERS.items():
                commands[name] = [*celery, "worker", "--hostname", f"{name}@%h", *queues]
                commands[name] += [*pool, *quick, "--loglevel", "INFO"]
        if beat:
            commands["beat"] = [*celery, "beat", "--pidfile=", "--loglevel", "INFO"]
        pooled = {"DB_POOL": "8"}
        self.processes = {
            name: Process(
                name,
                arguments,
                self.environment | (pooled if name == "web" else {}),
                folder / "logs" / f"{name}.log",
            )
            for name, arguments in commands.items()
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, meanwhile: Callable[[], None] | None = None) -> None:
        """Start everything and wait until it answers. `meanwhile` runs while the first three load; only
        beat, which makes the worker look into the database, waits for it."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        (self.folder / "sandbox").mkdir(exist_ok=True)
        self.crash_markers.mkdir(exist_ok=True)
        if not self.clock_file.exists():
            self.clock_file.write_text(CLOCK_START)
        for process in self.processes.values():
            process.log.write_bytes(b"")
        try:
            for name in self.processes.keys() - {"beat"}:
                self.processes[name].start()
            if meanwhile:
                meanwhile()
            if "beat" in self.processes:
                self.processes["beat"].start()
            self.wait_until_ready()
            webhooks = {
                "modern_treasury_url": f"{self.web_url}/webhooks/modern-treasury/",
                "openmeter_url": f"{self.web_url}/webhooks/openmeter/",
            }
            self.control("webhooks", webhooks)
        except BaseException:
            self.stop()
            raise

    def wait_until_ready(self) -> None:
        for name, url in (
            ("sandbox", f"{self.sandbox_url}/__control__/clock"),
            ("web", f"{self.web_url}/livez"),
        ):
            deadline = time.monotonic() + START_SECONDS
            while not _answers(url):
                self.check()
                if time.monotonic() > deadline:
                    raise ProcessDied(f"{name} did not answer within {START_SECONDS} s.", self.log(name))
                time.sleep(0.1)

    def stop(self) -> None:
        """Ask all to finish, those first who need the others; kill what takes longer than ten seconds."""
        deadline = time.monotonic() + STOP_SECONDS
        for names in (("beat", *WORKERS), ("web", "sandbox")):
            processes = [self.processes[name] for name in names if name in self.processes]
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(max(deadline - time.monotonic(), 0))
                process.kill()

    def check(self) -> None:
        """Raise ProcessDied if a child ended that nobody stopped."""
        for process in self.processes.values():
            process.check()

    def kill(self, name: str) -> None:
        self.processes[name].kill()

    def restart(self, *names: str, env: Mapping[str, str] | None = None) -> None:
        """Kill them if they run, and start them again with `env` on top of the stack's.

        Call it from a thread that outlives the process: the kernel takes a thread's end for its parent's.

        With CRASH_AT a process dies once at each point named there; `crashed` tells where one did.
        """
        for name in names:
            self.kill(name)
        for name in names:
            self.processes[name].start(env)

    def crashed(self) -> set[str]:
        """The crash points at which a process has died."""
        return {marker.name for marker in self.crash_markers.iterdir()}

    def control(self, path: str, body: Mapping[str, Any] | None = None, method: str = "") -> Any:
        """Call the sandbox's control interface: GET without a body, POST with one."""
        request = urllib.request.Request(  # noqa: S310
            f"{self.sandbox_url}/__control__/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method or ("GET" if body is None else "POST"),
        )
        with _loopback.open(request, timeout=START_SECONDS) as response:
            return json.loads(response.read() or b"null")

    def log(self, name: str) -> Path:
        return self.processes[name].log


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    """What a child runs before it becomes another program: get SIGTERM when the parent is gone."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork, where it is safe

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died between the fork and the line above
            os._exit(1)

    return ask


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:  # all held at once, so that they differ
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _answers(url: str) -> bool:
    with suppress(OSError), _loopback.open(url, timeout=2) as response:
        return bool(response.status == 200)
    return False
