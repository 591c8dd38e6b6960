"""Months of entries as files: what is written, what is refused, and that a file and the ledger agree.

The ledger records by the wall clock, so a month that is over has to be made: the owner moves rows
back in time with the guards off, before they are sealed. What is archived is then sealed as ever.
"""

import csv
import gzip
import json
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import call_command
from django.db import connection

from commerce.errors import Conflict
from ledger.models import LedgerEntry, LedgerPeriod, LedgerSeal
from ledger.rules import recipes
from ledger.services import archivable, archive_month, balance, compare_archive, keep
from tests.ledger.conftest import usd
from tests.ledger.months import GUARDED, unguarded

NOW = datetime.now(UTC)
THIS_MONTH = NOW.date().replace(day=1)
LAST_MONTH = (THIS_MONTH - timedelta(days=1)).replace(day=1)
THEN = datetime(LAST_MONTH.year, LAST_MONTH.month, 10, 12, tzinfo=UTC)


def close(month):
    period = LedgerPeriod.objects.create(
        starts_on=month, ends_on=(month.replace(day=28) + timedelta(days=4)).replace(day=1)
    )
    for status in ("closing", "closed"):
        LedgerPeriod.objects.filter(pk=period.pk).update(status=status)


@pytest.fixture
def fund(people, posted):
    def _fund(key, dollars, at=THEN):
        entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd(dollars))
        return posted("fund_wallet", entries, key, at=at)

    return _fund


@pytest.fixture
def last_month(fund):
    """Two postings recorded last month, one recorded now; all sealed, last month's books closed."""
    fund("old", "1"), fund("older", "2", THEN - timedelta(days=1))
    for table in GUARDED:
        unguarded(f"UPDATE {table} SET recorded_at = %s + (recorded_at - %s)", THEN, NOW)
    fund("new", "4", NOW)
    keep(margin=timedelta(0))
    close(LAST_MONTH)


def read(path):
    with gzip.open(path, "rt") as file:
        return list(csv.DictReader(file))


def run(*arguments):
    try:
        call_command("ledger_archive", *arguments)
    except SystemExit as ended:
        return ended.code
    return 0


def test_a_month_is_written_with_the_balances_that_it_ends_with(last_month, tmp_path):
    line = archive_month(month=LAST_MONTH, folder=tmp_path)
    rows = read(tmp_path / line.file)
    written = LedgerEntry.objects.filter(recorded_at__lt=NOW).order_by("account", "stripe", "version")
    assert len(rows) == line.entries == 4
    assert [
        (int(r["account_id"]), int(r["version"]), int(r["amount"]), int(r["balance_after"])) for r in rows
    ] == list(written.values_list("account_id", "version", "amount", "balance_after"))
    assert [datetime.fromisoformat(r["recorded_at"]) for r in rows] == [e.recorded_at for e in written]
    after = {r["account_id"]: int(r["balance_after"]) for r in read(tmp_path / line.balances_file)}
    assert sorted(after.values()) == [-300, 300]
    assert LedgerEntry.objects.count() == 6, "nothing left the ledger"


def test_a_month_is_written_once_and_the_same_rows_give_the_same_bytes(last_month, tmp_path, capsys):
    before = f"--before={THIS_MONTH:%Y-%m}"
    assert run(before, "--output", str(tmp_path)) == 0
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(files) == 3
    assert run(before, "--output", str(tmp_path), "--json") == 0
    assert json.loads(capsys.readouterr().out.partition("\n")[2] or "[]") == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    (tmp_path / "manifest.jsonl").unlink()  # interrupted before it was noted
    assert run(before, "--output", str(tmp_path)) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_dry_run_says_what_could_be_written_and_writes_nothing(last_month, tmp_path, capsys):
    assert run(f"--before={THIS_MONTH:%Y-%m}", "--output", str(tmp_path), "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"month": LAST_MONTH.isoformat(), "written": False, "why_not": ""}
    ]
    assert list(tmp_path.iterdir()) == []


