"""`ledger_verify`: whoever owns the database and rewrites what is sealed is found, at the first row."""

import json
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection

from commerce.errors import InvalidInput
from ledger.models import LedgerEntry, LedgerSeal, LedgerTransaction
from ledger.rules import recipes
from ledger.services import anchor, compare_anchor, keep, recent_seal, verify_ledger
from tests.ledger.conftest import make_people, usd
from tests.ledger.test_invariants import tamper
from tests.ledger.test_keeping import NOW


@pytest.fixture
def sealed(people, posted):
    """Six fundings of 1 to 6 dollars in three seals of two."""
    return fund_and_seal(people, posted)


def fund_and_seal(people, posted):
    rows = {}
    for key in "abcdef":
        amount = usd(str(len(rows) + 1))
        entries = recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=amount)
        rows[key] = posted("fund_wallet", entries, key)
    assert keep(limit=2, margin=NOW) == 6
    assert found() == []
    return rows


def found(**options):
    return [(finding.type, finding.subject) for finding in verify_ledger(**options)]


def of(row):
    return f"transaction:{row.pk}"


def test_a_changed_description_is_found_though_every_sum_is_right(sealed):
    tamper("UPDATE ledger_ledgertransaction SET description = 'bonus' WHERE id = %s", sealed["c"].pk)
    assert found() == [("sealed_row_changed", of(sealed["c"]))]


@pytest.mark.parametrize(
    "change",
    [
        "key = key || '2'",
        "source = 'other'",
        "recipe = 'commit'",
        "actor = 'user:2'",
        "fingerprint = 'x'::bytea",
    ],
)
def test_every_column_is_sealed(sealed, change):
    tamper(f"UPDATE ledger_ledgertransaction SET {change} WHERE id = %s", sealed["e"].pk)
    assert found() == [("sealed_row_changed", of(sealed["e"]))]


def test_both_amounts_and_all_that_follows_from_them_rewritten(sealed):
    tamper("UPDATE ledger_ledgerentry SET amount = amount * 2 WHERE transaction_id = %s", sealed["b"].pk)
    entries = LedgerEntry.objects.filter(transaction=sealed["b"])
    kinds = dict(found())
    assert kinds["sealed_row_changed"] == of(sealed["b"])
    assert {subject for kind, subject in found() if kind == "running_balance"} == {
        f"entry:{entry.account_id}/{entry.stripe}#{entry.version}" for entry in entries
    }
    assert "unbalanced" not in kinds

    # Whoever makes every balance and sum follow as well still meets the seal.
    for entry in entries:
        tamper(
            "UPDATE ledger_ledgerentry SET balance_after = balance_after + %s WHERE account_id = %s"
            " AND version >= %s",
            entry.amount // 2,
            entry.account_id,
            entry.version,
        )
        tamper(
            "UPDATE ledger_ledgerbalance SET posted = posted + %s WHERE account_id = %s AND stripe = %s",
            entry.amount // 2,
            entry.account_id,
            entry.stripe,
        )
    for table in ("day", "month"):
        tamper(f"UPDATE ledger_ledger{table} SET debit = debit + 200 WHERE debit > 0")
        tamper(f"UPDATE ledger_ledger{table} SET credit = credit + 200 WHERE credit > 0")
    assert found() == [("sealed_row_changed", of(sealed[key])) for key in "bcdef"]


def test_a_transaction_removed_with_its_entries(sealed):
    tamper("DELETE FROM ledger_ledgerentry WHERE transaction_id = %s", sealed["d"].pk)
    tamper("DELETE FROM ledger_ledgertransaction WHERE id = %s", sealed["d"].pk)
    findings = found()
    assert ("sealed_row_missing", of(sealed["d"])) in findings
    assert {kind for kind, _ in findings} == {
        "sealed_row_missing",
        "balance_not_sum",
        "gap_in_versions",
        "day_not_sum",
    }


