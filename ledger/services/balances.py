"""Reading: balances now and as of a business instant, and statements, none of which scans history.

The balance now is one row. The balance as of an instant is the sum of whole days (`LedgerDay`) and
of the part of one day. Amounts are given on the account's normal side.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection
from django.db.models import QuerySet

from commerce.errors import InvalidInput
from commerce.money import Money
from ledger.models import LedgerAccount, LedgerEntry

PAGE = 50
_AS_OF = """
SELECT a.id,
  COALESCE((SELECT sum(d.amount) FROM ledger_ledgerday d
             WHERE d.account_id = a.id AND d.day < (%(at)s::timestamptz AT TIME ZONE 'UTC')::date), 0)
+ COALESCE((SELECT sum(e.amount) FROM ledger_ledgerentry e
             WHERE e.account_id = a.id AND e.effective_at <= %(at)s
               AND e.effective_at >= date_trunc('day', %(at)s::timestamptz, 'UTC')), 0)
FROM unnest(%(accounts)s::bigint[]) a(id)
"""


@dataclass(frozen=True)
class AccountBalance:
    """Posted, what pending transactions would make of it, and what may be spent; on the normal side."""

    account: LedgerAccount
    posted: Money
    pending: Money
    available: Money


@dataclass(frozen=True)
class StatementLine:
    """An entry with its transaction, and the account's balance after it, both on the normal side."""

    entry: LedgerEntry
    amount: Money
    balance: Money


@dataclass(frozen=True)
class Statement:
    """A page of an account's entries, newest first; `before` continues it, None at the end.

    `opening` and `closing` are the balances just before `since` and just before `until`.
    """

    account: LedgerAccount
    lines: Sequence[StatementLine]
    before: int | None
    opening: Money
    closing: Money


def balance(*, owner: UUID, kind: str, currency: str, at: datetime | None = None) -> int:
    """Posted minor units on the account's normal side, now or as of `at`; 0 when there is no account."""
    account = (
        LedgerAccount.objects.select_related("balance")
        .filter(owner_id=owner, kind=kind, currency=currency)
        .first()
    )
    if account is None:
        return 0
    signed = account.balance.posted if at is None else _as_of([account.pk], at)[account.pk]
    return account.on_normal_side(signed)


def balances(
    *,
    owner: UUID | None = None,
    kinds: Iterable[str] | None = None,
    currency: str | None = None,
    at: datetime | None = None,
) -> list[AccountBalance]:
    """Balances of the accounts that match, in order of owner, currency and kind.

    As of an instant, holds are not known: pending and available equal posted.
    """
    accounts = LedgerAccount.objects.select_related("balance", "owner").order_by("owner", "currency", "kind")
    if owner is not None:
        accounts = accounts.filter(owner_id=owner)
    if kinds is not None:
        accounts = accounts.filter(kind__in=list(kinds))
    if currency is not None:
        accounts = accounts.filter(currency=currency)
    return account_balances(accounts, at=at)


def account_balances(
    accounts: Iterable[LedgerAccount], *, at: datetime | None = None
) -> list[AccountBalance]:
    """Balances of these accounts, in their order; select `balance` with them to save queries."""
    rows = list(accounts)
    past = _as_of([account.pk for account in rows], at) if at is not None else None
    return [_account_balance(account, past[account.pk] if past is not None else None) for account in rows]


def _account_balance(account: LedgerAccount, past: int | None) -> AccountBalance:
    if past is not None:
        return AccountBalance(account, _money(account, past), _money(account, past), _money(account, past))
    now = account.balance
    outgoing = -now.held_dr if account.normal == "credit" else now.held_cr
    return AccountBalance(
        account,
        posted=_money(account, now.posted),
        pending=_money(account, now.posted - now.held_dr + now.held_cr),
        available=_money(account, now.posted + outgoing),
    )


def _as_of(accounts: Sequence[int], at: datetime) -> dict[int, int]:
    if at.tzinfo is None:
        raise InvalidInput("The instant has no offset.", pointer="/at", code="invalid_instant")
    with connection.cursor() as cursor:
        cursor.execute(_AS_OF, {"accounts": list(accounts), "at": at})
        return {account: int(amount) for account, amount in cursor.fetchall()}


def statement(
    *,
    account: LedgerAccount,
    before: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = PAGE,
) -> Statement:
    """One page of the account's entries, newest first, starting below version `before`.

    `since` (included) and `until` (excluded) choose entries by business time. The running balance is
    that of the whole account, whatever is chosen.
    """
    rows = entries_of(account)
    if before is not None:
        rows = rows.filter(version__lt=before)
    if since is not None:
        rows = rows.filter(effective_at__gte=since)
    if until is not None:
        rows = rows.filter(effective_at__lt=until)
    page = list(rows.order_by("-version")[: limit + 1])
    return Statement(
        account,
        lines=[statement_line(account, entry) for entry in page[:limit]],
        before=page[limit - 1].version if len(page) > limit else None,
        opening=_just_before(account, since) if since else Money.zero(account.currency),
        closing=_just_before(account, until) if until else _money(account, account.balance.posted),
    )


def entries_of(account: LedgerAccount) -> QuerySet[LedgerEntry]:
    """The account's entries with their transactions."""
    return LedgerEntry.objects.filter(account_id=account.pk).select_related("transaction")


def statement_line(account: LedgerAccount, entry: LedgerEntry) -> StatementLine:
    """An entry as its account counts it."""
    return StatementLine(entry, _money(account, entry.amount), _money(account, entry.balance_after))


def _just_before(account: LedgerAccount, instant: datetime) -> Money:
    at = instant - timedelta(microseconds=1)
    return _money(account, _as_of([account.pk], at)[account.pk])


def _money(account: LedgerAccount, signed: int) -> Money:
    return Money(account.on_normal_side(signed), account.currency)
