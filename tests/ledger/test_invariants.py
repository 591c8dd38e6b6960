"""Planted tampering that nobody sealed yet: each check names the row that was changed behind our back."""

from datetime import timedelta

import pytest
from django.db import connection

from commerce.invariants import REGISTRY
from ledger.models import LedgerAccount, LedgerBalance, LedgerDay, LedgerEntry, LedgerTransaction
from ledger.rules import recipes
from ledger.services import keep
from tests.ledger.conftest import usd

TABLES = ("account", "entry", "balance", "day", "transaction", "hold", "seal", "period", "periodbalance")


def findings():
    """Type and subjects of what `verify` finds wrong with the ledger."""
    found: dict[str, list[str]] = {}
    for invariant in REGISTRY:
        if invariant.check.__module__ == "ledger.invariants":
            for finding in invariant.check():
                found.setdefault(finding.data.get("type", invariant.title), []).append(finding.subject)
    return found


@pytest.fixture
def wallet(people, posted):
    for amount in ("100", "50"):
        entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd(amount))
        posted("fund_wallet", entries, amount)
    assert findings() == {}
    return LedgerAccount.objects.get(owner=people.acme, kind="AVAILABLE")


def tamper(sql, *parameters):
    """As somebody who owns the tables and the server: triggers off, change, triggers on as they were."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(
            """SELECT tgrelid::regclass::text, tgname FROM pg_trigger
               WHERE tgrelid::regclass::text = ANY (%s) AND NOT tgisinternal AND tgenabled = 'A'""",
            [[f"ledger_ledger{name}" for name in TABLES]],
        )
        guards = cursor.fetchall()
        for table, guard in guards:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {guard}")
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(sql, parameters)
        cursor.execute("SET session_replication_role = origin")
        for table, guard in guards:
            cursor.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {guard}")


def entry(wallet, version):
    return f"entry:{wallet.pk}/0#{version}"


def test_a_changed_entry(wallet):
    tamper(
        "UPDATE ledger_ledgerentry SET amount = amount + 1 WHERE account_id = %s AND version = 2", wallet.pk
    )
    row = LedgerEntry.objects.get(account=wallet, version=2)
    assert findings() == {
        "unbalanced": [f"transaction:{row.transaction_id}"],
        "balance_not_sum": [f"account:{wallet.pk}"],
        "running_balance": [entry(wallet, 2)],
    }


def test_a_deleted_entry(wallet):
    tamper("DELETE FROM ledger_ledgerentry WHERE account_id = %s AND version = 1", wallet.pk)
    assert findings() == {
        "unbalanced": [f"transaction:{LedgerTransaction.objects.get(key='100').pk}"],
        "balance_not_sum": [f"account:{wallet.pk}"],
        "gap_in_versions": [entry(wallet, 2)],
    }


def test_a_transaction_whose_entries_are_all_gone(wallet):
    row = LedgerTransaction.objects.get(key="50")
    tamper("DELETE FROM ledger_ledgerentry WHERE transaction_id = %s", row.pk)
    assert findings()["entries_missing"] == [f"transaction:{row.pk}"]


def test_entries_whose_transaction_is_gone(wallet):
    tamper("DELETE FROM ledger_ledgertransaction WHERE key = '50'")
    assert entry(wallet, 2) in findings()["orphan_entry"]
    assert list(findings()) == ["orphan_entry"]


def test_an_entry_of_an_account_that_is_not_there(wallet):
    tamper("DELETE FROM ledger_ledgeraccount WHERE id = %s", wallet.pk)
    assert findings()["orphan_entry"] == [entry(wallet, 1), entry(wallet, 2)]


def test_an_entry_with_another_instant_or_currency_than_its_own(wallet):
    tamper(
        "UPDATE ledger_ledgerentry SET effective_at = effective_at - interval '1 day' WHERE account_id = %s"
        " AND version = 1",
        wallet.pk,
    )
    assert findings() == {"entry_differs": [entry(wallet, 1)]}
    tamper("UPDATE ledger_ledgeraccount SET currency = 'EUR' WHERE id = %s", wallet.pk)
    assert findings()["currency_differs"] == [entry(wallet, 1), entry(wallet, 2)]


def test_a_changed_balance(wallet):
    tamper("UPDATE ledger_ledgerbalance SET posted = posted + 1 WHERE account_id = %s", wallet.pk)
    assert findings() == {"ledger_not_zero": ["currency:USD"], "balance_not_sum": [f"account:{wallet.pk}"]}


def test_a_running_balance_that_is_wrong_in_between(wallet):
    tamper(
        "UPDATE ledger_ledgerentry SET balance_after = balance_after + 1 WHERE account_id = %s"
        " AND version = 1",
        wallet.pk,
    )
    assert findings() == {"running_balance": [entry(wallet, 1)]}


def month_of(day):
    return f"month:{day.account_id}/{day.day:%Y-%m}-01/{day.recorded_day:%Y-%m}-01"


def test_a_changed_day(wallet):
    assert keep(margin=timedelta(0)) == 2
    assert findings() == {}
    tamper("UPDATE ledger_ledgerday SET credit = credit - 1 WHERE account_id = %s", wallet.pk)
    day = LedgerDay.objects.get(account=wallet)
    assert findings() == {
        "day_not_sum": [f"day:{wallet.pk}/{day.day}/{day.recorded_day}"],
        "month_not_sum": [month_of(day)],
    }


def test_a_day_that_is_gone(wallet):
    assert keep(margin=timedelta(0)) == 2
    day = LedgerDay.objects.get(account=wallet)
    tamper("DELETE FROM ledger_ledgerday WHERE account_id = %s", wallet.pk)
    assert findings() == {
        "day_not_sum": [f"day:{wallet.pk}/{day.day}/{day.recorded_day}"],
        "month_not_sum": [month_of(day)],
    }


def test_a_changed_month(wallet):
    assert keep(margin=timedelta(0)) == 2
    tamper("UPDATE ledger_ledgermonth SET debit = debit + 1 WHERE account_id = %s", wallet.pk)
    assert findings() == {"month_not_sum": [month_of(LedgerDay.objects.get(account=wallet))]}


def test_money_set_aside_without_a_pending_transaction(wallet):
    tamper("UPDATE ledger_ledgerbalance SET held_dr = 5 WHERE account_id = %s", wallet.pk)
    assert findings() == {"hold_not_sum": [f"account:{wallet.pk}"]}


@pytest.mark.parametrize("floor", ["NULL", "-1000000", "1"])
def test_a_floor_that_is_not_its_kinds(wallet, floor):
    tamper(f"UPDATE ledger_ledgerbalance SET floor = {floor} WHERE account_id = %s", wallet.pk)
    assert findings() == {"floor_differs": [f"account:{wallet.pk}"]}


def test_a_floor_where_there_is_none(wallet):
    cash = LedgerAccount.objects.get(kind="CASH_BANK")
    tamper("UPDATE ledger_ledgerbalance SET floor = -99999 WHERE account_id = %s AND stripe = 3", cash.pk)
    assert findings() == {"floor_differs": [f"account:{cash.pk}"]}


def test_a_wallet_below_the_floor_of_its_kind_whatever_its_own_says(wallet):
    tamper(
        "UPDATE ledger_ledgerbalance SET floor = -1000000, held_dr = 15001 WHERE account_id = %s", wallet.pk
    )
    assert findings() == {
        "overdrawn": [f"account:{wallet.pk}"],
        "floor_differs": [f"account:{wallet.pk}"],
        "hold_not_sum": [f"account:{wallet.pk}"],
    }


@pytest.mark.parametrize(
    "change",
    ["account_class = 'revenue'", "normal = 'debit'", "stripes = 2", "kind = 'NOTIONAL', normal = 'debit'"],
)
def test_an_account_that_is_not_what_its_kind_is(wallet, change):
    tamper(f"UPDATE ledger_ledgeraccount SET {change} WHERE id = %s", wallet.pk)
    found = findings()
    assert found.pop("account_differs") == [f"account:{wallet.pk}"]
    assert set(found) <= {"floor_differs"}


def test_an_account_of_a_kind_that_there_is_not(wallet):
    tamper("UPDATE ledger_ledgeraccount SET kind = 'POCKET' WHERE id = %s", wallet.pk)
    assert findings() == {"account_differs": [f"account:{wallet.pk}"]}


def test_an_account_that_its_caller_opened_as_something_else(wallet, people):
    """What opens accounts takes from its caller what they are; the wallet may fall far below zero."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT ledger_open(ARRAY[%s::uuid], '{COMMITTED}', '{USD}', '{revenue}', '{debit}', '{1}',"
            " '{-100000}')",
            [people.acme],
        )
    account = LedgerAccount.objects.get(kind="COMMITTED")
    assert findings() == {
        "account_differs": [f"account:{account.pk}"],
        "floor_differs": [f"account:{account.pk}"],
    }