def test_a_forged_pair_slipped_into_a_time_that_is_sealed(sealed):
    forged = LedgerTransaction.objects.get(key="c")
    tamper(
        """INSERT INTO ledger_ledgertransaction (id, key, fingerprint, status, source, recipe, description,
                                                 actor, effective_at, recorded_at)
           SELECT gen_random_uuid(), 'forged', fingerprint, status, source, recipe, description, actor,
                  effective_at, recorded_at FROM ledger_ledgertransaction WHERE id = %s""",
        forged.pk,
    )
    tamper(
        """INSERT INTO ledger_ledgerentry SELECT account_id, stripe, version + 1000, t.id, currency, amount,
             balance_after, e.effective_at, e.recorded_at
           FROM ledger_ledgerentry e, ledger_ledgertransaction t
           WHERE t.key = 'forged' AND e.transaction_id = %s""",
        forged.pk,
    )
    findings = found()
    row = LedgerTransaction.objects.get(key="forged")
    assert [subject for kind, subject in findings if kind == "row_after_seal"] == [of(row)]
    assert not any(kind in ("unbalanced", "sealed_row_changed", "seal_broken") for kind, _ in findings)


def test_a_digest_rewritten_in_a_seal(sealed):
    tamper(
        "UPDATE ledger_ledgerseal SET members = set_byte(members, 48 + 20, 255 - get_byte(members, 48 + 20))"
        " WHERE number = 2"
    )
    assert found() == [("seal_broken", "seal:2"), ("sealed_row_changed", of(sealed["d"]))]


def rewrite(sql, *numbers):
    """Change rows, then compute these seals again, each from the one before."""
    tamper(sql)
    for number in numbers:
        tamper(
            """UPDATE ledger_ledgerseal s SET previous = n.previous, members = n.members,
                 hash = ledger_seal_hash(n.previous, s.number, s.until, s.transactions, s.entries, n.members)
               FROM (SELECT p.hash AS previous,
                            (SELECT string_agg(uuid_send(d.id) || d.digest, '' ORDER BY d.recorded_at, d.id)
                               FROM ledger_digests(p.until, o.until) d) AS members
                       FROM ledger_ledgerseal o JOIN ledger_ledgerseal p ON p.number = o.number - 1
                      WHERE o.number = %s) n WHERE s.number = %s""",
            number,
            number,
        )


CHANGE = "UPDATE ledger_ledgertransaction SET description = 'bonus' WHERE key = 'c'"


def test_a_seal_rewritten_with_its_hash_does_not_fit_the_next(sealed):
    rewrite(CHANGE, 2)
    assert found() == [("seal_broken", "seal:3")]


def test_a_chain_rewritten_to_its_end_does_not_fit_what_was_kept_elsewhere(sealed):
    kept = anchor()
    assert compare_anchor(kept) == []
    rewrite(CHANGE, 2, 3)
    assert found() == []
    assert [(f.type, f.subject) for f in compare_anchor(kept)] == [("anchor_differs", "seal:3")]


def test_an_anchor_holds_while_the_chain_grows_and_not_when_it_is_cut(sealed, people, posted):
    kept = anchor()
    posted(
        "fund_wallet", recipes.fund_wallet(platform=people.platform, buyer=people.acme, amount=usd("7")), "g"
    )
    keep(margin=NOW)
    assert anchor()["number"] == kept["number"] + 1
    assert compare_anchor(kept) == []
    tamper("DELETE FROM ledger_ledgerseal WHERE number >= 3")
    assert [f.subject for f in compare_anchor(kept)] == ["seal:3"]


def test_a_seal_that_is_gone(sealed):
    tamper("DELETE FROM ledger_ledgerseal WHERE number = 2")
    assert ("seal_broken", "seal:3") in found()


