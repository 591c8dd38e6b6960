"""Months leave the database and come back: nothing else changes, nobody waits, every crash can be resumed."""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from itertools import pairwise

import pytest
from django.core.management import call_command
from django.db import connection

from commerce.actor import Actor
from commerce.embedded import REPOSITORY
from commerce.errors import CommerceError, Conflict
from ledger.models import LedgerArchive, LedgerBalance, LedgerEntry, LedgerTransaction
from ledger.services import balance, compare_archive, keep, remove_month, restore_month, verify_ledger
from ledger.services.partitions import parts
from tests.ledger.months import (
    LAST,
    OLD,
    OLDEST,
    THIS,
    A,
    B,
    drop_database,
    end_of,
    everything,
    fund_again,
    make_months,
    noon,
    own_database,
    owner_of,
    sql,
    unguarded,
)

pytestmark = pytest.mark.django_db(transaction=True)
ACTOR = Actor.system("test")


@pytest.fixture(scope="module")
def made(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        with own_database(keep=True) as name:
            make_months()
        yield name
        drop_database(name)


@pytest.fixture
def months(made, django_db_blocker):
    with django_db_blocker.unblock(), own_database(made) as name:
        yield name


def remove(month, folder):
    return remove_month(month=month, folder=folder, actor=ACTOR, at=noon(THIS))


def restore(month, folder):
    path = folder / f"entries-{month:%Y-%m}.csv.gz"
    return restore_month(month=month, path=path, actor=ACTOR, at=noon(THIS))


def found():
    return [(finding.type, finding.subject) for finding in verify_ledger()]


def recorded(month):
    start, end = end_of(month).replace(day=1, hour=0, minute=0, second=0, microsecond=0), end_of(month)
    return LedgerEntry.objects.filter(recorded_at__gte=start, recorded_at__lte=end).count()


def names():
    return [(part.name.removeprefix("ledger_ledgerentry_"), part.state) for part in parts()]


def test_what_left_is_written_down_and_gone_and_nothing_else_changed(months, tmp_path):
    before, kept, entries = everything(), recorded(A), recorded(OLD)
    assert entries == 6
    assert found() == []
    rows = remove(OLD, tmp_path)
    assert [(row.month, row.entries, row.transactions, row.step) for row in rows] == [(OLD, 6, 3, "removed")]
    assert rows[0].horizon == end_of(OLD) + timedelta(microseconds=1)
    assert (rows[0].last_day, str(rows[0].actor)) == (noon(OLD).date(), str(ACTOR))
    assert not any("until" in name for name, _ in names())
    assert (recorded(OLD), recorded(A)) == (0, kept)
    assert LedgerTransaction.objects.filter(key=f"fund:{OLD}").exists(), "transactions stay"
    assert everything() == before
    assert found() == []


def test_months_that_come_back_are_what_they_were(months, tmp_path):
    before, rows = everything(), list(LedgerEntry.objects.order_by("account", "stripe", "version").values())
    for month in (OLD, A, B):
        remove(month, tmp_path)
        assert everything() == before
        assert found() == []
    for month in (B, A, OLD):
        assert restore(month, tmp_path).step == "restored"
        assert everything() == before
        assert found() == []
    assert list(LedgerEntry.objects.order_by("account", "stripe", "version").values()) == rows
    remove(OLD, tmp_path)
    assert found() == []
    assert [row.step for row in LedgerArchive.objects.order_by("pk")] == [
        "removed", "removed", "removed", "restored", "restored", "restored", "removed",
    ]  # fmt: skip


def test_postings_go_on_behind_the_horizon(months, tmp_path):
    remove(OLD, tmp_path)
    held = balance(owner=owner_of("acme"), kind="AVAILABLE", currency="USD")
    fund_again("after")
    assert balance(owner=owner_of("acme"), kind="AVAILABLE", currency="USD") == held + 100
    assert keep(margin=timedelta(0)) == 1
    assert found() == []


@pytest.mark.parametrize(
    ("month", "code", "says"),
    [
        (A, "month_not_next", f"{OLD:%B %Y} leaves first with everything before it: --month {OLD:%Y-%m}"),
        (OLDEST, "month_not_next", "leaves first with everything before it"),
        (LAST, "month_too_recent", "stays"),
        (THIS, "month_too_recent", "stays"),
    ],
)
def test_only_the_oldest_month_that_is_over_leaves(months, tmp_path, month, code, says):
    with pytest.raises(Conflict, match=says) as refusal:
        remove(month, tmp_path)
    assert refusal.value.code == code
    assert (recorded(OLD), LedgerArchive.objects.count(), list(tmp_path.iterdir())) == (6, 0, [])


def test_a_month_whose_books_are_open_stays(months, tmp_path):
    sql("UPDATE ledger_ledgerperiod SET status = 'open'")
    with pytest.raises(Conflict, match="is not closed"):
        remove(OLD, tmp_path)
    assert (recorded(OLD), LedgerArchive.objects.count()) == (6, 0)


def test_a_month_that_is_not_as_it_was_sealed_stays(months, tmp_path):
    unguarded("UPDATE ledger_ledgerentry SET effective_at = effective_at + interval '1 s' WHERE version = 1")
    with pytest.raises(Conflict, match="not as it was sealed"):
        remove(OLD, tmp_path)
    assert (recorded(OLD), LedgerArchive.objects.count()) == (6, 0)


def test_a_month_whose_file_was_changed_since_it_was_written_stays(months, tmp_path):
    call_command("ledger_archive", f"--before={A:%Y-%m}", "--output", str(tmp_path))
    path = tmp_path / f"entries-{OLD:%Y-%m}.csv.gz"
    kept = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(kept).replace(b"100", b"101", 1)))
    with pytest.raises(Conflict, match="not what was written"):
        remove(OLD, tmp_path)
    assert (recorded(OLD), LedgerArchive.objects.count()) == (6, 0)
    path.write_bytes(kept)
    remove(OLD, tmp_path)
    assert recorded(OLD) == 0