@pytest.mark.parametrize("change", ["currency = 'EUR'", "stripes = 15"])
def test_a_balance_that_is_none_of_its_accounts(wallet, change):
    cash = LedgerAccount.objects.get(kind="CASH_BANK")
    tamper(f"UPDATE ledger_ledgerbalance SET {change} WHERE account_id = %s AND stripe = 3", cash.pk)
    assert findings() == {"stripes_differ": [f"account:{cash.pk}"]}


def test_a_balance_that_is_gone_or_one_too_many(wallet):
    cash = LedgerAccount.objects.get(kind="CASH_BANK")
    unused = LedgerBalance.objects.filter(account=cash, version=0).first().stripe
    tamper("DELETE FROM ledger_ledgerbalance WHERE account_id = %s AND stripe = %s", cash.pk, unused)
    assert findings() == {"stripes_differ": [f"account:{cash.pk}"]}
    tamper(
        "INSERT INTO ledger_ledgerbalance (account_id, stripe, stripes, currency, posted, held_dr, held_cr,"
        " version, recorded_at) SELECT %s, x, 16, 'USD', 0, 0, 0, 0, now() FROM unnest(ARRAY[%s, 16]) x",
        cash.pk,
        unused,
    )
    assert findings() == {"stripes_differ": [f"account:{cash.pk}"]}


