"""What must be true of billing at any time: journeys have a next step, pockets agree with the ledger.

Each check is one statement that returns only what is wrong, at most a hundred rows of it.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from django.db import connection

from commerce import clock
from commerce.invariants import Finding, invariant

LAST_INVOICE = timedelta(days=3)


def _findings(sql: str, table: str, sentence: str, arguments: Sequence[Any] = ()) -> Iterator[Finding]:
    with connection.cursor() as cursor:
        cursor.execute(sql + " LIMIT 100", arguments)
        names = [column.name for column in cursor.description or []]
        for row in cursor.fetchall():
            facts = dict(zip(names, row, strict=True))
            yield Finding(
                f"{table}:{facts['id']}", sentence.format(**facts), {k: str(v) for k, v in facts.items()}
            )


@invariant("I7", "What contracts have set aside equals the wallets' committed accounts")
def set_aside_agrees() -> Iterator[Finding]:
    yield from _findings(
        """SELECT COALESCE(w.owner_id, a.buyer_id) AS id, COALESCE(w.currency, a.currency) AS currency,
                  COALESCE(w.kind, a.kind) AS kind,
                  COALESCE(w.posted, 0) AS wallet, COALESCE(a.wanted, 0) AS accounts
           FROM (SELECT l.owner_id, l.currency, l.kind, b.posted FROM ledger_ledgeraccount l
                 JOIN ledger_ledgerbalance b ON b.account_id = l.id
                 WHERE l.kind IN ('COMMITTED', 'COMMITTED_DOWNPAYMENT')) w
           FULL JOIN (
             SELECT buyer_id, currency, 'COMMITTED' AS kind, sum(committed_minor) AS wanted
             FROM billing_billingaccount GROUP BY 1, 2
             UNION ALL
             SELECT buyer_id, currency, 'COMMITTED_DOWNPAYMENT', sum(downpayment_minor)
             FROM billing_billingaccount GROUP BY 1, 2) a
           ON a.buyer_id = w.owner_id AND a.currency = w.currency AND a.kind = w.kind
           WHERE COALESCE(w.posted, 0) <> COALESCE(a.wanted, 0)""",
        "parties_organization",
        "{kind} holds {wallet} minor units of {currency}, but the contracts have set aside {accounts}.",
    )


@invariant("I7", "An invoice's totals are the sums of its lines")
def invoice_totals_agree() -> Iterator[Finding]:
    yield from _findings(
        """SELECT i.id, i.number, i.net_minor, i.tax_minor, l.net, l.tax FROM billing_invoice i
           CROSS JOIN LATERAL (SELECT COALESCE(sum(net_minor), 0) AS net, COALESCE(sum(tax_minor), 0) AS tax
                               FROM billing_invoiceline WHERE invoice_id = i.id) l
           WHERE i.verified_at IS NOT NULL AND (i.net_minor, i.tax_minor) <> (l.net, l.tax)""",
        "billing_invoice",
        "{number} says {net_minor} and {tax_minor} of tax, its lines {net} and {tax}.",
    )


@invariant("I7", "A paid invoice was collected by a posting of its total")
def paid_invoices_are_posted() -> Iterator[Finding]:
    yield from _findings(
        """SELECT i.id, i.number, i.total_minor, COALESCE(p.debited, 0) AS debited FROM billing_invoice i
           LEFT JOIN LATERAL (SELECT -sum(amount) AS debited FROM ledger_ledgerentry e
                              WHERE e.transaction_id = i.transaction_id AND e.amount < 0) p ON true
           LEFT JOIN ledger_ledgertransaction t ON t.id = i.transaction_id
           WHERE i.status = 'paid' AND i.total_minor <> COALESCE(p.debited, 0)
             AND (t.id IS NULL OR t.recorded_at >= ledger_horizon())""",
        "billing_invoice",
        "{number} is paid with {total_minor}, but its posting took {debited} from the wallet.",
    )


@invariant("I7", "Money that came in was posted with its amount")
def pay_ins_are_posted() -> Iterator[Finding]:
    yield from _findings(
        """SELECT p.id, p.status, p.amount_minor, COALESCE(e.credited, 0) AS credited FROM billing_payin p
           LEFT JOIN LATERAL (SELECT sum(amount) AS credited FROM ledger_ledgerentry
                              WHERE transaction_id = p.transaction_id AND amount > 0) e ON true
           LEFT JOIN ledger_ledgertransaction t ON t.id = p.transaction_id
           WHERE p.status IN ('completed', 'returned') AND p.amount_minor <> COALESCE(e.credited, 0)
             AND (t.id IS NULL OR t.recorded_at >= ledger_horizon())""",
        "billing_payin",
        "It is {status} with {amount_minor} minor units, and its posting credited {credited}.",
    )


@invariant("I7", "Invoice numbers have no gaps")
def numbers_have_no_gaps() -> Iterator[Finding]:
    yield from _findings(
        """SELECT n.name AS id, n.last, count(i.id) AS given FROM billing_numberseries n
           LEFT JOIN billing_invoice i ON starts_with(i.number, n.name || '-')
           GROUP BY n.name HAVING n.last <> count(i.id)""",
        "billing_numberseries",
        "The last number is {last}, and {given} invoices carry one.",
    )


@invariant("I5", "An unpaid invoice has an account that the clock or a payment will look at")
def unpaid_invoices_have_a_future() -> Iterator[Finding]:
    yield from _findings(
        """SELECT i.id, i.number, a.billing_status FROM billing_invoice i
           JOIN billing_billingaccount a ON a.id = i.account_id
           WHERE i.status IN ('issued', 'partially_paid', 'overdue') AND a.next_check_at IS NULL
             AND a.billing_status <> 'collections'""",
        "billing_invoice",
        "{number} is unpaid while its account is {billing_status} and nothing will look at it again.",
    )


@invariant("I5", "A draft that differs from the contract is in somebody's queue")
def differing_drafts_are_in_review() -> Iterator[Finding]:
    yield from _findings(
        """SELECT i.id, i.provider_id FROM billing_invoice i
           WHERE i.status = 'draft' AND i.verified_at IS NULL AND i.differences <> '[]'::jsonb
             AND NOT EXISTS (SELECT 1 FROM console_reviewitem r WHERE r.kind = 'invoice_difference'
                             AND r.subject_id = i.id::text AND r.status <> 'resolved')""",
        "billing_invoice",
        "OpenMeter's invoice {provider_id} differs from the contract and nobody is asked about it.",
    )


@invariant("I5", "A contract that has ended gets its last invoice, or is settled")
def ended_contracts_are_settled() -> Iterator[Finding]:
    yield from _findings(
        """SELECT a.id, c.number, c.status FROM billing_billingaccount a
           JOIN contracts_contract c ON c.id = a.contract_id
           WHERE a.billing_status IN ('not_billing', 'current') AND c.end_at < %s
             AND c.status IN ('terminated', 'expired', 'cancelled')
             AND NOT EXISTS (SELECT 1 FROM billing_invoice i
                             WHERE i.account_id = a.id AND i.status = 'draft')""",
        "billing_billingaccount",
        "{number} is {status} for days, and neither settled nor on an invoice that is under way.",
        [clock.now() - LAST_INVOICE],
    )
