"""Reading: balances now, as of a business instant and as known at another, and statements.

None of it scans history: the balance now is the sum of an account's stripes, the past and statements
are answered by SQL functions, whose plans are kept. Amounts are given on the account's normal side.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, connection
from django.db.models import QuerySet

from commerce.errors import InvalidInput
from commerce.money import Money
from ledger.models import LedgerAccount, LedgerBalance, LedgerEntry, LedgerTransaction
from ledger.rules.kinds import Side
from ledger.services.horizon import answered

PAGE = 50
_PAST = """
SELECT a.id, ledger_balance(a.id, %s::timestamptz, %s::timestamptz) FROM unnest(%s::bigint[]) a(id)
"""
_STATEMENT = """
SELECT * FROM ledger_statement(%s, %s, %s::timestamptz, %s::timestamptz, %s::timestamptz,
                               %s::timestamptz, %s::timestamptz, %s, %s)
"""
# Its columns after the balances and `begins`. A transaction's other fields are read when somebody asks.
_ENTRY = (
    "account_id", "stripe", "version", "transaction_id", "currency", "amount", "balance_after",
    "effective_at", "recorded_at",
)  # fmt: skip
_TRANSACTION = ("key", "source", "recipe", "description")


@dataclass(frozen=True)
class AccountBalance:
    """Posted, what pending transactions would make of it, and what may be spent; on the normal side."""

    account: LedgerAccount
    posted: Money
    pending: Money
    available: Money


@dataclass(frozen=True)
class StatementLine:
    """An entry with its transaction, and what the account held after it; both on the normal side."""

    entry: LedgerEntry
    amount: Money
    balance: Money


class Place(NamedTuple):
    """Where an entry stands in its account's statement: by business time, then as recorded."""

    effective_at: datetime
    recorded_at: datetime
    stripe: int
    version: int

    @classmethod
    def of(cls, entry: LedgerEntry) -> "Place":
        return cls(entry.effective_at, entry.recorded_at, entry.stripe, entry.version)

    @classmethod
    def parse(cls, text: str) -> "Place":
        """What `str` gave. InvalidInput when it is something else."""
        try:
            effective_at, recorded_at, stripe, version = text.split("~")
            place = cls(
                datetime.fromisoformat(effective_at).astimezone(UTC),
                datetime.fromisoformat(recorded_at).astimezone(UTC),
                int(stripe),
                int(version),
            )
            if not (0 <= place.stripe < 2**15 and 0 <= place.version < 2**63):
                raise ValueError
            return place
        except (ValueError, OverflowError):
            raise InvalidInput(
                "This is no place in a statement.", pointer="/before", code="invalid_cursor"
            ) from None

    def __str__(self) -> str:
        return f"{self.effective_at.isoformat()}~{self.recorded_at.isoformat()}~{self.stripe}~{self.version}"


@dataclass(frozen=True)
class Statement:
    """A page of an account's entries, newest first; `before` continues it, None at the end.

    `opening` and `closing` are the balances just before `since` and just before `until`. Where older
    entries are archived, it opens at `begins` instead.
    """

    account: LedgerAccount
    lines: Sequence[StatementLine]
    before: Place | None
    opening: Money
    closing: Money
    begins: datetime | None


def balance(
    *, owner: UUID, kind: str, currency: str, at: datetime | None = None, known_at: datetime | None = None
) -> int:
    """Posted minor units on the account's normal side; 0 when there is no account.

    `at` asks what was effective then, `known_at` what had been recorded by then.
    """
    account = LedgerAccount.objects.filter(owner_id=owner, kind=kind, currency=currency).first()
    return account.on_normal_side(_signed([account.pk], at, known_at)[account.pk]) if account else 0


def balances(
    *,
    owner: UUID | None = None,
    kinds: Iterable[str] | None = None,
    currency: str | None = None,
    at: datetime | None = None,
    known_at: datetime | None = None,
) -> list[AccountBalance]:
    """Balances of the accounts that match, in order of owner, currency and kind.

    As of an instant, holds are not known: pending and available equal posted.
    """
    accounts = LedgerAccount.objects.select_related("owner").order_by("owner", "currency", "kind")
    if owner is not None:
        accounts = accounts.filter(owner_id=owner)
    if kinds is not None:
        accounts = accounts.filter(kind__in=list(kinds))
    if currency is not None:
        accounts = accounts.filter(currency=currency)
    return account_balances(accounts, at=at, known_at=known_at)


