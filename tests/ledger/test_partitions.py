"""The entries become monthly partitions: nothing that reads, writes or guards them notices."""

import pytest
from django.db import DatabaseError, connection, transaction

from commerce import guards, roles
from ledger.models import LedgerEntry
from ledger.rules import recipes
from ledger.services import balance, statement
from tests.ledger.conftest import usd
from tests.ledger.test_guards import refused
from tests.ledger.test_invariants import findings

BOUND = "date_trunc('month', now(), 'UTC') + interval '1 month'"


def sql(statement):
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def partitioned(people, posted):
    entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd("100"))
    posted("fund_wallet", entries, "before")
    sql("SET CONSTRAINTS ALL IMMEDIATE")
    assert sql(f"SELECT ledger_partition_entries({BOUND})") == [(True,)]
    roles.grant()
    return people


def partitions():
    found = sql(
        "SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent = 'ledger_ledgerentry'::regclass ORDER BY 1"
    )
    return [name for (name,) in found]


def test_what_was_posted_before_stays_and_what_is_posted_after_follows(partitioned, posted):
    people = partitioned
    entries = recipes.commit(buyer=people.acme, downpayment=usd("0"), expected=usd("30"))
    posted("commit", entries, "after")
    assert balance(owner=people.acme, kind="AVAILABLE", currency="USD") == 7000
    wallet = LedgerEntry.objects.filter(account__kind="AVAILABLE").order_by("version")
    assert [(row.version, row.amount, row.balance_after) for row in wallet] == [
        (1, 10000, 10000),
        (2, -3000, 7000),
    ]
    assert [line.balance for line in statement(account=wallet[0].account).lines] == [usd("70"), usd("100")]
    assert findings() == {}


def test_the_table_as_it_was_is_the_first_partition_and_months_follow_ahead(partitioned):
    first, *others = partitions()[::-1]
    assert first.startswith("ledger_ledgerentry_until_")
    assert len(others) == 3
    assert sql(f"SELECT count(*) FROM {first}") == [(2,)]
    assert sql(f"SELECT ledger_partition_entries({BOUND})") == [(False,)]
    assert sql("SELECT ledger_make_partitions(now() + interval '1 day')") == [(0,)]
    assert sql("SELECT ledger_make_partitions(now() + interval '99 years')")[0][0] < 24
    assert len(partitions()) < 28, "never more than two years ahead"


def test_rows_of_every_partition_stay_what_they_are(partitioned):
    for table in ("ledger_ledgerentry", *partitions()):
        if sql(f"SELECT count(*) FROM {table}") == [(0,)]:
            continue
        for change in (f"UPDATE {table} SET amount = amount + 1", f"DELETE FROM {table}"):
            assert "never changed or removed" in str(refused(change))
    error = refused(
        "INSERT INTO ledger_ledgerentry SELECT account_id, stripe, 9, transaction_id, currency, 5, 5,"
        " effective_at, recorded_at FROM ledger_ledgerentry LIMIT 1"
    )
    assert "off balance by 5" in str(error)
    assert guards.missing() == []


def test_seals_cover_what_is_recorded_in_the_partitions_to_come(partitioned):
    for table in ("ledger_ledgertransaction", "ledger_ledgerentry"):
        sql(f"ALTER TABLE {table} DISABLE TRIGGER guard_append_only")
    first = partitions()[-1]
    sql(f"ALTER TABLE {first} DISABLE TRIGGER guard_append_only")
    for table in ("ledger_ledgertransaction", "ledger_ledgerentry"):
        sql(f"UPDATE {table} SET recorded_at = recorded_at + interval '1 month'")
    assert sql(f"SELECT count(*) FROM {first}") == [(0,)]
    assert sql("SELECT entries FROM ledger_digests('-infinity', 'infinity')") == [(2,)]


def test_the_application_reaches_partitions_through_their_table_only(partitioned):
    assert [str(difference) for difference in roles.differences()] == []
    role = roles.application()
    for verb in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"):
        for table in partitions():
            assert sql(f"SELECT has_table_privilege('{role}', '{table}', '{verb}')") == [(False,)]
    assert sql(f"SELECT has_table_privilege('{role}', 'ledger_ledgerentry', 'SELECT')") == [(True,)]


def test_the_first_partition_does_not_end_in_the_past(people):
    for bound in ("date_trunc('month', now(), 'UTC')", "now() + interval '40 days 1 second'"):
        with pytest.raises(DatabaseError, match="ends with a month to come"), transaction.atomic():
            sql(f"SELECT ledger_partition_entries({bound})")
    assert partitions() == []


def test_nothing_is_partitioned_before_somebody_decides_it(people):
    assert sql("SELECT ledger_make_partitions(now() + interval '1 year')") == [(0,)]
    assert partitions() == []
