"""`ledger_transfer`, the shortest way for two legs, writes what a posting of the same legs writes."""

from datetime import timedelta

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from ledger.models import LedgerAccount, LedgerEntry, LedgerPeriod, LedgerTransaction
from ledger.rules import recipes
from ledger.rules.kinds import Kind
from ledger.services import balance, open_accounts
from tests.ledger.conftest import AT, holds, usd
from tests.ledger.test_invariants import findings


@pytest.fixture
def accounts(people, posted):
    """A wallet with a hundred dollars, the bank, and a wallet in euro."""
    entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd("100"))
    posted("fund_wallet", entries, "fund")
    open_accounts(accounts=[(people.northwind, Kind.PAYABLE, c) for c in ("USD", "EUR")])
    return {(a.kind, a.currency): a.pk for a in LedgerAccount.objects.all()}


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


def test_what_the_payer_does_not_hold_does_not_move(people, accounts):
    with pytest.raises(IntegrityError, match="balance_not_below_floor"):
        transfer(accounts, amount=10001)
    assert holds(people.acme, "AVAILABLE") == usd("100")
    assert LedgerTransaction.objects.count() == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"amount": 0}, "more than nothing"),
        ({"amount": -1}, "more than nothing"),
        ({"to": ("AVAILABLE", "USD")}, "between two accounts"),
        ({"to": ("PAYABLE", "EUR")}, "off balance"),
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
