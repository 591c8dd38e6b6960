"""`ledger_transfer`, the shortest way for two legs, writes what a posting of the same legs writes."""

from datetime import timedelta
from functools import partial
from random import sample

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from commerce.ids import uuid7
from ledger.models import LedgerAccount, LedgerBalance, LedgerEntry, LedgerPeriod, LedgerTransaction
from ledger.rules import recipes
from ledger.rules.kinds import Kind
from ledger.services import balance, open_accounts
from tests.ledger import rules
from tests.ledger.conftest import AT, holds, usd
from tests.ledger.test_invariants import findings


@pytest.fixture
def accounts(people, posted):
    """A wallet with a hundred dollars, the bank, and a wallet in euro."""
    entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd("100"))
    posted("fund_wallet", entries, "fund")
    open_accounts(accounts=[(people.northwind, Kind.PAYABLE, c) for c in ("USD", "EUR")])
    return {(a.kind, a.currency): a.pk for a in LedgerAccount.objects.all()} | {("none", "USD"): 10**9}


def transfer(accounts, *, key="t", source=("AVAILABLE", "USD"), to=("PAYABLE", "USD"), amount=3000, at=AT):
    with transaction.atomic(), connection.cursor() as cursor:
        arguments = [key, accounts[source], accounts[to], amount, at]
        cursor.execute("SELECT ledger_transfer(%s, %s, %s, %s, %s)", arguments)
        return cursor.fetchone()[0]


def test_it_moves_money_like_a_posting(people, accounts):
    row = LedgerTransaction.objects.get(pk=transfer(accounts))
    assert (row.status, row.recipe, row.effective_at) == ("posted", "transfer", AT)
    assert (holds(people.acme, "AVAILABLE"), holds(people.northwind, "PAYABLE")) == (usd("70"), usd("30"))
    debit, credit = row.entries.order_by("amount")
    assert (debit.amount, debit.balance_after, debit.version) == (-3000, 7000, 2)
    assert (credit.amount, credit.balance_after, credit.version) == (3000, 3000, 1)
    assert debit.recorded_at == credit.recorded_at == row.recorded_at
    assert findings() == {}


def test_both_directions_and_a_striped_account_keep_their_balances(people, accounts):
    transfer(accounts, key="out", to=("CASH_BANK", "USD"), amount=1000)
    transfer(accounts, key="in", source=("CASH_BANK", "USD"), to=("AVAILABLE", "USD"), amount=400)
    assert holds(people.acme, "AVAILABLE") == holds(people.platform, "CASH_BANK") == usd("94")
    assert findings() == {}


def test_the_same_key_moves_once_and_another_content_is_refused(people, accounts):
    first = transfer(accounts)
    assert transfer(accounts) == first
    with pytest.raises(IntegrityError, match="used before for a posting with other content"):
        transfer(accounts, amount=3001)
    assert holds(people.northwind, "PAYABLE") == usd("30")
    assert LedgerEntry.objects.count() == 4


@pytest.mark.parametrize("to", [("PAYABLE", "USD"), ("CASH_BANK", "USD")])
def test_what_the_payer_does_not_hold_does_not_move(people, accounts, to):
    before = list(LedgerBalance.objects.order_by("pk").values_list("pk", "posted", "version"))
    with pytest.raises(IntegrityError, match="insufficient_funds") as refused:
        transfer(accounts, to=to, amount=10001)
    said = f'"amount": 10001, "account": {accounts["AVAILABLE", "USD"]}, "balance": 10000'
    assert said in str(refused.value)
    assert list(LedgerBalance.objects.order_by("pk").values_list("pk", "posted", "version")) == before
    assert LedgerTransaction.objects.count() == 1
    assert findings() == {}


def test_a_refusal_is_undone_within_the_callers_transaction_too(people, accounts):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT ledger_post_pair(%s, 'k', 'x', 's', 'transfer', '', 'a', %s,"
            " %s, 'AVAILABLE', %s, 'PAYABLE', 'USD', 10001)",
            [uuid7(), AT, people.acme, people.northwind],
        )
        assert cursor.fetchone() == (None,)
    assert holds(people.acme, "AVAILABLE") == usd("100")
    transfer(accounts, amount=10000)
    assert findings() == {}


def test_a_repetition_is_answered_when_the_money_is_gone(people, accounts):
    first = transfer(accounts, amount=10000)
    assert transfer(accounts, amount=10000) == first
    assert holds(people.northwind, "PAYABLE") == usd("100")
    assert findings() == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"amount": 0}, "more than nothing"),
        ({"amount": -1}, "more than nothing"),
        ({"to": ("AVAILABLE", "USD")}, "between two accounts"),
        ({"to": ("PAYABLE", "EUR")}, "off balance"),
        ({"to": ("none", "USD")}, "p_from or p_to is no account"),
    ],
)
def test_what_is_no_transfer_is_refused(accounts, change, reason):
    with pytest.raises(DatabaseError, match=reason):
        transfer(accounts, **change)
    assert LedgerTransaction.objects.count() == 1


def test_into_a_closed_period_it_goes_to_the_first_open_instant(people, accounts):
    month = LedgerPeriod.objects.create(starts_on="2027-03-01", ends_on="2027-04-01")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE ledger_ledgerperiod SET status = 'closing'")
    row = LedgerTransaction.objects.get(pk=transfer(accounts, at=AT + timedelta(days=3)))
    assert (row.adjusts_period, row.meant_at) == (month, AT + timedelta(days=3))
    assert row.effective_at == AT + timedelta(days=31)
    assert {entry.effective_at for entry in row.entries.all()} == {row.effective_at}
    before = {"owner": people.northwind, "kind": "PAYABLE", "currency": "USD"}
    assert balance(**before, at=row.effective_at - timedelta(microseconds=1)) == 0


@pytest.mark.django_db(transaction=True)
def test_nobody_posts_with_the_eyes_of_an_earlier_instant():
    payer, payee = rules.funded("100"), rules.someone()
    open_accounts(accounts=[(payee, Kind.AVAILABLE, "USD")])
    debit, credit = (LedgerAccount.objects.get(owner=o, kind=Kind.AVAILABLE).pk for o in (payer, payee))
    for level in ("REPEATABLE READ", "SERIALIZABLE"):
        with (
            pytest.raises(DatabaseError, match="must see which periods"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            cursor.execute("SELECT ledger_transfer('early', %s, %s, 1)", [debit, credit])
    assert rules.available(payer) == 10_000


@pytest.mark.django_db(transaction=True)
def test_transfers_against_each_other_neither_wait_for_ever_nor_lose_a_cent():
    """Pairs in both directions at the same time, over accounts of one stripe: every order of locks occurs."""
    owners = [rules.funded("100") for _ in range(3)]
    ids = [LedgerAccount.objects.get(owner=owner, kind=Kind.AVAILABLE).pk for owner in owners]

    def work(number):
        with connection.cursor() as cursor:
            for turn in range(30):
                source, to = sample(ids, 2)
                cursor.execute("SELECT ledger_transfer(%s, %s, %s, 1)", [f"t:{number}:{turn}", source, to])
        return "done"

    running = [rules.beside(partial(work, number)) for number in range(6)]
    for thread, _ in running:
        thread.join()
    assert [answers for _, answers in running] == [["done"]] * 6
    assert sum(rules.available(owner) for owner in owners) == 30_000
    assert LedgerTransaction.objects.filter(recipe="transfer").count() == 180
    assert findings() == {}
