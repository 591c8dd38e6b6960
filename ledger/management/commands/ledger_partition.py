"""`manage.py ledger_partition`: the entries become monthly partitions, while others post; as the owner."""

from argparse import ArgumentParser
from datetime import date, timedelta
from typing import Any

from commerce import roles
from commerce.management.ops import Exit, OpsCommand
from ledger.services import partition_entries


class Command(OpsCommand):
    help = "Make the table of entries the first of monthly partitions, rights and all. There is no way back."
    exclusive = True

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--ends", required=True, metavar="YYYY-MM", help="the month before which the first one ends"
        )
        parser.add_argument("--wait", type=float, default=300, metavar="SECONDS", help="for short locks")

    def execute(self, *args: Any, **options: Any) -> str | None:
        with roles.owner():
            return super().execute(*args, **options)

    def run(self, **options: Any) -> Exit:
        try:
            ends = date.fromisoformat(f"{options['ends']}-01")
        except ValueError:
            self.say(f"{options['ends']!r} is not a month such as 2027-05.")
            return Exit.USAGE
        took = partition_entries(ends=ends, patience=timedelta(seconds=options["wait"]))
        milliseconds = None if took is None else round(took.total_seconds() * 1000)
        self.show(
            {"done": took is not None, "postings_waited_ms": milliseconds},
            "The entries are partitions already."
            if took is None
            else f"The entries are partitions; postings waited for {milliseconds:,} ms.",
        )
        return Exit.DONE