def test_nothing_is_dropped_when_its_file_went_after_it_was_proved(months, tmp_path, monkeypatch):
    from ledger.services import removal

    def lose(name):
        if name == "ledger.archive_detached":
            (tmp_path / f"entries-{OLD:%Y-%m}.csv.gz").unlink()

    monkeypatch.setattr(removal, "crash_point", lose)
    with pytest.raises(Conflict, match="still in ledger_ledgerentry_until"):
        remove(OLD, tmp_path)
    assert names()[0] == (f"until_{A:%Y%m}", "detached")
    assert sql(f"SELECT count(*) FROM ledger_ledgerentry_until_{A:%Y%m}") == [(6,)]


def test_the_application_may_neither_remove_nor_restore(months, tmp_path):
    errors = []

    def as_the_application():
        try:
            remove(OLD, tmp_path)
        except CommerceError as error:
            errors.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=as_the_application)
    thread.start()
    thread.join()
    assert [error.code for error in errors] == ["permission_denied"]
    assert (recorded(OLD), LedgerArchive.objects.count()) == (6, 0)


def test_a_month_comes_back_from_its_own_file_only(months, tmp_path):
    remove(OLD, tmp_path)
    path = tmp_path / f"entries-{OLD:%Y-%m}.csv.gz"
    kept = path.read_bytes()
    more = gzip.compress(gzip.decompress(kept).replace(b"100", b"101", 1))
    for content in (more, kept[: len(kept) // 2], b""):
        path.write_bytes(content)
        with pytest.raises(Conflict, match=f"is not what {OLD:%B %Y} left as"):
            restore(OLD, tmp_path)
        assert (recorded(OLD), LedgerArchive.objects.count()) == (0, 1)
    path.write_bytes(kept)
    restore(OLD, tmp_path)
    assert recorded(OLD) == 6


def test_what_left_last_comes_back_first(months, tmp_path):
    with pytest.raises(Conflict, match="has not left"):
        restore(OLD, tmp_path)
    remove(OLD, tmp_path), remove(A, tmp_path)
    with pytest.raises(Conflict, match=f"--month {A:%Y-%m} --restore"):
        restore(OLD, tmp_path)
    with pytest.raises(Conflict, match="has left already"):
        remove(OLD, tmp_path)
    assert LedgerArchive.objects.count() == 2


def test_rows_that_came_back_are_guarded_and_not_the_applications(months, tmp_path):
    remove(OLD, tmp_path), restore(OLD, tmp_path)
    name = f"ledger_ledgerentry_{OLD:%Y%m}"
    with pytest.raises(Exception, match="never changed or removed"):
        sql(f"UPDATE {name} SET amount = amount + 1")
    assert sql(f"SELECT has_table_privilege('commerce_app', '{name}', 'SELECT')") == [(False,)]


@pytest.mark.parametrize("table", ["ledger_ledgerarchive", "ledger_ledgercarriedbalance"])
def test_what_is_written_down_is_never_changed(months, tmp_path, table):
    remove(OLD, tmp_path)
    for change in (f"UPDATE {table} SET id = 1", f"DELETE FROM {table}"):
        change = change.replace("SET id = 1", "SET stripe = 1") if "carried" in table else change
        with pytest.raises(Exception, match="never changed or removed"):
            sql(change)


# Damage behind and before the horizon


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("UPDATE ledger_ledgerarchive SET entries = entries + 1", "archive_not_sum"),
        ("UPDATE ledger_ledgercarriedbalance SET balance_after = balance_after + 1", "carried_not_sum"),
        ("UPDATE ledger_ledgercarriedbalance SET version = version + 1", "carried_not_sum"),
        ("UPDATE ledger_ledgerday SET credit = credit + 1 WHERE recorded_day < %s", "carried_not_sum"),
        ("UPDATE ledger_ledgerbalance SET posted = posted + 1", "balance_not_sum"),
        ("DELETE FROM ledger_ledgerentry WHERE version = 4", "gap_in_versions"),
        ("DELETE FROM ledger_ledgertransaction WHERE recorded_at < %s", "sealed_row_missing"),
        ("UPDATE ledger_ledgertransaction SET source = 'x' WHERE recorded_at > %s", "sealed_row_changed"),
        ("UPDATE ledger_ledgeraccount SET opened_at = opened_at - interval '1 us'", "sealed_row_changed"),
    ],
)
def test_damage_is_found_on_both_sides_of_the_horizon(months, tmp_path, change, kind):
    remove(OLD, tmp_path)
    assert found() == []
    sql("SET session_replication_role = replica")
    unguarded(change, *([end_of(OLD)] if "%s" in change else []))
    sql("SET session_replication_role = origin")
    assert kind in dict(found())


