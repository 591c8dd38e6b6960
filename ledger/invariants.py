"""What `manage.py verify` asks of the ledger: its checks on what was recorded lately, and what is overdue.

`ledger_verify --full` asks the same of everything.
"""

from collections.abc import Iterator
from datetime import timedelta

from commerce import clock
from commerce.invariants import Check as Ask
from commerce.invariants import Finding, invariant
from ledger.models import LedgerRelease
from ledger.services.checks import CHECKS, Check
from ledger.services.verification import LedgerFinding, check_recent, check_recent_seals

OVERDUE = timedelta(days=1)


def _finding(found: LedgerFinding) -> Finding:
    return Finding(found.subject, found.detail, {"type": found.type})


def _asking(check: Check) -> Ask:
    def ask() -> Iterator[Finding]:
        yield from map(_finding, check_recent(check))

    return ask


for _check in CHECKS:
    invariant(_check.code, _check.title)(_asking(_check))


@invariant("I10", "What is sealed is as it was sealed")
def sealed_rows_are_unchanged() -> Iterator[Finding]:
    yield from map(_finding, check_recent_seals())


@invariant("I5", "Money that has seasoned is released, or somebody holds it")
def overdue_releases() -> Iterator[Finding]:
    overdue = LedgerRelease.objects.filter(
        status=LedgerRelease.Status.SCHEDULED, due_at__lt=clock.now() - OVERDUE
    )
    for row in overdue.order_by("due_at")[:100]:
        yield Finding(f"release:{row.pk}", f"{row.amount} was due at {row.due_at.isoformat()}.")