def test_the_month_that_is_not_over_is_no_candidate_and_is_refused(last_month, tmp_path):
    assert [row.month for row in archivable(before=THIS_MONTH, folder=tmp_path)] == [LAST_MONTH]
    with pytest.raises(Conflict, match="may still be recorded"):
        archive_month(month=THIS_MONTH, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_open_month_is_not_written(fund, tmp_path):
    fund("old", "1")
    for table in GUARDED:
        unguarded(f"UPDATE {table} SET recorded_at = %s", THEN)
    assert "is sealed" in next(archivable(before=THIS_MONTH, folder=tmp_path)).why_not
    fund("new", "1", NOW)
    keep(margin=timedelta(0))
    assert "is not closed" in next(archivable(before=THIS_MONTH, folder=tmp_path)).why_not
    assert run(f"--before={THIS_MONTH:%Y-%m}", "--output", str(tmp_path)) == 6
    assert list(tmp_path.iterdir()) == []


def test_an_entry_for_a_later_month_waits_until_that_one_is_closed(fund, tmp_path):
    fund("ahead", "1", NOW)
    for table in GUARDED:
        unguarded(f"UPDATE {table} SET recorded_at = %s", THEN)
    fund("new", "1", NOW)
    keep(margin=timedelta(0))
    close(LAST_MONTH)
    assert f"{THIS_MONTH:%B %Y} is not closed" in next(archivable(before=THIS_MONTH, folder=tmp_path)).why_not


def test_rows_that_are_not_as_they_were_sealed_are_not_written(last_month, tmp_path):
    unguarded("UPDATE ledger_ledgerentry SET amount = 2 * amount WHERE version = 1")
    with pytest.raises(Conflict, match="not as it was sealed"):
        archive_month(month=LAST_MONTH, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_file_a_missing_one_and_a_changed_ledger_are_found(last_month, tmp_path):
    line = archive_month(month=LAST_MONTH, folder=tmp_path)
    assert list(compare_archive(folder=tmp_path)) == []
    assert run("--check", "--output", str(tmp_path)) == 0
    path = tmp_path / line.file
    kept = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(kept).replace(b"100", b"101", 1)))
    (tmp_path / line.balances_file).unlink()
    assert [file for file, _ in compare_archive(folder=tmp_path)] == [line.file, line.balances_file]
    assert run("--check", "--output", str(tmp_path)) == 3
    path.write_bytes(kept[: len(kept) // 2])
    assert line.file in dict(compare_archive(folder=tmp_path)), "half a file"
    path.write_bytes(kept)
    unguarded("UPDATE ledger_ledgerentry SET effective_at = effective_at + interval '1 hour'")
    assert (line.file, "The ledger has other rows than were written.") in compare_archive(folder=tmp_path)


def test_a_folder_in_which_nothing_is_named_is_not_what_was_written(last_month, tmp_path):
    archive_month(month=LAST_MONTH, folder=tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    for folder in (tmp_path / "elsewhere", tmp_path):
        manifest.unlink(missing_ok=True)
        assert [file for file, _ in compare_archive(folder=folder)] == ["manifest.jsonl"]
        assert run("--check", "--output", str(folder)) == 3
    manifest.write_text("")
    assert run("--check", "--output", str(tmp_path)) == 3


def test_what_was_sealed_anew_does_not_pass_for_what_was_archived(last_month, tmp_path):
    line = archive_month(month=LAST_MONTH, folder=tmp_path)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE ledger_ledgerseal DISABLE TRIGGER guard_append_only")
        cursor.execute("UPDATE ledger_ledgerseal SET hash = sha256(hash) WHERE number = %s", [line.last_seal])
        cursor.execute("ALTER TABLE ledger_ledgerseal ENABLE ALWAYS TRIGGER guard_append_only")
    assert LedgerSeal.objects.count() >= 1
    assert [detail for _, detail in compare_archive(folder=tmp_path)] == [
        f"Seal {line.last_seal} is not the one that covered it."
    ]


def test_writing_months_changes_no_balance(last_month, people, tmp_path):
    archive_month(month=LAST_MONTH, folder=tmp_path)
    read_now = {
        at: balance(owner=people.acme, kind="AVAILABLE", currency="USD", at=at) for at in (None, THEN)
    }
    assert read_now == {None: 700, THEN: 300}
