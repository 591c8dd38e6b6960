"""The entries become monthly partitions: nothing that reads, writes or guards them notices."""

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, transaction

from commerce import guards, roles
from commerce.parties.models import Organization
from ledger.models import LedgerEntry
from ledger.rules import recipes
from ledger.rules.months import after
from ledger.services import balance, keep, post, statement, verify_ledger
from tests.ledger.conftest import ACTOR, make_people, usd
from tests.ledger.months import own_database
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
    return people


def fund(key):
    acme = Organization.objects.get(slug="acme").pk
    entries = recipes.fund_wallet(platform=Organization.objects.platform().pk, buyer=acme, amount=usd("1"))
    post(entries=entries, key=key, source="t", recipe="fund_wallet", at=datetime.now(UTC), actor=ACTOR)


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


@pytest.mark.django_db(transaction=True)
def test_postings_go_on_while_the_entries_become_partitions(django_db_blocker):
    """By the command, which leaves no right to be granted afterwards, and beside an old reader."""
    with own_database():
        make_people()
        fund("before")
        stop, reading, posted, errors = threading.Event(), threading.Event(), [], []

        def write(number):
            try:
                while not stop.is_set():
                    began = time.monotonic()
                    fund(f"{number}:{began}")
                    posted.append((began, time.monotonic() - began))
            except BaseException as error:
                errors.append(error)
            finally:
                connection.close()

        def read():
            with transaction.atomic():
                sql("SELECT count(*) FROM ledger_ledgerentry")
                reading.set()
                time.sleep(1)
            connection.close()

        threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
        threads.append(threading.Thread(target=read))
        for thread in threads:
            thread.start()
        try:
            assert reading.wait(10)
            began = time.monotonic()
            call_command("ledger_partition", f"--ends={after(datetime.now(UTC).date()):%Y-%m}")
            ended = time.monotonic()
            time.sleep(0.3)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert errors == [], "the application went on with the rights that it had"
        assert len(partitions()) == 4
        assert [str(d) for d in roles.differences() if "DATABASE" not in d.object] == []
        assert ended - began > 0.5, "it waited for the reader"
        assert max(took for _, took in posted) < 0.5, "and nobody behind it"
        assert sum(at > ended for at, _ in posted) > 0
        keep(margin=timedelta(0))
        assert list(verify_ledger()) == []


def test_the_first_partition_does_not_end_in_the_past(people):
    for bound in ("date_trunc('month', now(), 'UTC')", "now() + interval '40 days 1 second'"):
        with pytest.raises(DatabaseError, match="ends with a month to come"), transaction.atomic():
            sql(f"SELECT ledger_partition_entries({bound})")
    assert partitions() == []


def test_nothing_is_partitioned_before_somebody_decides_it(people):
    assert sql("SELECT ledger_make_partitions(now() + interval '1 year')") == [(0,)]
    assert partitions() == []
