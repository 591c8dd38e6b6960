"""Reports over many accounts or over time: the trial balance, and why a balance changed.

Each report is one statement, so that its figures are of one moment and agree with each other while
others post.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection

from commerce.errors import InvalidInput
from commerce.money import Money
from ledger.models import LedgerAccount, LedgerTransaction
from ledger.rules.kinds import AccountClass, Kind, Side
from ledger.services.horizon import answered, require_entries_since

GROUPINGS: dict[str, tuple[str, str]] = {
    "kind": ("a.kind", "a.kind"),
    "class": ("a.account_class", "a.account_class"),
    "owner": ("a.owner_id::text", "min(o.name)"),
    "account": ("a.id::text", "min(o.name) || ' · ' || min(a.kind)"),
}
LOOKED_AT = 5_000
_DEBIT_CLASSES = (AccountClass.ASSET, AccountClass.EXPENSE)
_TRIAL = """
SELECT {key} AS key, {label} AS label, a.currency, count(*), min(a.account_class), min(a.normal),
       sum(greatest(-b.balance, 0))::bigint, sum(greatest(b.balance, 0))::bigint
  FROM ledger_balances_at(%(at)s, %(known_at)s) b
  JOIN ledger_ledgeraccount a ON a.id = b.account_id
  JOIN parties_organization o ON o.id = a.owner_id
 WHERE (%(currency)s::text IS NULL OR a.currency = %(currency)s)
   AND (%(owner)s::uuid IS NULL OR a.owner_id = %(owner)s)
 GROUP BY 1, a.currency HAVING sum(abs(b.balance)) > 0
 ORDER BY a.currency, min(a.account_class), 2, 1
"""
# Whole days come from their sums, and from the entries what no seal covers yet.
_BY_DAY = """
SELECT a.currency, m.day, sum(m.debit)::bigint, sum(m.credit)::bigint
  FROM ledger_ledgeraccount a
 CROSS JOIN (SELECT COALESCE(max(until), '-infinity') AS until FROM ledger_ledgerseal) s
 CROSS JOIN LATERAL (
   SELECT d.day, d.debit, d.credit FROM ledger_ledgerday d
    WHERE d.account_id = a.id AND d.day BETWEEN %(first)s AND %(last)s
    UNION ALL
   SELECT (e.effective_at AT TIME ZONE 'UTC')::date, greatest(-e.amount, 0), greatest(e.amount, 0)
     FROM ledger_ledgerbalance b
     JOIN ledger_ledgerentry e ON e.account_id = b.account_id AND e.stripe = b.stripe
                              AND e.recorded_at > s.until
    WHERE b.account_id = a.id AND b.recorded_at > s.until
      AND (e.effective_at AT TIME ZONE 'UTC')::date BETWEEN %(first)s AND %(last)s) m
 WHERE a.kind = %(kind)s
 GROUP BY a.currency, m.day ORDER BY a.currency, m.day
"""
_EXPLAIN = """
WITH newest AS MATERIALIZED (
  SELECT e.transaction_id, e.recorded_at, e.effective_at FROM ledger_ledgerentry e
   WHERE e.account_id = %(account)s AND e.effective_at >= %(since)s
     AND e.effective_at < COALESCE(%(until)s::timestamptz, 'infinity')
   ORDER BY e.effective_at DESC, e.recorded_at DESC LIMIT %(most)s),
-- All legs of these transactions: those of the other accounts sum to what moved here, with the other sign.
legs AS MATERIALIZED (
  SELECT e.transaction_id, e.account_id, e.amount
    FROM (SELECT DISTINCT n.transaction_id, n.recorded_at FROM newest n) n
    JOIN ledger_ledgerentry e ON e.transaction_id = n.transaction_id AND e.recorded_at = n.recorded_at
   WHERE e.currency = %(currency)s),
moved AS MATERIALIZED (
  SELECT l.transaction_id, sum(l.amount)::bigint AS amount,
         sum(greatest(-l.amount, 0))::bigint AS debit, sum(greatest(l.amount, 0))::bigint AS credit
    FROM legs l WHERE l.account_id = %(account)s GROUP BY 1)