def test_a_balance_that_nobody_moved_since_is_held_against_what_was_carried(months, tmp_path):
    remove(OLD, tmp_path)
    row = LedgerBalance.objects.get(account__owner=owner_of("bridge"), account__kind="AVAILABLE")
    unguarded("UPDATE ledger_ledgerbalance SET version = 2 WHERE account_id = %s", row.account_id)
    assert found() == [("balance_not_sum", f"account:{row.account_id}")]


def test_a_manifest_that_lacks_what_was_removed_is_wrong(months, tmp_path):
    remove(OLD, tmp_path)
    assert list(compare_archive(folder=tmp_path)) == []
    manifest = tmp_path / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text("")
    found = [file for file, _ in compare_archive(folder=tmp_path)]
    assert found == ["manifest.jsonl", *(line["file"] for line in lines)]


# Nobody waits


def test_postings_do_not_wait_while_a_month_leaves_and_an_old_reader_holds_it(months, tmp_path):
    """An old transaction makes the detaching wait; what is posted meanwhile does not."""
    hold, stop, slowest, posted, errors = 1.5, threading.Event(), [], [], []
    reading = threading.Event()

    def write(number):
        try:
            while not stop.is_set():
                began = time.monotonic()
                fund_again(f"{number}:{len(slowest)}:{began}")
                slowest.append(time.monotonic() - began)
                posted.append(time.monotonic())
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    def read():
        with connection.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT count(*) FROM ledger_ledgerentry")
            reading.set()
            time.sleep(hold)
            cursor.execute("COMMIT")
        connection.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    threads.append(threading.Thread(target=read))
    try:
        for thread in threads:
            thread.start()
        assert reading.wait(10)
        began = time.monotonic()
        remove(OLD, tmp_path)
        ended = time.monotonic()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert ended - began >= hold / 2, "the detaching waited for the reader"
    meanwhile = [instant for instant in posted if began < instant < ended]
    assert len(meanwhile) > 20
    assert max(after - before for before, after in pairwise(meanwhile)) < hold / 2
    assert max(slowest) < hold / 2
    assert recorded(OLD) == 0
    keep(margin=timedelta(0))
    assert found() == []


