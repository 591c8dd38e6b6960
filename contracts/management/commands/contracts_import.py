"""`manage.py contracts_import`: products or offers from a CSV or JSON file, all of it or none."""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, cast

from commerce import clock
from commerce.errors import FieldError, InvalidInput
from commerce.management.ops import Exit, OpsCommand
from contracts.services.catalog_files import COLUMNS, Format, read_rows
from contracts.services.catalog_import import Imported, import_catalogue


class Command(OpsCommand):
    help = (
        "Add and change products or offers as a file says. Faults are listed with row and column (exit 3), "
        "and then nothing is written; a file that was imported already changes nothing."
    )
    writes = True

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("kind", choices=sorted(COLUMNS))
        parser.add_argument("file", help="a .csv or .json file, or - for standard input")
        parser.add_argument("--format", choices=["csv", "json"], help="by the file's name when left out")
        parser.add_argument("--publish", action="store_true", help="publish new offers and new versions")

    def run(self, **options: Any) -> Exit:
        kind, name = options["kind"], options["file"]
        format_ = options["format"] or Path(name).suffix.lstrip(".").lower()
        if format_ not in ("csv", "json"):
            self.say("Say --format csv or --format json: the file's name does not.")
            return Exit.USAGE
        try:
            content = (sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.say(f"{name} cannot be read: {error}.")
            return Exit.USAGE
        try:
            result = import_catalogue(
                kind=kind,
                rows=read_rows(kind, content, format=cast(Format, format_)),
                actor=self.actor,
                at=clock.now(),
                publish=options["publish"],
            )
        except InvalidInput as error:
            return self._faults(error)
        self.show(result.to_json(), _in_words(result))
        return Exit.DONE

    def _faults(self, error: InvalidInput) -> Exit:
        faults = [_fault(fault) for fault in error.errors]
        lines = [error.detail, *(f"  row {f['row']}, {f['column'] or 'all'}: {f['detail']}" for f in faults)]
        self.show({"code": error.code, "detail": error.detail, "faults": faults}, "\n".join(lines))
        return Exit.FINDINGS


def _fault(fault: FieldError) -> dict[str, Any]:
    row, _, column = fault.pointer.lstrip("/").partition("/")
    return {"row": int(row), "column": column, "code": fault.code, "detail": fault.detail}


def _in_words(result: Imported) -> str:
    counts = ", ".join(f"{count} {what}" for what, count in result.counts.items())
    return "\n".join(
        [
            f"{result.kind}: {counts}",
            *(
                f"  row {change.row}: {change.code} {change.what}"
                + (f" ({', '.join(change.fields)})" if change.fields else "")
                for change in result.changes
                if change.what != "unchanged"
            ),
        ]
    )
