"""`manage.py outbox_archive`: months of events as files, whether those agree, months that leave or return.

What removes or restores runs as the owner of the tables, as `migrate` does.
"""

from argparse import ArgumentParser
from contextlib import nullcontext
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from commerce import clock, roles
from commerce.management.ops import Exit, OpsCommand
from commerce.outbox.models import OutboxArchive
from commerce.outbox.removal import remove_month, restore_month
from commerce.outbox.retention import archive_month, candidates, compare_archive


class Command(OpsCommand):
    help = "Write months of events to files, compare them, remove a month or restore it."
    exclusive = True

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--output", type=Path, required=True, metavar="FOLDER", help="where the files are"
        )
        parser.add_argument("--month", metavar="YYYY-MM", help="this one; else every month that may leave")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--check", action="store_true", help="compare what was written with the outbox")
        what.add_argument("--drop", action="store_true", help="prove the files of --month, then remove it")
        what.add_argument("--restore", action="store_true", help="bring --month back from its files")
        what.add_argument(
            "--dry-run", action="store_true", help="only say which months may leave, or why not"
        )

    def execute(self, *args: Any, **options: Any) -> str | None:
        with roles.owner() if options["drop"] or options["restore"] else nullcontext():
            return super().execute(*args, **options)

    def run(self, **options: Any) -> Exit:
        folder: Path = options["output"]
        if options["check"]:
            return self._check(folder)
        month = None
        if options["month"]:
            try:
                month = date.fromisoformat(f"{options['month']}-01")
            except ValueError:
                self.say(f"{options['month']!r} is not a month such as 2027-03.")
                return Exit.USAGE
        if options["drop"] or options["restore"]:
            if month is None:
                self.say("--month says which one.")
                return Exit.USAGE
            move = remove_month if options["drop"] else restore_month
            return self._moved(move(month=month, folder=folder, actor=self.actor, at=clock.now()))
        if options["dry_run"]:
            return self._look(folder, month)
        return self._write(folder, month)

    def _look(self, folder: Path, month: date | None) -> Exit:
        rows = [row for row in candidates(folder=folder) if month in (None, row.month)]
        self.show(
            [asdict(row) for row in rows],
            "\n".join(
                f"{row.month:%Y-%m}: {row.why_not or ('written' if row.written else 'may be written')}"
                for row in rows
            )
            or "No month is over.",
        )
        return Exit.DONE

    def _write(self, folder: Path, month: date | None) -> Exit:
        if month:
            chosen, refused = [month], ""
        else:
            rows = list(candidates(folder=folder))
            chosen = [row.month for row in rows if not row.why_not and not row.written]
            refused = next((row.why_not for row in rows if row.why_not), "")
        lines = []
        for each in chosen:
            line = archive_month(month=each, folder=folder)
            self.say(f"{line.month}: {line.events:,} events, {line.failures:,} failures")
            lines.append(asdict(line))
        self.show(lines, f"{len(lines)} months written to {folder}.")
        if refused:
            self.say(refused)
        return Exit.REFUSED if refused else Exit.DONE

    def _moved(self, row: OutboxArchive) -> Exit:
        names = ("month", "step", "events", "first_id", "last_id", "events_sha256", "failures", "horizon")
        self.show(
            {name: getattr(row, name) for name in names},
            f"{row.month:%Y-%m}: {row.events:,} events and {row.failures:,} failures {row.step}.",
        )
        return Exit.DONE

    def _check(self, folder: Path) -> Exit:
        findings = [{"file": file, "detail": detail} for file, detail in compare_archive(folder=folder)]
        text = "\n".join(f"{found['file']}: {found['detail']}" for found in findings)
        self.show({"findings": findings}, text or "Every file is what was written and what the outbox says.")
        return Exit.FINDINGS if findings else Exit.DONE