# Every crash can be resumed


def command(database, folder, month, crash_at="", how="--drop"):
    environment = {
        **os.environ,
        "DATABASE_NAME": database,
        "CRASH_AT": crash_at,
        "CRASH_MARKERS": str(folder),
    }
    where = ["--drop", "--output", str(folder)]
    if how == "--restore":
        where = ["--restore", str(folder / f"entries-{month:%Y-%m}.csv.gz")]
    return subprocess.Popen(
        [sys.executable, "manage.py", "ledger_archive", f"--month={month:%Y-%m}", *where],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("point", "state", "gone"),
    [("proved", "attached", False), ("noted", "attached", True), ("detached", "detached", True)],
)
def test_a_removal_that_was_killed_goes_on(months, tmp_path, point, state, gone):
    before = everything()
    killed = command(months, tmp_path, OLD, f"ledger.archive_{point}")
    assert killed.wait(60) == -signal.SIGKILL, killed.stderr.read()
    assert names()[0] == (f"until_{A:%Y%m}", state)
    assert LedgerArchive.objects.exists() is gone
    assert everything() == before
    assert [kind for kind, _ in found()] == (["removal_unfinished"] if point == "noted" else [])
    if gone:
        with pytest.raises(Conflict, match="has not ended"):
            restore(OLD, tmp_path)
    again = command(months, tmp_path, OLD)
    assert again.wait(60) == 0, again.stderr.read()
    assert (recorded(OLD), names()[0]) == (0, (f"{A:%Y%m}", "attached"))
    assert LedgerArchive.objects.count() == 1
    assert everything() == before
    assert found() == []


def test_a_detaching_that_was_interrupted_is_finished(months, tmp_path):
    before = everything()
    with connection.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM ledger_ledgerentry")
        killed = command(months, tmp_path, OLD)
        waiting = """SELECT pid FROM pg_stat_activity
                      WHERE datname = current_database() AND pid <> pg_backend_pid()
                        AND query LIKE 'ALTER%CONCURRENTLY' AND wait_event_type = 'Lock'"""
        give_up = time.monotonic() + 30
        while not killed.poll() and time.monotonic() < give_up:
            cursor.execute("SELECT pg_stat_clear_snapshot()")
            cursor.execute(waiting)
            if backend := cursor.fetchone():
                break
            time.sleep(0.05)
        killed.kill(), killed.wait(10)
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [backend[0]])
        cursor.execute("COMMIT")
    assert names()[0] == (f"until_{A:%Y%m}", "detaching")
    assert everything() == before
    remove(OLD, tmp_path)
    assert names()[0] == (f"{A:%Y%m}", "attached")
    assert everything() == before
    assert found() == []


def test_a_restoration_that_was_killed_leaves_nothing_and_can_be_repeated(months, tmp_path):
    remove(OLD, tmp_path)
    killed = command(months, tmp_path, OLD, "ledger.archive_attached", how="--restore")
    assert killed.wait(60) == -signal.SIGKILL, killed.stderr.read()
    give_up = time.monotonic() + 10
    while sql(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    assert (recorded(OLD), LedgerArchive.objects.count(), names()[0][0]) == (0, 1, f"{A:%Y%m}")
    again = command(months, tmp_path, OLD, how="--restore")
    assert again.wait(60) == 0, again.stderr.read()
    assert recorded(OLD) == 6
    assert found() == []
