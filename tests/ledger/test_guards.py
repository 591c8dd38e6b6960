"""The database itself refuses to rewrite history, whoever asks."""

from datetime import timedelta

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from commerce import guards
from ledger.models import LedgerEntry
from ledger.rules import recipes
from ledger.services import post_pending, schedule_release
from tests.ledger.conftest import ACTOR, AT, holds, usd


@pytest.fixture
def rows_everywhere(people, posted):
    posted(
        "fund_wallet",
        recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd("100")),
        "f",
    )
    post_pending(
        entries=recipes.commit(buyer=people.acme, downpayment=usd("0"), expected=usd("1")),
        key="p",
        source="s",
        recipe="commit",
        at=AT,
        actor=ACTOR,
    )
    schedule_release(
        owner=people.acme,
        amount=usd("1"),
        due_at=AT + timedelta(days=1),
        source="s",
        key="r",
        at=AT,
        actor=ACTOR,
    )
    return people


def refused(sql):
    with pytest.raises(DatabaseError) as error, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)
    return error.value


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("ledgeraccount", "kind = 'RESERVE'"),
        ("ledgertransaction", "description = 'better'"),
        ("ledgerentry", "amount = amount + 1"),
        ("ledgerhold", "amount = amount + 1"),
        ("ledgerbalance", "floor = NULL"),
        ("ledgerrelease", "amount_minor = 2"),
    ],
)
def test_rows_are_neither_changed_nor_deleted(rows_everywhere, table, change):
    for sql in (f"UPDATE ledger_{table} SET {change}", f"DELETE FROM ledger_{table}"):
        assert refused(sql).__cause__.sqlstate == "23001"
    assert holds(rows_everywhere.acme, "AVAILABLE") == usd("100")


def test_replication_mode_does_not_switch_the_guards_off(rows_everywhere):
    assert (
        refused(
            "SET LOCAL session_replication_role = replica; DELETE FROM ledger_ledgerentry"
        ).__cause__.sqlstate
        == "23001"
    )


def test_entries_that_do_not_balance_cannot_be_inserted(rows_everywhere):
    entry = LedgerEntry.objects.order_by("-account_id").first()
    for table, columns, values in (
        (
            "ledgerentry",
            "account_id, stripe, version, transaction_id, currency, amount, balance_after, "
            "effective_at, recorded_at",
            f"{entry.account_id}, 0, 2, '{entry.transaction_id}', 'USD', 5, 5, now(), now()",
        ),
        (
            "ledgerhold",
            "account_id, stripe, transaction_id, currency, amount",
            f"{entry.account_id}, 0, '{entry.transaction_id}', 'USD', 5",
        ),
    ):
        error = refused(f"INSERT INTO ledger_{table} ({columns}) VALUES ({values})")
        assert "off balance by 5 minor units of USD" in str(error)


def test_a_balance_below_the_floor_cannot_be_written(rows_everywhere):
    for change in ("posted = -1", "held_dr = posted + 1"):
        error = refused(f"UPDATE ledger_ledgerbalance SET {change} WHERE floor = 0")
        assert isinstance(error, IntegrityError)
        assert "balance_not_below_floor" in str(error)


def test_a_release_follows_its_states_only(rows_everywhere):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE ledger_ledgerrelease SET status = 'cancelled'")
    for state in ("scheduled", "held"):
        error = refused(f"UPDATE ledger_ledgerrelease SET status = '{state}'")
        assert f'may not go from "cancelled" to "{state}"' in str(error)


def test_the_guards_in_the_database_are_those_the_models_ask_for(db):
    assert [name for name in guards.missing() if name.startswith("ledger_")] == []
