"""`manage.py embedded where|stop|reset`: the embedded PostgreSQL and Redis of this checkout."""

import shutil
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from commerce import embedded


class Command(BaseCommand):
    help = "Show where the embedded servers are, stop them, or stop them and delete all their data."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", choices=["where", "stop", "reset"])
        parser.add_argument("--yes", action="store_true", help="reset without asking")

    def handle(self, *args: Any, action: str, yes: bool, **options: Any) -> None:
        folder = embedded.state_dir()
        if action == "where":
            postgres = embedded.ensure_postgres()
            self.stdout.write(f"state       {folder}")
            self.stdout.write(f"PostgreSQL  psql -h {postgres['HOST']} -U postgres {postgres['NAME']}")
            self.stdout.write(f"Redis       {embedded.ensure_redis()}")
            return
        if action == "reset" and not yes and input(f"Delete all data in {folder}? [y/N] ") != "y":
            raise CommandError("Nothing was deleted.")
        connection.close()
        embedded.stop_redis()
        embedded.stop_postgres()
        if action == "reset":
            for part in ("postgres", "redis", "demo"):
                shutil.rmtree(folder / part, ignore_errors=True)
        self.stdout.write("Stopped." if action == "stop" else "Stopped, and the data is deleted.")
