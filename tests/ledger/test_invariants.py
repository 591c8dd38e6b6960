"""Planted tampering: each invariant names the row that somebody changed behind our back."""

import pytest
from django.db import connection

from ledger import invariants
from ledger.models import LedgerAccount, LedgerEntry, LedgerTransaction
from ledger.rules import recipes
from tests.ledger.conftest import usd

CHECKS = [
    invariants.whole_ledger_balances,
    invariants.transactions_balance,
    invariants.nobody_overdrawn,
    invariants.balances_are_sums,
    invariants.running_balances_follow,
    invariants.overdue_releases,
]


def findings():
    return {check.__name__: [finding.subject for finding in check()] for check in CHECKS if [*check()]}


@pytest.fixture
def wallet(people, posted):
    for amount in ("100", "50"):
        entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd(amount))
        posted("fund_wallet", entries, amount)
    assert findings() == {}
    return LedgerAccount.objects.get(owner=people.acme, kind="AVAILABLE")


def tamper(sql, *parameters):
    """As somebody who owns the tables: triggers off, change, triggers on."""
    tables = ["entry", "balance", "day", "transaction", "hold"]
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table in tables:
            cursor.execute(f"ALTER TABLE ledger_ledger{table} DISABLE TRIGGER USER")
        cursor.execute(sql, parameters)
        for table in tables:
            cursor.execute(f"ALTER TABLE ledger_ledger{table} ENABLE TRIGGER USER")


def test_a_changed_entry(wallet):
    tamper(
        "UPDATE ledger_ledgerentry SET amount = amount + 1 WHERE account_id = %s AND version = 2", wallet.pk
    )
    entry = LedgerEntry.objects.get(account=wallet, version=2)
    assert findings() == {
        "transactions_balance": [f"transaction:{entry.transaction_id}"],
        "balances_are_sums": [f"account:{wallet.pk}"],
        "running_balances_follow": [f"entry:{wallet.pk}#2"],
    }


def test_a_deleted_entry(wallet):
    tamper("DELETE FROM ledger_ledgerentry WHERE account_id = %s AND version = 1", wallet.pk)
    assert findings()["balances_are_sums"] == [f"account:{wallet.pk}"]
    assert findings()["running_balances_follow"] == [f"entry:{wallet.pk}#2"]


def test_a_transaction_whose_entries_are_all_gone(wallet):
    row = LedgerTransaction.objects.get(key="50")
    tamper("DELETE FROM ledger_ledgerentry WHERE transaction_id = %s", row.pk)
    assert findings()["transactions_balance"] == [f"transaction:{row.pk}"]


def test_a_changed_balance(wallet):
    tamper("UPDATE ledger_ledgerbalance SET posted = posted + 1 WHERE account_id = %s", wallet.pk)
    assert findings() == {
        "whole_ledger_balances": ["currency:USD"],
        "balances_are_sums": [f"account:{wallet.pk}"],
    }


def test_a_changed_day(wallet):
    tamper("UPDATE ledger_ledgerday SET amount = amount - 1 WHERE account_id = %s", wallet.pk)
    assert findings() == {"balances_are_sums": [f"account:{wallet.pk}"]}


def test_a_hold_without_its_pending_transaction(wallet):
    tamper("UPDATE ledger_ledgerbalance SET held_dr = 5 WHERE account_id = %s", wallet.pk)
    assert findings() == {"balances_are_sums": [f"account:{wallet.pk}"]}


def test_a_floor_that_was_taken_away(wallet):
    tamper("UPDATE ledger_ledgerbalance SET floor = NULL WHERE account_id = %s", wallet.pk)
    assert findings() == {"nobody_overdrawn": [f"account:{wallet.pk}"]}
