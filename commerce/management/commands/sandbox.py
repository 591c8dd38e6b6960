"""`manage.py sandbox`: the provider simulators, in a process of their own."""

import os
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser


class Command(BaseCommand):
    help = "Serve simulators of OpenMeter and Modern Treasury on loopback."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", default="8900", help="0 chooses a free one and prints it")
        parser.add_argument("--dir", default="", help="where the store lives; SANDBOX_DIR, else var/sandbox")
        parser.add_argument("--seed", default="", help="what ids and delivery faults are drawn from")

    def handle(self, *args: Any, **options: Any) -> None:
        command = [sys.executable, "-m", "commerce.sandbox.server"]
        for name in ("host", "port", "dir", "seed"):
            if options[name]:
                command += [f"--{name}", options[name]]
        os.chdir(settings.BASE_DIR)
        os.execv(sys.executable, command)  # noqa: S606 - the same interpreter, no shell
