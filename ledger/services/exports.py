"""What of the ledger can be exported: statements, entries, transactions, balances, accounts.

Rows are read by server-side cursors in the order of keys, so that memory stays flat. Debits and
credits are positive amounts in columns of their own; their totals are those of the ledger.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from django.db import connection
from django.db.models import QuerySet
from rest_framework import serializers

from commerce.api.serializers import InstantField, StrictSerializer
from commerce.console.exports import Column, Selection, Source, register_export
from commerce.errors import InvalidInput
from commerce.money import Money
from ledger.models import LedgerAccount, LedgerEntry, LedgerTransaction
from ledger.rules.kinds import Kind
from ledger.services.balances import account_balances, statement
from ledger.services.horizon import require_entries_since, require_recorded_since, whole_since

FETCHED = 5000
ARCHIVED = "Older entries are archived."
CHUNK = 1000
DEBIT, CREDIT = Column("debit", total=True), Column("credit", total=True)
_TRANSACTIONS = """
SELECT t.id, t.key, t.status, t.source, t.recipe, t.description, t.effective_at, t.recorded_at,
       t.reverses_id, t.resolves_id, l.currency, l.debit, l.credit, l.set_aside
FROM ledger_ledgertransaction t {join} JOIN LATERAL (
  SELECT a.currency, -sum(e.amount) FILTER (WHERE e.posted AND e.amount < 0) AS debit,
         sum(e.amount) FILTER (WHERE e.posted AND e.amount > 0) AS credit,
         sum(e.amount) FILTER (WHERE NOT e.posted AND e.amount > 0) AS set_aside
  FROM (SELECT account_id, amount, true AS posted FROM ledger_ledgerentry WHERE transaction_id = t.id
        UNION ALL SELECT account_id, amount, false FROM ledger_ledgerhold WHERE transaction_id = t.id) e
  JOIN ledger_ledgeraccount a ON a.id = e.account_id
  WHERE %(owner)s::uuid IS NULL OR a.owner_id = %(owner)s
  GROUP BY a.currency) l ON true
WHERE (%(status)s::text IS NULL OR t.status = %(status)s)
  AND (%(source)s::text IS NULL OR t.source = %(source)s)
  AND (%(recipe)s::text IS NULL OR t.recipe = %(recipe)s)
  AND (%(since)s::timestamptz IS NULL OR t.effective_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR t.effective_at < %(until)s)
