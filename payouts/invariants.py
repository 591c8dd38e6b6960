"""What `manage.py verify` asks of payouts: shares add up, the ledger agrees, and nothing is forgotten.

Each check is one statement, so that it sees one instant, and returns at most a hundred findings.
"""

from collections.abc import Iterator
from typing import Any

from django.db import connection

from commerce.invariants import Finding, invariant
from payouts.rules.splits import settlement_status

_BALANCE = """
  SELECT a.owner_id AS payee_id, a.currency, b.posted
    FROM ledger_ledgeraccount a JOIN ledger_ledgerbalance b ON b.account_id = a.id WHERE a.kind = %s"""
_OPEN_LEGS = """
  SELECT l.id, l.payee_id, l.currency, l.amount_minor - COALESCE(sum(i.amount_minor), 0) AS open_minor
    FROM payouts_settlementleg l
    LEFT JOIN (payouts_payoutitem i
               JOIN payouts_payout p ON p.id = i.payout_id
                AND p.status NOT IN ('failed', 'returned', 'cancelled')) ON i.leg_id = l.id
   WHERE l.status = 'released' AND l.kind IN ('partner', 'seller') GROUP BY l.id"""


@invariant("I7", "A settlement's legs add up to its invoice")
def legs_add_up() -> Iterator[Finding]:
    for id_, total, found in _rows(
        """SELECT s.id, s.total_minor, COALESCE(sum(l.amount_minor), 0) FROM payouts_settlement s
           LEFT JOIN payouts_settlementleg l ON l.settlement_id = s.id
           GROUP BY s.id HAVING s.total_minor <> COALESCE(sum(l.amount_minor), 0) LIMIT 100"""
    ):
        yield Finding(f"settlement:{id_}", f"Its legs sum to {found}, the invoice is {total}.")


@invariant("I7", "A settlement stands where its legs stand")
def settlements_follow_their_legs() -> Iterator[Finding]:
    for status, legs, example in _rows(
        """SELECT status, legs, min(id::text) FROM (
             SELECT s.id, s.status, array_agg(DISTINCT l.leg ORDER BY l.leg) AS legs
               FROM payouts_settlement s
               JOIN (SELECT settlement_id, kind || ':' || status AS leg FROM payouts_settlementleg) l
                 ON l.settlement_id = s.id
              GROUP BY s.id) found
           GROUP BY status, legs LIMIT 10000"""
    ):
        expected = settlement_status(leg.split(":") for leg in legs)
        if status != expected:
            yield Finding(f"settlement:{example}", f"It is {status}; its legs make it {expected}.")


@invariant("I7", "Payouts under way are what the ledger has in transit")
def payouts_are_in_transit() -> Iterator[Finding]:
    for payee, currency, posted, under_way in _rows(
        f"""SELECT COALESCE(b.payee_id, p.payee_id), COALESCE(b.currency, p.currency),
                   COALESCE(b.posted, 0), COALESCE(p.under_way, 0)
              FROM ({_BALANCE}) b
              FULL JOIN (SELECT payee_id, currency, sum(amount_minor) AS under_way FROM payouts_payout
                          WHERE status NOT IN ('paid', 'failed', 'returned', 'cancelled')
                          GROUP BY payee_id, currency) p USING (payee_id, currency)
             WHERE COALESCE(b.posted, 0) <> COALESCE(p.under_way, 0) LIMIT 100""",  # noqa: S608
        ["PAYOUT_IN_TRANSIT"],
    ):
        yield Finding(
            f"organization:{payee}",
            f"Payouts of {under_way} {currency} are under way, {posted} is in transit in the ledger.",
        )


@invariant("I7", "What released legs still await is payable in the ledger")
def released_legs_are_payable() -> Iterator[Finding]:
    for payee, currency, awaited, posted in _rows(
        f"""SELECT l.payee_id, l.currency, sum(l.open_minor), COALESCE(max(b.posted), 0)
              FROM ({_OPEN_LEGS}) l LEFT JOIN ({_BALANCE}) b USING (payee_id, currency)
             GROUP BY l.payee_id, l.currency
            HAVING sum(l.open_minor) > COALESCE(max(b.posted), 0) LIMIT 100""",  # noqa: S608
        ["PAYABLE"],
    ):
        yield Finding(
            f"organization:{payee}", f"Legs await {awaited} {currency}, of which only {posted} is payable."
        )


