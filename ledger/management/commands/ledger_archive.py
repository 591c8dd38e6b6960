"""`manage.py ledger_archive`: closed months of entries as files, and whether the files still agree."""

from argparse import ArgumentParser
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from commerce.management.ops import Exit, OpsCommand
from ledger.services import archivable, archive_month, compare_archive


class Command(OpsCommand):
    help = "Write closed and sealed months of entries to files, or compare the files with the ledger."
    exclusive = True

    def arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--before", metavar="YYYY-MM", help="months of recording before this one")
        what.add_argument("--check", action="store_true", help="compare what was written with the ledger")
        parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
        parser.add_argument("--dry-run", action="store_true", help="show the months, write nothing")

    def run(self, **options: Any) -> Exit:
        folder: Path = options["output"]
        if options["check"]:
            return self._check(folder)
        try:
            before = date.fromisoformat(f"{options['before']}-01")
        except ValueError:
            self.say(f"{options['before']!r} is not a month such as 2027-03.")
            return Exit.USAGE
        months = list(archivable(before=before, folder=folder))
        if options["dry_run"]:
            self.show(
                [asdict(row) for row in months],
                "\n".join(
                    f"{row.month:%Y-%m}: {'written' if row.written else row.why_not or 'can be written'}"
                    for row in months
                ),
            )
            return Exit.DONE
        lines, refused = [], ""
        for row in months:
            if row.written:
                continue
            if row.why_not:
                refused = row.why_not
                break
            line = archive_month(month=row.month, folder=folder)
            self.say(f"{line.month}: {line.entries:,} entries")
            lines.append(asdict(line))
        self.show(lines, f"{len(lines)} months written to {folder}.")
        if refused:
            self.say(refused)
        return Exit.REFUSED if refused else Exit.DONE

    def _check(self, folder: Path) -> Exit:
        findings = [{"file": file, "detail": detail} for file, detail in compare_archive(folder=folder)]
        text = "\n".join(f"{found['file']}: {found['detail']}" for found in findings)
        self.show({"findings": findings}, text or "Every file is what was written and what the ledger says.")
        return Exit.FINDINGS if findings else Exit.DONE