"""


class PeriodQuery(StrictSerializer):
    """`since` is included, `until` is not."""

    since = InstantField(required=False)
    until = InstantField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        since, until = attrs.get("since"), attrs.get("until")
        if since and until and until <= since:
            raise serializers.ValidationError({"until": "It must be later than since."})
        return attrs


class KnownQuery(StrictSerializer):
    known_at = InstantField(required=False, help_text="Only what had been recorded by then.")


class StatementQuery(PeriodQuery, KnownQuery):
    account_id = serializers.IntegerField(min_value=1, max_value=2**63 - 1)


class AccountsQuery(StrictSerializer):
    owner_id = serializers.UUIDField(required=False)
    kind = serializers.ChoiceField(choices=[(str(kind), kind.label) for kind in Kind], required=False)
    currency = serializers.CharField(required=False, max_length=8)


class BalancesQuery(AccountsQuery, KnownQuery):
    at = InstantField(required=False, help_text="As of this business instant instead of now.")


class EntriesQuery(AccountsQuery, PeriodQuery):
    by = serializers.ChoiceField(
        choices=["effective", "recorded"],
        default="effective",
        help_text="Which instant the period chooses by.",
    )


class TransactionsQuery(PeriodQuery):
    status = serializers.ChoiceField(choices=LedgerTransaction.Status.choices, required=False)
    source = serializers.CharField(required=False, max_length=120)  # type: ignore[assignment]
    recipe = serializers.CharField(required=False, max_length=60)
    owner_id = serializers.UUIDField(required=False, help_text="Only this owner's part of each.")


def _accounts(selection: Selection) -> QuerySet[LedgerAccount]:
    chosen = {
        name: selection.parameters[name]
        for name in ("owner_id", "kind", "currency")
        if name in selection.parameters
    }
    accounts = LedgerAccount.objects.filter(**chosen).select_related("owner").order_by("pk")
    return _own(accounts, "owner_id", selection)


def _own(rows: QuerySet[Any], owner: str, selection: Selection) -> QuerySet[Any]:
    return rows.filter(**{owner: selection.organization_id}) if selection.organization_id else rows


def _period(rows: QuerySet[LedgerEntry], parameters: Mapping[str, Any]) -> QuerySet[LedgerEntry]:
    instant = f"{parameters.get('by', 'effective')}_at"
    bounds = {"since": f"{instant}__gte", "until": f"{instant}__lt"}
    return rows.filter(**{bounds[name]: parameters[name] for name in bounds if name in parameters})


def _sides(signed: int, currency: str) -> tuple[Money | None, Money | None]:
    """A credit-positive amount as debit and credit."""
    return (Money(-signed, currency), None) if signed < 0 else (None, Money(signed, currency))


# One account's statement


def _account(selection: Selection) -> LedgerAccount:
    own = _own(LedgerAccount.objects.select_related("owner"), "owner_id", selection)
    found = own.filter(pk=selection.parameters["account_id"]).first()
    if found is None:
        raise InvalidInput("There is no such account.", pointer="/parameters/account_id", code="not_found")
    return found


def _lines(selection: Selection) -> QuerySet[LedgerEntry]:
    account, parameters = _account(selection), selection.parameters
    known_at, since = parameters.get("known_at"), _whole_since(account, parameters)
    rows = _period(
        LedgerEntry.objects.filter(account_id=account.pk),
        {**parameters, **({"since": since} if since else {})},
    )
    return rows.filter(recorded_at__lte=known_at) if known_at else rows


def _whole_since(account: LedgerAccount, parameters: Mapping[str, Any]) -> datetime | None:
    return whole_since(account, *(parameters.get(name) for name in ("since", "until", "known_at")))


def _statement(selection: Selection) -> Iterator[tuple[Any, ...]]:
    """Opening, every entry in the order of business time with the balance after it, closing."""
    account, parameters = _account(selection), selection.parameters
    since, until, known_at = (parameters.get(name) for name in ("since", "until", "known_at"))
    page = statement(account=account, since=since, until=until, known_at=known_at, limit=1)
    running, nothing = page.opening, (None,) * 5
    why = (None, None, ARCHIVED if page.begins else None, None, None)
    yield ("opening", page.begins or since, None, *why, account.currency, None, None, running)
    entries = _lines(selection).order_by("effective_at", "recorded_at", "pk")
    for effective_at, recorded_at, signed, *facts in entries.values_list(
        "effective_at", "recorded_at", "amount", "transaction_id", "transaction__recipe",
        "transaction__description", "transaction__source", "transaction__key",
    ).iterator(FETCHED):  # fmt: skip
        running += Money(account.on_normal_side(signed), account.currency)
        sides = _sides(signed, account.currency)
        yield ("entry", effective_at, recorded_at, *facts, account.currency, *sides, running)
    if running != page.closing:
        raise InvalidInput(
            f"The entries lead to {running}, and the balance is {page.closing}.", code="statement_differs"
        )
    yield ("closing", until, None, *nothing, account.currency, None, None, page.closing)


def _statement_is_there(selection: Selection) -> None:
    _whole_since(_account(selection), selection.parameters)


# Entries of many accounts


def _entries_are_there(selection: Selection) -> None:
    since = selection.parameters.get("since")
    if selection.parameters.get("by") == "recorded":
        require_recorded_since(since)
    else:
        require_entries_since(None, since)


def _entries(selection: Selection) -> QuerySet[LedgerEntry]:
    chosen = {
        f"account__{name}": selection.parameters[name]
        for name in ("owner_id", "kind", "currency")
        if name in selection.parameters
    }
    rows = _period(LedgerEntry.objects.filter(**chosen), selection.parameters)
    return _own(rows, "account__owner_id", selection)


def _entry_rows(selection: Selection) -> Iterator[tuple[Any, ...]]:
    """By account, and within it as they were recorded."""
    rows = _entries(selection).order_by("pk").values_list(
        "transaction_id", "account_id", "account__owner_id", "account__owner__name",
        "account__account_class", "account__kind", "transaction__recipe", "transaction__description",
        "transaction__source", "transaction__key", "effective_at", "recorded_at", "account__currency",
        "amount",
    )  # fmt: skip
    for *facts, currency, signed in rows.iterator(FETCHED):
        yield (*facts, currency, *_sides(signed, currency))


# Transactions


def _transactions(selection: Selection, select: str) -> tuple[str, dict[str, Any]]:
    names = ("status", "source", "recipe", "since", "until")
    arguments = {name: selection.parameters.get(name) for name in names}
    # An organization's own rows and another owner's are none.
    owner = arguments["owner"] = selection.parameters.get("owner_id") or selection.organization_id
    foreign = selection.organization_id and owner != selection.organization_id
    # Whose part is wanted also decides which transactions are: those in which there is one.
    sql = _TRANSACTIONS.format(join="" if owner else "LEFT") + (" AND false" if foreign else "")
    return select.format(sql), arguments


def _transaction_count(selection: Selection) -> int:
    with connection.cursor() as cursor:
        cursor.execute(*_transactions(selection, "SELECT count(*) FROM ({}) counted"))
        return int(cursor.fetchone()[0])


def _transaction_rows(selection: Selection) -> Iterator[tuple[Any, ...]]:
    """In the order of their ids, which is that of time; one row for each currency."""
    with connection.chunked_cursor() as cursor:
        cursor.execute(*_transactions(selection, "{} ORDER BY t.id, l.currency"))
        while rows := cursor.fetchmany(FETCHED):
            for *facts, currency, debit, credit, set_aside in rows:
                amounts = (
                    None if minor is None else Money(int(minor), currency)
                    for minor in (debit, credit, set_aside)
                )
                yield (*facts, currency, *amounts)


# Accounts and their balances


def _account_rows(selection: Selection) -> Iterator[tuple[Any, ...]]:
    for account in _accounts(selection).iterator(FETCHED):
        yield (
            account.kind, account.pk, account.account_class, account.normal, account.owner_id,
            account.owner.name, account.currency, account.opened_at,
        )  # fmt: skip


def _balance_rows(selection: Selection) -> Iterator[tuple[Any, ...]]:
    """A trial balance: every account on the side of its balance; debits and credits are equal."""
    accounts = _accounts(selection).iterator(FETCHED)
    instants = {name: selection.parameters.get(name) for name in ("at", "known_at")}
    while chunk := list(islice(accounts, CHUNK)):
        for found in account_balances(chunk, **instants):
            account = found.account
            signed = account.on_normal_side(found.posted.minor)
            yield (
                account.kind, account.pk, account.account_class, account.normal, account.owner_id,
                account.owner.name, account.currency, *_sides(signed, account.currency),
                found.pending, found.available,
            )  # fmt: skip


def _columns(names: str, *more: Column) -> tuple[Column, ...]:
    return (*(Column(name) for name in names.split()), *more)


_OF_ACCOUNT = "kind account_id account_class normal_side owner_id owner currency"
register_export(
    Source(
        name="ledger.statement",
        label="Account statement",
        scope="ledger",
        permission="ledger.view_ledgerentry",
        columns=_columns(
            "line effective_at recorded_at transaction_id recipe description source key currency",
            DEBIT, CREDIT, Column("balance"),
        ),
        rows=_statement,
        count=lambda selection: _lines(selection).count() + 2,
        query=StatementQuery,
        check=_statement_is_there,
    )
)  # fmt: skip
register_export(
    Source(
        name="ledger.entries",
        label="Entries",
        scope="ledger",
        permission="ledger.view_ledgerentry",
        columns=_columns(
            "transaction_id account_id owner_id owner account_class kind recipe description source key"
            " effective_at recorded_at currency",
            DEBIT, CREDIT,
        ),
        rows=_entry_rows,
        count=lambda selection: _entries(selection).count(),
        query=EntriesQuery,
        check=_entries_are_there,
    )
)  # fmt: skip
register_export(
    Source(
        name="ledger.transactions",
        label="Transactions",
        scope="ledger",
        permission="ledger.view_ledgertransaction",
        columns=_columns(
            "id key status source recipe description effective_at recorded_at reverses_id resolves_id"
            " currency",
            DEBIT, CREDIT, Column("set_aside", total=True),
        ),
        rows=_transaction_rows,
        count=_transaction_count,
        query=TransactionsQuery,
        check=_entries_are_there,
    )
)  # fmt: skip
register_export(
    Source(
        name="ledger.balances",
        label="Trial balance",
        scope="ledger",
        permission="ledger.view_ledgeraccount",
        columns=_columns(_OF_ACCOUNT, DEBIT, CREDIT, Column("pending"), Column("available")),
        rows=_balance_rows,
        count=lambda selection: _accounts(selection).count(),
        query=BalancesQuery,
    )
)
register_export(
    Source(
        name="ledger.accounts",
        label="Accounts",
        scope="ledger",
        permission="ledger.view_ledgeraccount",
        columns=_columns(f"{_OF_ACCOUNT} opened_at"),
        rows=_account_rows,
        count=lambda selection: _accounts(selection).count(),
        query=AccountsQuery,
    )
)
