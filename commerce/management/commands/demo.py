"""`manage.py demo`: the whole system on this machine, one contract from signature to payout, and one for
a year of changes."""

import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connection
from django.utils import timezone

from commerce import embedded, roles
from commerce.actor import Actor
from commerce.api.models import ApiKey
from commerce.api.scopes import SCOPES
from commerce.api.services import issue_key, revoke_key
from commerce.console.demo_users import ensure_demo_users
from commerce.parties.models import Organization
from commerce.processes import ProcessDied, Stack
from commerce.sandbox import scenarios

SCENARIOS = ("first_dollar", "a_year_of_changes")
KEY_LABEL = "demo"
WATCH_SECONDS = 2
WHAT_THEY_DO = {
    "viewer": "sees everything, changes nothing",
    "operator": "runs the daily work",
    "approver": "lets money go",
    "admin": "looks after people, keys and products",
}


class Server(NamedTuple):
    name: str
    variable: str
    is_running: Callable[[], bool]
    ensure: Callable[[], object]
    stop: Callable[[], None]


EMBEDDED = [
    server
    for server in (
        Server("Redis", "REDIS_URL", embedded.redis_is_running, embedded.ensure_redis, embedded.stop_redis),
        Server(
            "PostgreSQL",
            "DATABASE_URL",
            embedded.postgres_is_running,
            embedded.ensure_postgres,
            embedded.stop_postgres,
        ),
    )
    if not os.environ.get(server.variable)
]


class Command(BaseCommand):
    help = "Set up, start sandbox, web, worker and beat, play two contracts through, stay up until Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--once", action="store_true", help="end right after the scenarios")
        parser.add_argument(
            "--scenario", action="append", choices=SCENARIOS, help="play this one only; both by default"
        )

    def handle(self, *args: Any, once: bool, scenario: list[str] | None, **options: Any) -> None:
        if settings.PRODUCTION:
            raise CommandError("The demo makes users with known passwords; it does not run in production.")
        logging.disable(logging.INFO)  # this process talks to a person; the others write their logs
        self.started = time.monotonic()
        folder = embedded.state_dir() / "demo"
        folder.mkdir(exist_ok=True)
        with _only_demo(folder / "running") as announce, _signals_as_exceptions():
            self.stack = Stack(folder)
            announce(f"process {os.getpid()}, {self.stack.web_url}")
            self._say(f"starting; the logs are in {folder / 'logs'}")
            signal.signal(signal.SIGCHLD, lambda number, frame: self.stack.check())
            try:
                self.stack.start(meanwhile=self._prepare)
                self._say("sandbox, web, worker and beat are up")
                for name in scenario or SCENARIOS:
                    self._play(name)
                    self._say(f"{name} is played")
                if not once:
                    self._welcome()
                    self._stay()
            except KeyboardInterrupt:
                raise CommandError("Interrupted.", returncode=130) from None
            except (ProcessDied, embedded.EmbeddedServerError) as failure:
                raise CommandError(f"The demo ends: {failure}") from failure
            finally:
                self._stop()

    def _prepare(self) -> None:
        """Database, groups, users and a key, in this one process, while the others load."""
        call_command("migrate", verbosity=0, interactive=False)
        self.passwords = ensure_demo_users()
        self.api_key = _fresh_key()
        self._say("database, groups and users are ready")

    def _play(self, scenario: str) -> None:
        said = ["nothing"]

        def report(line: str) -> None:
            said.append(line)
            self.stdout.write(line)
            self.stdout.flush()

        try:
            scenarios.run(
                scenario,
                base_url=self.stack.web_url,
                sandbox_url=self.stack.sandbox_url,
                api_key=self.api_key,
                report=report,
                approver=("approver", self.passwords["approver"]),
            )
        except Exception as error:
            self.stack.check()  # a dead child explains more than what the scenario saw of it
            raise CommandError(
                f"{scenario} failed: {error}\nThe last thing it said: {said[-1].strip()}\n"
                f"The logs are in {self.stack.folder / 'logs'}"
            ) from error

    def _welcome(self) -> None:
        lines = [
            "",
            f"Console   {self.stack.web_url}/admin/",
            f"API       {self.stack.web_url}/api/docs/",
            f"API key   {self.api_key}",
            "",
            "Logins",
            *(f"  {name:<10}{self.passwords[name]:<20}{what}" for name, what in WHAT_THEY_DO.items()),
            "",
            "Ctrl-C stops everything.",
        ]
        self.stdout.write("\n".join(lines))
        self.stdout.flush()

    def _stay(self) -> None:
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(WATCH_SECONDS)
                for server in EMBEDDED:
                    if not server.is_running():
                        self._say(f"{server.name} is gone; starting it again")
                        server.ensure()

    def _stop(self) -> None:
        """Stop all we started; but embedded servers that somebody else uses by now stay."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self._say("stopping")
        self.stack.stop()
        in_use = _database_is_in_use()
        connection.close()
        for server in EMBEDDED:
            if not in_use:
                server.stop()
        self._say("stopped")

    def _say(self, what: str) -> None:
        self.stdout.write(f"[{time.monotonic() - self.started:5.1f} s] {what}")
        self.stdout.flush()


def _fresh_key() -> str:
    """A key of the platform with every scope; the one of an earlier demo ends."""
    actor, at = Actor.system("demo"), timezone.now()
    for key in ApiKey.objects.filter(label=KEY_LABEL, revoked_at=None):
        revoke_key(key=key, actor=actor, at=at, reason="a new demo began")
    platform = Organization.objects.platform()
    return issue_key(organization=platform, scopes=list(SCOPES), label=KEY_LABEL, actor=actor, at=at)[1]


@contextmanager
def _only_demo(path: Path) -> Iterator[Callable[[str], object]]:
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(f"A demo is running already ({path.read_text()}): stop it first.") from None
        yield path.write_text


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """SIGTERM like Ctrl-C; and Ctrl-C also where a shell started us in the background, ignoring it."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _database_is_in_use() -> bool:
    with suppress(DatabaseError), roles.owner(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return bool(cursor.fetchone()[0])
    return False
