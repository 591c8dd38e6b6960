"""Posting: one call of the SQL function `ledger_post` writes one transaction or thousands.

A refusal (too little money, a key used for something else) writes nothing and leaves the caller's
own transaction usable, so that it can record what it does about it.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from django.db import DataError, OperationalError, connection
from psycopg import Cursor
from psycopg.errors import DeadlockDetected, NumericValueOutOfRange, SerializationFailure

from commerce.actor import Actor
from commerce.errors import Busy, CommerceError, Conflict, InsufficientFunds, InvalidInput, StateConflict
from commerce.ids import uuid7
from commerce.money import Money
from ledger.models import LedgerAccount, LedgerTransaction
from ledger.rules.kinds import Kind, Side
from ledger.rules.recipes import RECIPES, Entry, require_balance
from ledger.services.horizon import require_entries_of

Status = LedgerTransaction.Status

TRIES = 3
_POST = """
SELECT * FROM ledger_post(
  %s::uuid[], %s::text[], %s::bytea[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text,
  %s::timestamptz[], %s::uuid[], %s::uuid[], %s::int[], %s::uuid[], %s::text[], %s::text[], %s::bigint[])
"""
_POST_PAIR = """
SELECT ledger_post_pair(
  %s::uuid, %s::text, %s::bytea, %s::text, %s::text, %s::text, %s::text, %s::timestamptz,
  %s::uuid, %s::text, %s::uuid, %s::text, %s::text, %s::bigint)
"""
_WRITTEN = (
    "id", "key", "fingerprint", "status", "source", "recipe", "description", "actor", "effective_at",
    "recorded_at", "reverses_id", "resolves_id", "adjusts_period_id", "meant_at",
)  # fmt: skip
_OPEN = (
    "SELECT ledger_open(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::int[], %s::bigint[])"
)


@dataclass(frozen=True)
class Posting:
    """One transaction to be written. `at` is the business instant; `key` makes it happen once."""

    entries: Sequence[Entry]
    key: str
    source: str
    recipe: str
    at: datetime
    description: str = ""
    status: str = Status.POSTED
    reverses: UUID | None = None
    resolves: UUID | None = None

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise InvalidInput("The instant has no offset.", pointer="/at", code="invalid_instant")
        if self.recipe not in RECIPES:
            raise InvalidInput(
                f"There is no recipe {self.recipe!r}.", pointer="/recipe", code="unknown_recipe"
            )
        if not self.key or len(self.key) > 200:
            raise InvalidInput("A key has 1 to 200 characters.", pointer="/key", code="invalid_key")
        if not self.entries and self.status != Status.DISCARDED:
            raise InvalidInput("There is nothing to post.", pointer="/entries", code="no_entries")
        require_balance(self.entries)

    @cached_property
    def fingerprint(self) -> bytes:
        """The content that a repeated key must repeat; not the instant, which a retry may read anew."""
        legs = sorted((e.owner.hex, str(e.kind), e.amount.currency, e.signed) for e in self.entries)
        content = (str(self.status), self.source, self.recipe, str(self.reverses), str(self.resolves), legs)
        return hashlib.sha256(repr(content).encode(errors="surrogatepass")).digest()


def post(
    *,
    entries: Sequence[Entry],
    key: str,
    source: str,
    recipe: str,
    at: datetime,
    actor: Actor,
    description: str = "",
) -> LedgerTransaction:
    """Post one balanced transaction, opening accounts as needed.

    The same key with the same content returns the first row; with other content it is a Conflict.
    Raises InsufficientFunds (naming account, currency, balance and amount) and InvalidInput; neither
    writes anything.
    """
    posting = Posting(entries, key, source, recipe, at, description)
    return post_all(postings=[posting], actor=actor)[0]


def post_pending(
    *,
    entries: Sequence[Entry],
    key: str,
    source: str,
    recipe: str,
    at: datetime,
    actor: Actor,
    description: str = "",
) -> LedgerTransaction:
    """Set the money of a transaction aside until it is settled or discarded; balances do not move."""
    posting = Posting(entries, key, source, recipe, at, description, status=Status.PENDING)
    return post_all(postings=[posting], actor=actor)[0]


def settle_pending(
    *,
    transaction: LedgerTransaction,
    key: str,
    at: datetime,
    actor: Actor,
    description: str = "",
    entries: Sequence[Entry] | None = None,
) -> LedgerTransaction:
    """Post what a pending transaction set aside, or less of it: `entries`. The rest is given back.

    StateConflict when it was settled or discarded already; InvalidInput when it set aside less.
    """
    return _resolve(transaction, Status.POSTED, key, at, actor, description, entries)


def discard_pending(
    *, transaction: LedgerTransaction, key: str, at: datetime, actor: Actor, reason: str = ""
) -> LedgerTransaction:
    """Give back what a pending transaction set aside. StateConflict when it was resolved already."""
    return _resolve(transaction, Status.DISCARDED, key, at, actor, reason)


def _resolve(
    pending: LedgerTransaction,
    status: str,
    key: str,
    at: datetime,
    actor: Actor,
    description: str,
    entries: Sequence[Entry] | None = None,
) -> LedgerTransaction:
    if pending.status != Status.PENDING:
        raise StateConflict(
            f"Transaction {pending.key} is {pending.status}; only a pending one can be settled or discarded.",
            state=pending.status,
        )
    if status == Status.DISCARDED:
        entries = ()
    elif entries is None:
        entries = _legs(pending.holds.select_related("account"))
    posting = Posting(
        entries,
        key,
        pending.source,
        pending.recipe,
        at,
        description or pending.description,
        status=status,
        resolves=pending.pk,
    )
    return post_all(postings=[posting], actor=actor)[0]


def reverse(
    *,
    transaction: LedgerTransaction,
    key: str,
    at: datetime,
    actor: Actor,
    reason: str,
    entries: Sequence[Entry] | None = None,
) -> LedgerTransaction:
    """Post the opposite of a posted transaction: of the whole, or of the part that `entries` name.

    `entries` are legs of the reversal itself, on the sides opposite to the original's. What all
    reversals of a transaction take back never exceeds what it posted, account by account:
    StateConflict when nothing is left, InvalidInput (`more_than_posted`) when less is.
    """
    if transaction.status != Status.POSTED:
        raise StateConflict(
            f"Transaction {transaction.key} is {transaction.status}; only a posted one can be reversed.",
            state=transaction.status,
        )
    require_entries_of(transaction)
    if entries is None:
        entries = opposite(transaction)
    posting = Posting(entries, key, transaction.source, "reversal", at, reason, reverses=transaction.pk)
    return post_all(postings=[posting], actor=actor)[0]


def opposite(transaction: LedgerTransaction) -> list[Entry]:
    """The legs that take back a whole posted transaction."""
    rows = transaction.entries.select_related("account").order_by("account", "stripe", "version")
    return _legs(rows, opposite=True)


def _legs(rows: Iterable[Any], *, opposite: bool = False) -> list[Entry]:
    """Entries or holds as the legs they came from, or turned round."""
    return [
        Entry(
            row.account.owner_id,
            row.account.kind,
            Money(abs(row.amount), row.account.currency),
            Side.CREDIT if (row.amount > 0) is not opposite else Side.DEBIT,
        )
        for row in rows
    ]


def post_all(*, postings: Sequence[Posting], actor: Actor) -> list[LedgerTransaction]:
    """Write all postings or none, in one statement; returns their rows in order.

    A posting that exists already with the same content is returned as it is. Balance conditions
    hold for the accounts as the whole call leaves them.
    """
    if not postings:
        return []
    if len({posting.key for posting in postings}) < len(postings):
        raise InvalidInput(
            "Two postings of one call have the same key.", pointer="/key", code="duplicate_key"
        )
    ids = [uuid7() for _ in postings]
    if len(postings) == 1 and (recorded_at := _post_pair(postings[0], ids[0], actor)):
        return [_as_written(postings[0], ids[0], str(actor), recorded_at)]
    arguments = _arguments(postings, ids, actor)
    answer, *others = _call(arguments)
    if _refusal(answer) == {"code": "unknown_account"}:
        open_accounts(
            accounts={(e.owner, Kind(e.kind), e.amount.currency) for p in postings for e in p.entries}
        )
        answer, *others = _call(arguments)
    if refusal := _refusal(answer):
        raise _error(refusal)
    author = str(actor)
    written = [
        _as_written(posting, made, author, answer.recorded_at)
        for posting, made in zip(postings, ids, strict=True)
    ]
    return _with_others(written, others) if others else written


def post_groups(
    *, groups: Sequence[Sequence[Posting]], actor: Actor
) -> list[list[LedgerTransaction] | CommerceError]:
    """Write each group whole or not at all, whatever becomes of the others; answers in their order.

    What a refused group was refused with stands in its place. Money that one group brings, another
    can spend. One statement when none is refused; each refusal costs about log2(groups) more.
    """
    try:
        rows = post_all(postings=[posting for group in groups for posting in group], actor=actor)
    except Busy:
        raise
    except CommerceError as error:
        if len(groups) == 1:
            return [error]
        middle = len(groups) // 2
        first = post_groups(groups=groups[:middle], actor=actor)
        return [*first, *post_groups(groups=groups[middle:], actor=actor)]
    left = iter(rows)
    return [[next(left) for _ in group] for group in groups]


def open_accounts(*, accounts: Iterable[tuple[UUID, Kind, str]]) -> None:
    """Make sure that these (owner, kind, currency) exist; posting does it by itself."""
    keys = sorted(accounts)
    natures = [kind.nature for _, kind, _ in keys]
    _rows(
        _OPEN,
        [
            [owner for owner, _, _ in keys],
            [str(kind) for _, kind, _ in keys],
            [currency for _, _, currency in keys],
            [str(nature.account_class) for nature in natures],
            [str(nature.normal) for nature in natures],
            [nature.stripes for nature in natures],
            [nature.floor for nature in natures],
        ],
    )


def _arguments(postings: Sequence[Posting], ids: Sequence[UUID], actor: Actor) -> list[str]:
    legs = [(place, entry) for place, posting in enumerate(postings, 1) for entry in posting.entries]
    return [
        _plain(ids),
        _quoted([p.key for p in postings]),
        _plain([rf"\\x{p.fingerprint.hex()}" for p in postings]),
        _plain([p.status for p in postings]),
        _quoted([p.source for p in postings]),
        _plain([p.recipe for p in postings]),
        _quoted([p.description for p in postings]),
        str(actor),
        _quoted([p.at.isoformat() for p in postings]),
        _plain([p.reverses or "NULL" for p in postings]),
        _plain([p.resolves or "NULL" for p in postings]),
        _plain([place for place, _ in legs]),
        _plain([entry.owner.hex for _, entry in legs]),
        _plain([entry.kind for _, entry in legs]),
        _plain([entry.amount.currency for _, entry in legs]),
        _plain([entry.signed for _, entry in legs]),
    ]


def _plain(values: Iterable[object]) -> str:
    """An array literal of values that need no quotes; several times as fast as adapting a list."""
    return f"{{{','.join(map(str, values))}}}"


def _quoted(values: Sequence[str]) -> str:
    """An array literal of any texts."""
    text = '","'.join(values)
    if "\\" in text or text.count('"') > 2 * (len(values) - 1):
        text = '","'.join([value.replace("\\", "\\\\").replace('"', '\\"') for value in values])
    return f'{{"{text}"}}'


def _post_pair(posting: Posting, made: UUID, actor: Actor) -> datetime | None:
    """Post two legs by the shortest way: when, or None and nothing written if it is not that simple."""
    if len(posting.entries) != 2 or posting.status != Status.POSTED or posting.reverses or posting.resolves:
        return None
    debit, credit = sorted(posting.entries, key=lambda entry: entry.signed)
    [(recorded_at,)] = _rows(
        _POST_PAIR,
        [
            made,
            posting.key,
            posting.fingerprint,
            posting.source,
            posting.recipe,
            posting.description,
            str(actor),
            posting.at,
            debit.owner,
            debit.kind,
            credit.owner,
            credit.kind,
            debit.amount.currency,
            debit.amount.minor,
        ],
    )
    return recorded_at


class _Row(NamedTuple):
    """What `ledger_post` answers: when, and what of a posting came out otherwise than asked."""

    place: int
    recorded_at: datetime
    replayed: UUID | None
    adjusts_period: UUID | None
    effective_at: datetime
    refusal: str | None


def _call(arguments: list[str]) -> list[_Row]:
    return [_Row(*row) for row in _rows(_POST, arguments)]


def _rows(sql: LiteralString, arguments: Sequence[object]) -> list[tuple[Any, ...]]:
    """Busy when other writers came between; a call of its own transaction tries again first."""
    tries = 1 if connection.in_atomic_block else TRIES
    while True:
        tries -= 1
        try:
            connection.ensure_connection()
            # Prepared on the server, which Django's own cursors do not do.
            with connection.wrap_database_errors, Cursor(connection.connection) as cursor:
                return cursor.execute(sql, arguments, prepare=True).fetchall()
        except (DataError, UnicodeEncodeError) as error:  # the latter: a lone surrogate
            if isinstance(error.__cause__, NumericValueOutOfRange):
                raise InvalidInput(
                    "The entries of one account come to more than 2^53 - 1 minor units.",
                    pointer="/entries",
                    code="amount_overflow",
                ) from error
            raise InvalidInput(f"The ledger cannot hold this posting: {error}") from error
        except OperationalError as error:
            if not isinstance(error.__cause__, SerializationFailure | DeadlockDetected):
                raise
            if not tries:
                raise Busy(f"Other postings came between: {error}") from error


def _refusal(row: _Row) -> dict[str, Any] | None:
    return json.loads(row.refusal) if row.refusal else None


def _error(refusal: dict[str, Any]) -> CommerceError:
    """The refusal of the database in the words of the one error vocabulary."""
    match refusal["code"]:
        case "insufficient_funds" | "balance_overflow":
            return _balance_error(refusal)
        case "key_conflict":
            return Conflict(
                f"The key {refusal['key']} was used before for a posting with other content.",
                code="key_conflict",
                key=refusal["key"],
                transaction_id=refusal["transaction"],
            )
        case "already_reversed" | "already_resolved" as code:
            done = {"already_reversed": "reversed", "already_resolved": "settled or discarded"}[code]
            return StateConflict(
                f"The transaction was {done} already, by {refusal['by']}.", code=code, by=refusal["by"]
            )
        case "more_than_posted" | "more_than_pending" as code:
            return _excess_error(refusal, code)
        case "unknown_account":
            return InvalidInput(
                "An entry's owner is not a known organization.", pointer="/entries", code="unknown_owner"
            )
        case code:
            return InvalidInput(f"The ledger refuses the posting: {code}.", code=code)


def _balance_error(refusal: dict[str, Any]) -> CommerceError:
    account = LedgerAccount.objects.select_related("owner").get(pk=refusal["account"])
    facts = {
        "account_id": account.pk,
        "owner_id": str(account.owner_id),
        "kind": account.kind,
        "currency": account.currency,
        "balance_minor": refusal["balance"],
        "amount_minor": refusal["amount"],
    }
    name = f"{account.owner.name}'s {account.kind} account in {account.currency}"
    if refusal["code"] == "balance_overflow":
        return InvalidInput(
            f"{name} cannot hold more than 2^53 - 1 minor units.", code="amount_overflow", **facts
        )
    held, needed = Money(refusal["balance"], account.currency), Money(refusal["amount"], account.currency)
    return InsufficientFunds(f"{name} holds {held}; {needed} is needed.", **facts)


def _excess_error(refusal: dict[str, Any], code: str) -> CommerceError:
    account = LedgerAccount.objects.select_related("owner").get(pk=refusal["account"])
    done = {"more_than_posted": "reversed", "more_than_pending": "settled"}[code]
    amount, left = (Money(refusal[name], account.currency) for name in ("amount", "left"))
    return InvalidInput(
        f"{left} can still be {done} on {account.owner.name}'s {account.kind} account, not {amount}.",
        pointer="/entries",
        code=code,
        account_id=account.pk,
        kind=account.kind,
        currency=account.currency,
        amount_minor=amount.minor,
        left_minor=left.minor,
    )


def _as_written(posting: Posting, made: UUID, author: str, recorded_at: datetime) -> LedgerTransaction:
    return LedgerTransaction.from_db(
        connection.alias,
        _WRITTEN,
        (
            made,
            posting.key,
            posting.fingerprint,
            posting.status,
            posting.source,
            posting.recipe,
            posting.description,
            author,
            posting.at.astimezone(UTC),
            recorded_at,
            posting.reverses,
            posting.resolves,
            None,
            None,
        ),
    )


def _with_others(written: list[LedgerTransaction], others: Sequence[_Row]) -> list[LedgerTransaction]:
    """The same rows, except those that were there before or belong to a closed period."""
    replayed = LedgerTransaction.objects.in_bulk([row.replayed for row in others if row.replayed])
    for row in others:
        if row.replayed:
            written[row.place - 1] = replayed[row.replayed]
        else:
            adjustment = written[row.place - 1]
            adjustment.adjusts_period_id = row.adjusts_period
            adjustment.meant_at, adjustment.effective_at = adjustment.effective_at, row.effective_at
    return written