def test_looking_from_a_seal_on_sees_what_it_covers_and_nothing_before(sealed):
    tamper(CHANGE)
    assert found(since=3) == found(since=4) == []
    assert found(since=2) == [("sealed_row_changed", of(sealed["c"]))]
    with pytest.raises(InvalidInput, match="no seal 5"):
        found(since=5)


def test_looking_from_a_seal_on_knows_what_each_account_held_before_it(sealed):
    entry = LedgerEntry.objects.get(transaction=sealed["f"], account__kind="AVAILABLE")
    tamper(
        "UPDATE ledger_ledgerentry SET balance_after = balance_after + 1 WHERE transaction_id = %s"
        " AND account_id = %s",
        sealed["f"].pk,
        entry.account_id,
    )
    assert found(since=3) == found()
    assert ("running_balance", f"entry:{entry.account_id}/0#6") in found(since=3)


def test_a_posting_into_a_month_that_was_closed_before(sealed):
    tamper(
        "INSERT INTO ledger_ledgerperiod (id, starts_on, ends_on, status)"
        " VALUES (gen_random_uuid(), '2027-03-01', '2027-04-01', 'closed')"
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO commerce_transitionlog (id, model, object_id, field, name, source, target, actor,"
            " reason, request_id, at, recorded_at) SELECT gen_random_uuid(), 'ledger.ledgerperiod', id::text,"
            " 'status', 'close', 'closing', 'closed', 'test', '', '', now(), %s FROM ledger_ledgerperiod",
            [sealed["e"].recorded_at],
        )
    findings = found()
    assert [s for kind, s in findings if kind == "posted_into_closed"] == [of(sealed["f"])]
    assert sum(kind == "period_not_sum" for kind, _ in findings) == 2


def test_the_recent_part_begins_at_the_first_seal_of_a_small_ledger(sealed):
    assert recent_seal() == 1


def run(*arguments):
    out, err, code = StringIO(), StringIO(), 0
    try:
        call_command("ledger_verify", *arguments, stdout=out, stderr=err)
    except SystemExit as exit_:
        code = exit_.code
    return code, out.getvalue(), err.getvalue()


@pytest.mark.django_db(transaction=True)
def test_the_command_looks_over_two_connections_and_names_what_it_finds(posted):
    rows = fund_and_seal(make_people(), posted)
    code, out, err = run("--full")
    assert (code, out.strip()) == (0, "From seal 1: 0 findings.")
    assert "Seals 1 to 3" in err
    tamper(CHANGE)
    code, out, _ = run("--full")
    assert code == 3
    assert f"sealed_row_changed {of(rows['c'])}: " in out
    code, out, _ = run("--json", "--from-seq", "2")
    assert code == 3
    assert [f["type"] for f in json.loads(out)["findings"]] == ["sealed_row_changed"]
    assert run("--from-seq", "3")[0] == 0
    for nowhere in ("0", "4", "-1"):
        code, out, err = run("--from-seq", nowhere)
        assert (code, out) == (2, "")
        assert f"There is no seal {nowhere}" in err


def test_the_command_prints_an_anchor_and_compares_with_a_file_of_them(sealed, tmp_path):
    code, line, _ = run("--anchor")
    seal = LedgerSeal.objects.get(number=3)
    assert json.loads(line) == {
        "number": 3,
        "until": seal.until.isoformat(),
        "hash": bytes(seal.hash).hex(),
        "transactions": 2,
        "entries": 4,
    }
    file = tmp_path / "anchors"
    file.write_text(line + line)
    assert run("--against", str(file))[:2] == (0, "2 anchors hold.\n")
    rewrite(CHANGE, 2, 3)
    code, out, _ = run("--against", str(file))
    assert (code, out.split()[:2]) == (3, ["anchor_differs", "seal:3:"])
    file.write_text("nothing")
    assert run("--against", str(file))[0] == 2


def test_there_is_no_anchor_before_the_first_seal(db):
    assert run("--anchor")[0] == 6
