"""`manage.py scenario list|run NAME`: play a business story over HTTP against a running system."""

import os
from argparse import ArgumentParser
from typing import Any

from django.conf import settings

from commerce.errors import InvalidInput
from commerce.management.ops import Exit, OpsCommand
from commerce.sandbox import scenarios


class Command(OpsCommand):
    help = "Play a scenario through the public API; it asserts the ledger after each step."

    def arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("list", help="the scenarios there are")
        play = verbs.add_parser("run", help="play one")
        play.add_argument("name", choices=sorted(scenarios.SCENARIOS))
        play.add_argument("--base-url", default=settings.PUBLIC_URL, help="the application")
        play.add_argument("--sandbox-url", default=settings.SANDBOX_URL, help="the simulators")
        play.add_argument(
            "--api-key", default=os.environ.get("COMMERCE_API_KEY", ""), help="of the platform, all scopes"
        )
        play.add_argument(
            "--approver",
            default=os.environ.get("COMMERCE_APPROVER", ""),
            metavar="NAME:PASSWORD",
            help="who agrees in the console, for stories in which two people must",
        )

    def run(self, **options: Any) -> Exit:
        if options["verb"] == "list":
            stories = {name: (play.__doc__ or "").strip() for name, play in scenarios.SCENARIOS.items()}
            self.show(stories, "\n".join(f"{name:<24}{about}" for name, about in stories.items()))
            return Exit.DONE
        for name in ("sandbox_url", "api_key"):
            if not options[name]:
                raise InvalidInput(f"Say --{name.replace('_', '-')}, or set it in the environment.")
        name, _, password = options["approver"].partition(":")
        try:
            scenarios.run(
                options["name"],
                base_url=options["base_url"],
                sandbox_url=options["sandbox_url"],
                api_key=options["api_key"],
                report=self.say,
                approver=(name, password) if name else None,
            )
        except scenarios.ScenarioFailed as failure:
            self.say(str(failure))
            return Exit.FINDINGS
        self.show({"scenario": options["name"], "passed": True}, f"{options['name']} passed")
        return Exit.DONE
