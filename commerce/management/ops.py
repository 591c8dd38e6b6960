"""The base of every operations command: one set of options, one set of exit codes.

Data goes to stdout (with --json as one JSON document), talk and progress to stderr. Exit codes:
0 done, 1 unexpected, 2 usage, 3 findings, 4 partial, 5 already running, 6 refused, 130 interrupted.
"""

import json
import math
import zlib
from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime
from enum import IntEnum
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import connection, transaction
from django.utils.dateparse import parse_datetime

from commerce.actor import Actor
from commerce.errors import CommerceError


class Exit(IntEnum):
    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    FINDINGS = 3
    PARTIAL = 4
    RUNNING = 5
    REFUSED = 6
    INTERRUPTED = 130


EXIT_CODES = (
    "Exit codes: 0 done, 1 unexpected error, 2 wrong arguments, 3 findings, 4 done in part, "
    "5 running already, 6 refused by a rule, 130 interrupted."
)


def positive(text: str) -> int:
    """An option's whole number, at least 1."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ArgumentTypeError(f"{text!r} is no whole number above zero")
    return int(text)


def seconds(text: str) -> float:
    """An option's length of time, above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"{text!r} is no number of seconds above zero")
    return value


def instant(text: str) -> datetime:
    """An option's instant, of one meaning everywhere."""
    try:
        value = parse_datetime(text)
    except ValueError:  # of the right shape, and no day of any calendar
        value = None
    if value is None or value.tzinfo is None:
        raise ArgumentTypeError(f"{text!r} is no instant with an offset, for example 2027-03-01T00:00:00Z")
    return value


class _RolledBack(Exception):
    """Ends a dry run."""


class OpsCommand(BaseCommand):
    """Subclasses implement `run(**options) -> Exit`; services do the work.

    `exclusive` takes an advisory lock named after the command. `writes` adds --dry-run: the command
    runs for real inside one transaction, which is then rolled back.
    """

    exclusive = False
    writes = False

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, **{"epilog": EXIT_CODES} | kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")
        if self.writes:
            parser.add_argument("--dry-run", action="store_true", help="do everything, keep nothing")
        self.arguments(parser)

    def arguments(self, parser: ArgumentParser) -> None:
        """Add the command's own options."""

    def run(self, **options: Any) -> Exit:
        """Do it; return how it ended."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    @property
    def actor(self) -> Actor:
        return Actor.system(f"command:{self.name}")

    def handle(self, *args: Any, **options: Any) -> None:
        self.json = options["json"]
        try:
            code = self._guarded(**options)
        except CommerceError as error:
            self.say(f"{error.code}: {error}")
            code = Exit.REFUSED
        except KeyboardInterrupt:
            self.say("Interrupted; what was committed stays, run it again to go on.")
            code = Exit.INTERRUPTED
        if code:
            raise SystemExit(int(code))

    def _guarded(self, **options: Any) -> Exit:
        if not self.exclusive:
            return self._run(**options)
        key = zlib.crc32(f"command:{self.name}".encode())
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [key])
            if not cursor.fetchone()[0]:
                self.say(f"{self.name} is running already.")
                return Exit.RUNNING
        try:
            return self._run(**options)
        finally:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [key])

    def _run(self, **options: Any) -> Exit:
        if not options.get("dry_run"):
            return self.run(**options)
        code = Exit.DONE
        try:
            with transaction.atomic():
                code = self.run(**options)
                raise _RolledBack
        except _RolledBack:
            self.say("Dry run: nothing was kept.")
        return code

    def say(self, sentence: str) -> None:
        """Talk to the operator, on stderr."""
        self.stderr.write(sentence)

    def show(self, data: Any, text: str) -> None:
        """Print the result: `data` with --json, `text` without."""
        self.stdout.write(json.dumps(data, default=str, indent=2) if self.json else text)
