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
from ledger.models import LedgerTransaction
from ledger.rules.kinds import Kind

SOURCES = ("statement", "entries", "transactions", "balances", "accounts")
OPTIONS: dict[str, dict[str, Any]] = {
    "account": {
        "dest": "account_id",
        "metavar": "ID",
        "help": "statement, required: the account's number, as in the address of its page",
    },
    "owner": {
        "dest": "owner_id",
        "metavar": "ID",
        "help": "all but statement: only what belongs to this organization",
    },
    "kind": {
        "metavar": "KIND",
        "help": f"entries, balances, accounts: one of {', '.join(kind.value for kind in Kind)}",
    },
    "currency": {"metavar": "CODE", "help": "entries, balances, accounts: as USD"},
    "since": {"metavar": "INSTANT", "help": "statement, entries, transactions: from then on"},
    "until": {"metavar": "INSTANT", "help": "statement, entries, transactions: up to then, not included"},
    "by": {
        "choices": ["effective", "recorded"],
        "help": "entries: whether the period is one of business time (the default) or of recording",
    },
    "at": {"metavar": "INSTANT", "help": "balances: as of this business instant instead of now"},
    "known-at": {"metavar": "INSTANT", "help": "statement, balances: only what had been recorded by then"},
    "status": {"choices": LedgerTransaction.Status.values, "help": "transactions: only these"},
    "recipe": {"metavar": "NAME", "help": "transactions: of one recipe, as fund_wallet"},
    "source": {"metavar": "CAUSE", "help": "transactions: of one cause, as payout:ID"},
}
PARAMETERS = [str(about.get("dest", name.replace("-", "_"))) for name, about in OPTIONS.items()]
TALK_ROWS = 100_000


class Command(OpsCommand):
    help = (
        "Write a file of what the ledger holds at one moment: the statement of an account (--account), "
        "entries, transactions, balances, or accounts. Amounts are decimals with their currency beside them, "
        "and totals per currency end the file. Instants have an offset, as 2027-03-01T00:00:00Z."
    )

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("what", choices=SOURCES, help="what to write")
        parser.add_argument("--format", choices=ExportFormat.values, default="csv", help="default csv")
        parser.add_argument(
            "--output",
            type=Path,
            metavar="FILE",
            help="the file, replaced when it is whole; without it rows go to standard output (csv and jsonl)",
        )
        for name, about in OPTIONS.items():
            parser.add_argument(f"--{name}", **about)

    def run(self, **options: Any) -> Exit:
        source, output = source_named(f"ledger.{options['what']}"), options["output"]
        if output is not None and not output.parent.is_dir():
            self.say(f"--output: there is no folder {output.parent}.")
            return Exit.USAGE
        if output is not None and output.is_dir():
            self.say(f"--output: {output} is a folder.")
            return Exit.USAGE
        if output is None and (options["format"] == "xlsx" or self.json):
            self.say("--format xlsx and --json need --output FILE.")
            return Exit.USAGE
        given = {name: options[name] for name in PARAMETERS if options[name] is not None}
        try:
            selection = source.selection(given)
            source.check(selection)
        except (Invalid, InvalidInput) as error:
            for fault in error.errors:
                self.say(f"{_option(fault.pointer)}: {fault.detail}")
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


def _option(pointer: str) -> str:
    """The option that stands for the parameter of a pointer."""
    parameter = pointer.rpartition("/")[2]
    return next(f"--{name}" for name, known in zip(OPTIONS, PARAMETERS, strict=True) if known == parameter)


class _Text:
    """Standard output without the line end that the command's wrapper adds to everything."""

    def __init__(self, out: Any) -> None:
        self._out = out

    def write(self, text: str) -> None:
        self._out.write(text, ending="")
