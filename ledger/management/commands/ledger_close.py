"""`manage.py ledger_close YYYY-MM`: close an accounting period, or ask for it to be opened again."""

import time
from argparse import ArgumentParser
from datetime import date
from typing import Any

from commerce import clock
from commerce.errors import Busy, NotFound
from commerce.management.ops import Exit, OpsCommand
from ledger import services
from ledger.models import LedgerPeriod

FIRST, LAST = date(1900, 1, 1), date(9999, 1, 1)
WAIT_SECONDS = 60
LOOK_AGAIN_SECONDS = 0.5


class Command(OpsCommand):
    help = (
        "Close a month of the ledger: what is posted for it from then on goes to the first open month, and "
        "what every account opened, moved and closed with is proved and kept. Months are closed in order, "
        "once they are over."
    )
    exclusive = True

    def arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("month", metavar="YYYY-MM", help="the month by business time (UTC), e.g. 2027-03")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="show what the month moved and what is not settled yet; change nothing",
        )
        parser.add_argument(
            "--wait",
            type=float,
            default=WAIT_SECONDS,
            metavar="SECONDS",
            help="how long to wait for postings on their way and for the seal; after that the system goes "
            f"on by itself (default {WAIT_SECONDS})",
        )
        parser.add_argument(
            "--reopen",
            action="store_true",
            help="request instead that the latest closed month is opened again; a second person approves it",
        )
        parser.add_argument("--reason", default="", help="with --reopen, which needs it: why")

    def run(self, **options: Any) -> Exit:
        try:
            month = date.fromisoformat(f"{options['month']}-01")
        except ValueError:
            month = date.max
        if not FIRST <= month < LAST:
            self.say(f"{options['month']!r} is not a month such as 2027-03.")
            return Exit.USAGE
        if options["reopen"] is not bool(options["reason"].strip()):
            self.say("--reopen and --reason go together: say why the month is to be opened again.")
            return Exit.USAGE
        if options["wait"] < 0:
            self.say("--wait is a number of seconds, 0 or more.")
            return Exit.USAGE
        if options["reopen"]:
            return self._ask(month, options["reason"])
        if options["dry_run"]:
            seen = services.outlook(month=month, at=clock.now())
            self._show(seen)
            return Exit.REFUSED if seen.why_not else Exit.DONE
        period = LedgerPeriod.objects.filter(starts_on=month, status=LedgerPeriod.Status.CLOSING).first()
        period = period or services.begin_closing(month=month, actor=self.actor, at=clock.now())
        return self._finish(period, options["wait"])

    def _finish(self, period: LedgerPeriod, seconds: float) -> Exit:
        give_up = time.monotonic() + seconds
        while True:
            try:
                services.finish_closing(period=period, actor=self.actor, at=clock.now())
            except Busy as error:
                if time.monotonic() >= give_up:
                    self.say(f"{error} The system goes on with it by itself.")
                    return Exit.PARTIAL
                time.sleep(LOOK_AGAIN_SECONDS)
                if LedgerPeriod.objects.get(pk=period.pk).status == LedgerPeriod.Status.CLOSING:
                    continue
            accounts = period.balances.count()
            self.show(
                {"period": period.starts_on, "accounts": accounts},
                f"{period} is closed; the balances of {accounts:,} accounts are kept.",
            )
            return Exit.DONE

    def _ask(self, month: date, reason: str) -> Exit:
        period = LedgerPeriod.objects.filter(starts_on=month).first()
        if period is None:
            raise NotFound(f"{month:%B %Y} was never closed.")
        asked = services.request_reopening(period=period, actor=self.actor, at=clock.now(), reason=reason)
        self.show(
            {"period": month, "approval_id": asked.pk},
            f"{period} is opened again when a second person approves it ({asked.pk}).",
        )
        return Exit.DONE

    def _show(self, seen: services.Outlook) -> None:
        lines = [f"{seen.starts_on:%B %Y}: {seen.why_not or 'can be closed'}"]
        lines += [
            f"  debit {moved.debit}, credit {moved.credit} on {moved.accounts:,} accounts"
            for moved in seen.moved
        ]
        values = "".join(f", {value}" for value in seen.unreleased_value)
        lines += [
            f"  {seen.pending:,} pending transactions: their posting has its own instant",
            f"  {seen.unreleased:,} releases due in it are not released{values}",
            f"  {seen.reviews:,} review items opened before its end are unresolved",
        ]
        data = {
            "period": seen.starts_on,
            "why_not": seen.why_not,
            "moved": [
                {
                    "currency": moved.debit.currency,
                    "accounts": moved.accounts,
                    "debit_minor": moved.debit.minor,
                    "credit_minor": moved.credit.minor,
                }
                for moved in seen.moved
            ],
            "pending": seen.pending,
            "unreleased": seen.unreleased,
            "reviews": seen.reviews,
        }
        self.show(data, "\n".join(lines))
