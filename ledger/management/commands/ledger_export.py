"""`manage.py ledger_export`: what the ledger holds as a file, written here and now, row by row."""

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from commerce.api.problems import Invalid
from commerce.console.export_formats import file_writer, stream_writer
from commerce.console.exports import Source, Written, sha256_of, snapshot, source_named, workshop, write
from commerce.console.models import ExportFormat
from commerce.errors import InvalidInput
from commerce.management.ops import Exit, OpsCommand
from ledger.rules.kinds import Kind

SOURCES = ("statement", "entries", "transactions", "balances", "accounts")
PARAMETERS = (
    "account_id",
    "owner_id",
    "kind",
    "currency",
    "since",
    "until",
    "by",
    "at",
    "known_at",
    "status",
    "recipe",
)
TALK_ROWS = 100_000


class Command(OpsCommand):
    help = "Write statements, entries, transactions, balances or accounts as CSV, XLSX or JSON lines."

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("what", choices=SOURCES)
        parser.add_argument("--format", choices=ExportFormat.values, default="csv")
        parser.add_argument("--output", type=Path, metavar="FILE", help="standard output when left out")
        parser.add_argument("--account", dest="account_id", metavar="ID")
        parser.add_argument("--owner", dest="owner_id", metavar="ID", help="an organization's id")
        parser.add_argument("--kind", choices=[str(kind) for kind in Kind])
        parser.add_argument("--currency")
        parser.add_argument("--since", metavar="INSTANT", help="e.g. 2027-03-01T00:00:00Z; included")
        parser.add_argument("--until", metavar="INSTANT", help="not included")
        parser.add_argument("--by", choices=["effective", "recorded"], help="the instant the period means")
        parser.add_argument("--at", metavar="INSTANT", help="balances as of this business instant")
        parser.add_argument("--known-at", metavar="INSTANT", help="only what had been recorded by then")
        parser.add_argument("--status", help="of transactions")
        parser.add_argument("--recipe", help="of transactions")

    def run(self, **options: Any) -> Exit:
        source, output = source_named(f"ledger.{options['what']}"), options["output"]
        if output is None and (options["format"] == "xlsx" or self.json):
            self.say("A workbook, and --json, need --output FILE.")
            return Exit.USAGE
        given = {name: options[name] for name in PARAMETERS if options[name] is not None}
        try:
            selection = source.selection(given)
            source.check(selection)
        except (Invalid, InvalidInput) as error:
            self.say(str(error))
            return Exit.USAGE
        with snapshot():
            total = source.count(selection)

            def progress(rows: int) -> None:
                if rows % TALK_ROWS == 0:
                    self.say(f"{rows:,} of {total:,} rows")

            if output is None:
                writer = stream_writer(options["format"], source.columns, _Text(self.stdout))
                written = write(source, selection, writer, progress=progress)
                self.say(f"{written.rows:,} rows.")
                return Exit.DONE
            with workshop(output.parent, f".{output.name}.{os.getpid()}") as shop:
                draft = shop / "file"
                with file_writer(options["format"], source.columns, draft) as file:
                    written = write(source, selection, file, progress=progress)
                digest = sha256_of(draft)
                os.replace(draft, output)
        self._report(source, output, written, digest)
        return Exit.DONE

    def _report(self, source: Source, output: Path, written: Written, digest: str) -> None:
        facts = {"source": source.name, "file": str(output), "rows": written.rows, "sha256": digest}
        self.show({**facts, "totals": written.totals}, f"{output}: {written.rows:,} rows, sha256 {digest}")


class _Text:
    """Standard output without the line end that the command's wrapper adds to everything."""

    def __init__(self, out: Any) -> None:
        self._out = out

    def write(self, text: str) -> None:
        self._out.write(text, ending="")