def account_balances(
    accounts: Iterable[LedgerAccount], *, at: datetime | None = None, known_at: datetime | None = None
) -> list[AccountBalance]:
    """Balances of these accounts, in their order; of those that `with_balances` read, as they were then."""
    rows = list(accounts)
    if at is not None or known_at is not None:
        past = _signed([account.pk for account in rows], at, known_at)
        return [_past_balance(account, past[account.pk]) for account in rows]
    sums = _sums(rows)
    return [_account_balance(account, sums[account.pk]) for account in rows]


def with_balances(accounts: QuerySet[LedgerAccount]) -> QuerySet[LedgerAccount]:
    """The same accounts, read together with their sums."""
    return accounts.prefetch_related("balances")


def _sums(accounts: Sequence[LedgerAccount]) -> dict[int, list[LedgerBalance]]:
    """The stripes of each account, read now unless they were read together with it."""
    read = [
        account for account in accounts if "balances" in getattr(account, "_prefetched_objects_cache", ())
    ]
    found: dict[int, list[LedgerBalance]] = {account.pk: [] for account in accounts}
    for account in read:
        found[account.pk] = list(account.balances.all())
    if len(read) < len(accounts):
        unread = found.keys() - {account.pk for account in read}
        for row in LedgerBalance.objects.filter(account_id__in=unread):
            found[row.account_id].append(row)
    return found


def _past_balance(account: LedgerAccount, signed: int) -> AccountBalance:
    amount = _money(account, signed)
    return AccountBalance(account, amount, amount, amount)


def _account_balance(account: LedgerAccount, rows: Sequence[LedgerBalance]) -> AccountBalance:
    posted = sum(row.posted for row in rows)
    held_dr, held_cr = sum(row.held_dr for row in rows), sum(row.held_cr for row in rows)
    outgoing = -held_dr if account.normal == Side.CREDIT else held_cr
    return AccountBalance(
        account,
        posted=_money(account, posted),
        pending=_money(account, posted - held_dr + held_cr),
        available=_money(account, posted + outgoing),
    )


def _signed(accounts: Sequence[int], at: datetime | None, known_at: datetime | None) -> dict[int, int]:
    _require_offsets(at=at, known_at=known_at)
    with answered(), connection.cursor() as cursor:
        cursor.execute(_PAST, [at, known_at, list(accounts)])
        return {account: int(amount) for account, amount in cursor.fetchall()}


def _require_offsets(**instants: datetime | None) -> None:
    for name, instant in instants.items():
        if instant is not None and instant.tzinfo is None:
            raise InvalidInput("The instant has no offset.", pointer=f"/{name}", code="invalid_instant")


def statement(
    *,
    account: LedgerAccount,
    before: Place | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    known_at: datetime | None = None,
    limit: int = PAGE,
) -> Statement:
    """One page of the account's entries by business time, newest first, continuing below `before`.

    `since` (included) and `until` (excluded) choose entries by business time, `known_at` leaves out
    what was recorded later. A line's balance is that of the whole account in this order, so the first
    line of a period begins at its opening and the last ends at its closing, back-dated or not.
    """
    _require_offsets(since=since, until=until, known_at=known_at)
    place = before or (None,) * len(Place._fields)
    with answered(), connection.cursor() as cursor:
        cursor.execute(_STATEMENT, [account.pk, limit + 1, since, until, known_at, *place])
        rows = cursor.fetchall()
    opening, closing, first, *_ = rows[0]
    lines = [_line(account, *columns) for _, _, _, *columns in rows if columns[-1] is not None]
    return Statement(
        account,
        lines=lines[:limit],
        before=Place.of(lines[limit - 1].entry) if len(lines) > limit else None,
        opening=_money(account, opening),
        closing=_money(account, closing),
        begins=first,
    )


def _line(account: LedgerAccount, balance: int, *columns: Any) -> StatementLine:
    entry = LedgerEntry.from_db(DEFAULT_DB_ALIAS, _ENTRY, columns[: len(_ENTRY)])
    entry.transaction = LedgerTransaction.from_db(
        DEFAULT_DB_ALIAS, ("id", *_TRANSACTION), (entry.transaction_id, *columns[len(_ENTRY) :])
    )
    return StatementLine(entry, _money(account, entry.amount), _money(account, balance))


def _money(account: LedgerAccount, signed: int) -> Money:
    return Money(account.on_normal_side(signed), account.currency)