SELECT 'opening', '', 0::bigint, 0::bigint, ledger_balance(%(account)s, %(before)s), 0::bigint
UNION ALL SELECT 'closing', '', 0, 0, ledger_balance(%(account)s, %(last)s), 0
UNION ALL SELECT 'newest', min(n.effective_at)::text, 0, 0, 0, count(*) FROM newest n
UNION ALL (
  SELECT 'recipe', t.recipe, sum(m.debit)::bigint, sum(m.credit)::bigint, sum(m.amount)::bigint, count(*)
    FROM moved m JOIN ledger_ledgertransaction t ON t.id = m.transaction_id
   GROUP BY t.recipe ORDER BY abs(sum(m.amount)) DESC, 2)
UNION ALL (
  SELECT 'counter', a.kind, sum(greatest(l.amount, 0))::bigint, sum(greatest(-l.amount, 0))::bigint,
         -sum(l.amount)::bigint, count(DISTINCT l.transaction_id)
    FROM legs l JOIN ledger_ledgeraccount a ON a.id = l.account_id
   WHERE l.account_id <> %(account)s
   GROUP BY a.kind ORDER BY abs(sum(l.amount)) DESC, 2)
UNION ALL (
  SELECT 'largest', m.transaction_id::text, m.debit, m.credit, m.amount, 1
    FROM moved m ORDER BY abs(m.amount) DESC, m.transaction_id LIMIT %(limit)s)
"""


@dataclass(frozen=True)
class TrialRow:
    """A group of accounts of one currency: the sums of those in debit and of those in credit.

    `balance` is counted on the group's normal side; of an owner, whose accounts are of both, it is
    credit positive: what the platform owes them.
    """

    key: str
    label: str
    currency: str
    accounts: int
    debit: Money
    credit: Money
    balance: Money


@dataclass(frozen=True)
class TrialTotal:
    debit: Money
    credit: Money

    @property
    def balances(self) -> bool:
        return self.debit == self.credit


@dataclass(frozen=True)
class TrialBalance:
    """`totals` has one line per currency; debit equals credit unless only one owner was asked for."""

    rows: Sequence[TrialRow]
    totals: Sequence[TrialTotal]


@dataclass(frozen=True)
class DayMoved:
    """What one day of business time moved on all accounts of a kind, in one currency."""

    day: date
    debit: Money
    credit: Money


@dataclass(frozen=True)
class Part:
    """What one recipe, or the accounts of one kind, did to a balance, in its normal side's sense."""

    key: str
    label: str
    transactions: int
    debit: Money
    credit: Money
    change: Money


@dataclass(frozen=True)
class Movement:
    transaction: LedgerTransaction
    debit: Money
    credit: Money
    change: Money


@dataclass(frozen=True)
class Explanation:
    """Why an account went from `opening` to `closing`: with `earlier`, both lists of parts sum to the change.

    Of a time with more than `LOOKED_AT` entries only the newest are looked at, from `looked_from` on;
    `earlier` is what moved before them, and no part of the lists.
    """

    account: LedgerAccount
    opening: Money
    closing: Money
    looked_from: datetime | None
    earlier: Money
    by_recipe: Sequence[Part]
    by_counter: Sequence[Part]
    largest: Sequence[Movement]

    @property
    def change(self) -> Money:
        return self.closing - self.opening


def trial_balance(
    *,
    at: datetime | None = None,
    known_at: datetime | None = None,
    by: str = "kind",
    currency: str | None = None,
    owner: UUID | None = None,
) -> TrialBalance:
    """All balances, now or at an instant, on the side where they stand, summed by group.

    The cost is what moved since the last closed period, whatever was posted before it.
    """
    if by not in GROUPINGS:
        raise InvalidInput(
            f"A trial balance is grouped by {', '.join(GROUPINGS)}.", pointer="/by", code="invalid_choice"
        )
    _require_offset(at=at, known_at=known_at)
    key, label = GROUPINGS[by]
    arguments: dict[str, Any] = {"at": at, "known_at": known_at, "currency": currency, "owner": owner}
    with answered(), connection.cursor() as cursor:
        cursor.execute(_TRIAL.format(key=key, label=label), arguments)
        rows = [_trial_row(by, *row) for row in cursor.fetchall()]
    totals: dict[str, TrialTotal] = {}
    for row in rows:
        before = totals.get(row.currency, TrialTotal(Money.zero(row.currency), Money.zero(row.currency)))
        totals[row.currency] = TrialTotal(before.debit + row.debit, before.credit + row.credit)
    return TrialBalance(rows, list(totals.values()))


