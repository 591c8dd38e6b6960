"""What `manage.py verify` asks of the ledger: it balances, nobody is overdrawn, sums agree with entries.

Each check is one statement that returns only what is wrong, at most a hundred rows of it.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.db import connection

from commerce import clock
from commerce.invariants import Finding, invariant
from ledger.models import LedgerRelease
from ledger.rules.kinds import Kind

OVERDUE = timedelta(days=1)


@invariant("I1", "The whole ledger sums to zero per currency")
def whole_ledger_balances() -> Iterator[Finding]:
    for currency, off in _rows(
        """SELECT a.currency, sum(b.posted) FROM ledger_ledgerbalance b
           JOIN ledger_ledgeraccount a ON a.id = b.account_id
           GROUP BY a.currency HAVING sum(b.posted) <> 0"""
    ):
        yield Finding(f"currency:{currency}", f"All {currency} accounts together are off by {off}.")


@invariant("I1", "Every transaction sums to zero per currency")
def transactions_balance() -> Iterator[Finding]:
    for transaction, currency, off in _rows(
        """SELECT transaction_id, currency, sum(amount) FROM ledger_ledgerentry
           GROUP BY transaction_id, currency HAVING sum(amount) <> 0 LIMIT 100"""
    ):
        yield Finding(f"transaction:{transaction}", f"The entries are off by {off} in {currency}.")
    for (transaction,) in _rows(
        """SELECT t.id FROM ledger_ledgertransaction t
           WHERE t.status = 'posted'
             AND NOT EXISTS (SELECT 1 FROM ledger_ledgerentry e WHERE e.transaction_id = t.id) LIMIT 100"""
    ):
        yield Finding(f"transaction:{transaction}", "It is posted and has no entries.")


@invariant("I2", "No wallet or payee account is below its floor")
def nobody_overdrawn() -> Iterator[Finding]:
    floored = [str(kind) for kind in Kind if kind.nature.floor is not None]
    for account, kind, available, floor in _rows(
        """SELECT a.id, a.kind, b.posted - b.held_dr, b.floor FROM ledger_ledgerbalance b
           JOIN ledger_ledgeraccount a ON a.id = b.account_id
           WHERE b.posted - b.held_dr < b.floor OR (b.floor IS NULL AND a.kind = ANY (%s)) LIMIT 100""",
        [floored],
    ):
        what = f"holds {available}, floor {floor}" if floor is not None else "has lost its floor"
        yield Finding(f"account:{account}", f"{kind} {what}.")


@invariant("I7", "A balance is the sum of its entries and holds")
def balances_are_sums() -> Iterator[Finding]:
    for account, stripe, posted, entries in _rows(
        """SELECT b.account_id, b.stripe, b.posted, COALESCE(e.amount, 0) FROM ledger_ledgerbalance b
           LEFT JOIN (SELECT account_id, stripe, sum(amount) AS amount, count(*) AS entries
                        FROM ledger_ledgerentry GROUP BY 1, 2) e USING (account_id, stripe)
           WHERE b.posted <> COALESCE(e.amount, 0) OR b.version <> COALESCE(e.entries, 0) LIMIT 100"""
    ):
        yield Finding(
            f"account:{account}", f"Stripe {stripe} of the balance says {posted}, its entries {entries}."
        )
    for account, stripe, held_dr, held_cr in _rows(
        """SELECT b.account_id, b.stripe, b.held_dr, b.held_cr FROM ledger_ledgerbalance b
           LEFT JOIN (SELECT h.account_id, h.stripe, sum(greatest(-h.amount, 0)) AS dr,
                             sum(greatest(h.amount, 0)) AS cr
                        FROM ledger_ledgerhold h
                       WHERE NOT EXISTS (SELECT 1 FROM ledger_ledgertransaction t
                                          WHERE t.resolves_id = h.transaction_id)
                       GROUP BY 1, 2) h USING (account_id, stripe)
           WHERE (b.held_dr, b.held_cr) <> (COALESCE(h.dr, 0), COALESCE(h.cr, 0)) LIMIT 100"""
    ):
        yield Finding(
            f"account:{account}",
            f"Stripe {stripe} holds {held_dr} and {held_cr}; the pending transactions differ.",
        )


@invariant("I7", "Each entry's balance follows from the one before it")
def running_balances_follow() -> Iterator[Finding]:
    for account, stripe, version in _rows(
        """SELECT account_id, stripe, version FROM (
             SELECT account_id, stripe, version, balance_after,
                    amount + lag(balance_after, 1, 0::bigint) OVER w AS expected,
                    row_number() OVER w AS place
               FROM ledger_ledgerentry
             WINDOW w AS (PARTITION BY account_id, stripe ORDER BY recorded_at, version)) e
           WHERE balance_after <> expected OR version <> place LIMIT 100"""
    ):
        yield Finding(
            f"entry:{account}/{stripe}#{version}",
            "Its number or its balance does not follow from the entry before.",
        )


@invariant("I5", "Money that has seasoned is released, or somebody holds it")
def overdue_releases() -> Iterator[Finding]:
    overdue = LedgerRelease.objects.filter(
        status=LedgerRelease.Status.SCHEDULED, due_at__lt=clock.now() - OVERDUE
    )
    for row in overdue.order_by("due_at")[:100]:
        yield Finding(f"release:{row.pk}", f"{row.amount} was due at {row.due_at.isoformat()}.")


def _rows(sql: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()
