"""`manage.py ledger_archive`: closed months as files, whether those agree, and months that leave or return.

What removes or restores runs as the owner of the tables, as `migrate` does.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from commerce import clock, roles
from commerce.management.ops import Exit, OpsCommand
from ledger.models import LedgerArchive
from ledger.services import archivable, archive_month, compare_archive, remove_month, restore_month


class Command(OpsCommand):
    help = "Write closed and sealed months of entries to files, compare them, remove a month or restore it."
    exclusive = True

    def arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--before", metavar="YYYY-MM", help="write the months of recording before this one")
        what.add_argument("--check", action="store_true", help="compare what was written with the ledger")
        what.add_argument("--drop", action="store_true", help="prove the file of --month, then remove it")
        what.add_argument("--restore", type=Path, metavar="FILE", help="bring --month back")
        parser.add_argument("--month", metavar="YYYY-MM", help="the month that leaves, or comes back")
        parser.add_argument("--output", type=Path, metavar="FOLDER", help="where the files are")
        parser.add_argument("--dry-run", action="store_true", help="with --before: write nothing")

    def execute(self, *args: Any, **options: Any) -> str | None:
        with roles.owner() if options["drop"] or options["restore"] else nullcontext():
            return super().execute(*args, **options)

    def run(self, **options: Any) -> Exit:
        folder: Path = options["output"] or Path()
        named = options["before"] or options["month"]
        if (options["output"] is None) is not bool(options["restore"]):
            self.say("--output FOLDER says where the files are; --restore names its file.")
            return Exit.USAGE
        if options["check"]:
            return self._check(folder)
        try:
            month = date.fromisoformat(f"{named}-01")
        except ValueError:
            self.say(f"{named!r} is not a month such as 2027-03.")
            return Exit.USAGE
        if path := options["restore"]:
            return self._moved([restore_month(month=month, path=path, actor=self.actor, at=clock.now())])
        if options["drop"]:
            return self._moved(remove_month(month=month, folder=folder, actor=self.actor, at=clock.now()))
        return self._write(month, folder, only_look=options["dry_run"])

    def _moved(self, rows: Sequence[LedgerArchive]) -> Exit:
        names = ("month", "step", "file", "sha256", "entries", "transactions", "horizon")
        self.show(
            [{name: getattr(row, name) for name in names} for row in rows],
            "\n".join(f"{row.month:%Y-%m}: {row.entries:,} entries {row.step}." for row in rows),
        )
        return Exit.DONE

    def _write(self, before: date, folder: Path, *, only_look: bool) -> Exit:
        months = list(archivable(before=before, folder=folder))
        if only_look:
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