@invariant("I7", "What seasons is in holding")
def seasoning_legs_are_held() -> Iterator[Finding]:
    for payee, currency, seasoning, posted in _rows(
        f"""SELECT l.payee_id, l.currency, sum(l.amount_minor), COALESCE(max(b.posted), 0)
              FROM payouts_settlementleg l
              JOIN ledger_ledgerrelease r ON r.id = l.release_id AND r.status IN ('scheduled', 'held')
              LEFT JOIN ({_BALANCE}) b ON (b.payee_id, b.currency) = (l.payee_id, l.currency)
             GROUP BY l.payee_id, l.currency
            HAVING sum(l.amount_minor) > COALESCE(max(b.posted), 0) LIMIT 100""",  # noqa: S608
        ["PAY_IN_HOLDING"],
    ):
        yield Finding(
            f"organization:{payee}", f"{seasoning} {currency} is seasoning, only {posted} is in holding."
        )


@invariant("I7", "A payout pays its legs no more than it is worth, and no leg more than it is owed")
def items_fit() -> Iterator[Finding]:
    for payout, amount, items in _rows(
        """SELECT p.id, p.amount_minor, sum(i.amount_minor) FROM payouts_payout p
           JOIN payouts_payoutitem i ON i.payout_id = p.id
           GROUP BY p.id HAVING sum(i.amount_minor) > p.amount_minor LIMIT 100"""
    ):
        yield Finding(f"payout:{payout}", f"Its items sum to {items}, it pays {amount}.")
    for leg, open_minor in _rows(f"SELECT id, open_minor FROM ({_OPEN_LEGS}) l WHERE open_minor < 0"):  # noqa: S608
        yield Finding(f"settlement_leg:{leg}", f"It is paid {-open_minor} more than it is owed.")


@invariant("I5", "An approved payout is on its way to the bank")
def approved_payouts_are_sent() -> Iterator[Finding]:
    for (payout,) in _rows(
        """SELECT p.id FROM payouts_payout p WHERE p.status = 'approved' AND NOT EXISTS (
             SELECT 1 FROM outbox_outboxstream s
              WHERE s.aggregate_type = 'payout' AND s.aggregate_id = p.id::text
                AND s."group" = 'payouts.modern_treasury'
                AND (s.due_at IS NOT NULL OR s.parked_at IS NOT NULL)) LIMIT 100"""
    ):
        yield Finding(f"payout:{payout}", "It is approved and nothing will send it.")


@invariant("I5", "A seasoning leg has a release to come")
def seasoning_legs_will_be_released() -> Iterator[Finding]:
    for leg, release in _rows(
        """SELECT l.id, r.status
             FROM payouts_settlementleg l JOIN ledger_ledgerrelease r ON r.id = l.release_id
            WHERE l.status = 'seasoning' AND r.status <> 'scheduled' AND NOT EXISTS (
             SELECT 1 FROM outbox_outboxstream s
              WHERE s.aggregate_type = 'ledger_release' AND s.aggregate_id = r.id::text
                AND s."group" = 'payouts.settlement'
                AND (s.due_at IS NOT NULL OR s.parked_at IS NOT NULL)) LIMIT 100"""
    ):
        yield Finding(f"settlement_leg:{leg}", f"It is seasoning, its release is {release}.")


@invariant("I5", "Released money of an automatic payee leaves, or somebody knows why not")
def released_money_leaves() -> Iterator[Finding]:
    for payee, currency, waiting in _rows(
        f"""SELECT l.payee_id, l.currency, sum(l.open_minor)
              FROM ({_OPEN_LEGS}) l JOIN payouts_payeepolicy y ON y.organization_id = l.payee_id
             WHERE l.open_minor > 0 AND y.mode = 'automatic' AND y.due_at IS NULL
               AND y.blocked_account_id IS NULL AND NOT EXISTS (
                 SELECT 1 FROM payouts_payout p JOIN console_reviewitem r
                     ON r.subject_type = 'payouts.payout' AND r.subject_id = p.id::text
                    AND r.status <> 'resolved'
                  WHERE p.payee_id = l.payee_id AND p.currency = l.currency)
             GROUP BY l.payee_id, l.currency, y.minimum_minor
            HAVING sum(l.open_minor) >= y.minimum_minor LIMIT 100"""  # noqa: S608
    ):
        yield Finding(f"organization:{payee}", f"{waiting} {currency} is payable and nothing will pay it.")


def _rows(sql: str, arguments: list[Any] | None = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, arguments or [])
        return cursor.fetchall()