def moved_by_day(*, kind: Kind, first: date, last: date) -> list[DayMoved]:
    """Debits and credits of each day (UTC) on which accounts of a kind moved, by currency and day."""
    with connection.cursor() as cursor:
        cursor.execute(_BY_DAY, {"kind": str(kind), "first": first, "last": last})
        return [
            DayMoved(day, Money(debit, currency), Money(credit, currency))
            for currency, day, debit, credit in cursor.fetchall()
        ]


def explain(
    *, account: LedgerAccount, since: datetime, until: datetime | None = None, limit: int = 20
) -> Explanation:
    """What moved an account's balance from `since` (included) to `until` (excluded), or to now.

    The cost is bounded by the entries that are looked at, however many there are in this time.
    """
    _require_offset(since=since, until=until)
    if until is not None and until <= since:
        raise InvalidInput("It must be later than since.", pointer="/until", code="invalid_period")
    require_entries_since(account, since)
    just_before = timedelta(microseconds=1)
    arguments: dict[str, Any] = {
        "account": account.pk,
        "currency": account.currency,
        "since": since,
        "until": until,
        "before": since - just_before,
        "last": until - just_before if until else None,
        "most": LOOKED_AT,
        "limit": limit,
    }
    parts: dict[str, list[tuple[Any, ...]]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_EXPLAIN, arguments)
        for kind, *rest in cursor.fetchall():
            parts.setdefault(kind, []).append(tuple(rest))
    opening, closing = parts["opening"][0][3], parts["closing"][0][3]
    oldest, *_, looked = parts["newest"][0]
    earlier = closing - opening - sum(change for _, _, _, change, _ in parts.get("recipe", ()))
    found = LedgerTransaction.objects.in_bulk([UUID(key) for key, *_ in parts.get("largest", ())])
    return Explanation(
        account,
        opening=_on_normal_side(account, opening),
        closing=_on_normal_side(account, closing),
        looked_from=datetime.fromisoformat(oldest) if looked == LOOKED_AT else None,
        earlier=_on_normal_side(account, earlier),
        by_recipe=[
            _part(account, row, row[0].replace("_", " ").capitalize()) for row in parts.get("recipe", ())
        ],
        by_counter=[_part(account, row, Kind(row[0]).label) for row in parts.get("counter", ())],
        largest=[
            Movement(
                found[UUID(key)],
                Money(debit, account.currency),
                Money(credit, account.currency),
                _on_normal_side(account, change),
            )
            for key, debit, credit, change, _ in parts.get("largest", ())
        ],
    )


def _trial_row(
    by: str, key: str, label: str, currency: str, accounts: int, account_class: str, normal: str,
    debit: int, credit: int,
) -> TrialRow:  # fmt: skip
    on_debit = {"class": account_class in _DEBIT_CLASSES, "owner": False}.get(by, normal == Side.DEBIT)
    balance = debit - credit if on_debit else credit - debit
    if by == "kind":
        label = Kind(key).label
    elif by == "class":
        label = key.capitalize()
    elif by == "account":
        owner, _, kind = label.rpartition(" · ")
        label = f"{owner} · {Kind(kind).label}"
    return TrialRow(
        key,
        label,
        currency,
        accounts,
        Money(debit, currency),
        Money(credit, currency),
        Money(balance, currency),
    )


def _part(account: LedgerAccount, row: tuple[Any, ...], label: str) -> Part:
    key, debit, credit, change, transactions = row
    return Part(
        key,
        label,
        transactions,
        Money(debit, account.currency),
        Money(credit, account.currency),
        _on_normal_side(account, change),
    )


def _on_normal_side(account: LedgerAccount, signed: int) -> Money:
    return Money(account.on_normal_side(signed), account.currency)


def _require_offset(**instants: datetime | None) -> None:
    for name, instant in instants.items():
        if instant is not None and instant.tzinfo is None:
            raise InvalidInput("The instant has no offset.", pointer=f"/{name}", code="invalid_instant")