def test_a_balance_whose_instant_was_set_back_hides_what_is_not_sealed_yet(wallet):
    tamper("UPDATE ledger_ledgerbalance SET recorded_at = '2020-01-01' WHERE account_id = %s", wallet.pk)
    assert findings() == {"balance_instant": [f"account:{wallet.pk}"]}


def test_a_balance_whose_instant_is_to_come_would_never_let_the_next_be_sealed(wallet):
    tamper(
        "UPDATE ledger_ledgerbalance SET recorded_at = now() + interval '2 hours' WHERE account_id = %s",
        wallet.pk,
    )
    assert findings() == {"balance_instant": [f"account:{wallet.pk}"]}


@pytest.mark.parametrize("named", ["reverses_id", "resolves_id"])
def test_a_transaction_that_names_another_that_there_is_not(wallet, named):
    row = LedgerTransaction.objects.get(key="50")
    tamper(f"UPDATE ledger_ledgertransaction SET {named} = gen_random_uuid() WHERE id = %s", row.pk)
    assert findings()["reference_missing"] == [f"transaction:{row.pk}"]


def test_a_transaction_that_adjusts_a_period_that_there_is_not(wallet):
    row = LedgerTransaction.objects.get(key="50")
    tamper(
        "UPDATE ledger_ledgertransaction SET adjusts_period_id = gen_random_uuid(), meant_at = '2020-01-01'"
        " WHERE id = %s",
        row.pk,
    )
    assert findings() == {"reference_missing": [f"transaction:{row.pk}"]}


def test_a_reversal_of_more_than_was_posted(wallet):
    first, second = LedgerTransaction.objects.filter(key__in=["50", "100"]).order_by("-key")
    tamper("UPDATE ledger_ledgertransaction SET reverses_id = %s WHERE id = %s", first.pk, second.pk)
    assert findings() == {"reversal_exceeds": [f"transaction:{first.pk}"] * 2}


def test_a_posted_transaction_that_another_claims_to_resolve(wallet):
    first, second = LedgerTransaction.objects.order_by("key")
    tamper("UPDATE ledger_ledgertransaction SET resolves_id = %s WHERE id = %s", first.pk, second.pk)
    assert findings() == {"resolved_twice": [f"transaction:{first.pk}"]}


def test_a_partition_whose_guard_is_off(wallet):
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SELECT ledger_partition_entries(date_trunc('month', now()) + interval '1 month')")
        cursor.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits"
            " WHERE inhparent = 'ledger_ledgerentry'::regclass ORDER BY 1 LIMIT 1"
        )
        (partition,) = cursor.fetchone()
        assert findings() == {}
        cursor.execute(f"ALTER TABLE {partition} DISABLE TRIGGER guard_append_only")
    assert findings() == {"guard_missing": [f"table:{partition}"]}


def test_what_is_not_sealed_after_an_hour(wallet):
    row = LedgerTransaction.objects.get(key="100")
    for table, column in (("transaction", "id"), ("entry", "transaction_id")):
        tamper(
            f"UPDATE ledger_ledger{table} SET recorded_at = recorded_at - interval '61 minutes'"
            f" WHERE {column} = %s",
            row.pk,
        )
    assert findings() == {"not_sealed": [f"transaction:{row.pk}"]}
