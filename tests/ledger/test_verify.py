"""`ledger_verify`: whoever owns the database and rewrites what is sealed is found, at the first row."""

import json
from io import StringIO

import pytest
from django.core.management import call_command

from commerce.errors import InvalidInput
from ledger.models import LedgerAccount, LedgerEntry, LedgerSeal, LedgerTransaction
from ledger.rules import recipes
from ledger.services import (
    anchor,
    compare_anchor,
    keep,
    post_pending,
    recent_seal,
    settle_pending,
    verify_ledger,
)
from tests.ledger.conftest import ACTOR, AT, make_people, usd
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


@pytest.mark.parametrize(
    "change",
    [
        "owner_id = %s",
        "owner_id = %s, kind = 'COMMITTED'",
        "owner_id = %s, account_class = 'asset', normal = 'debit'",
        "owner_id = %s, opened_at = opened_at - interval '1 microsecond'",
    ],
)
def test_whose_account_it_is_is_sealed(sealed, people, change):
    account = LedgerAccount.objects.get(kind="AVAILABLE")
    tamper(f"UPDATE ledger_ledgeraccount SET {change} WHERE id = %s", people.northwind, account.pk)
    assert ("sealed_row_changed", f"account:{account.pk}") in found()
    assert not any(kind in ("seal_broken", "balance_not_sum") for kind, _ in found())


def test_an_account_that_is_gone_or_was_slipped_in_is_not_what_was_sealed(sealed, people):
    account = LedgerAccount.objects.get(kind="AVAILABLE")
    tamper(
        "INSERT INTO ledger_ledgeraccount (owner_id, kind, currency, account_class, normal, stripes,"
        " opened_at) SELECT %s, kind, currency, account_class, normal, stripes, opened_at"
        " FROM ledger_ledgeraccount WHERE id = %s",
        people.northwind,
        account.pk,
    )
    forged = LedgerAccount.objects.get(owner=people.northwind)
    assert ("row_after_seal", f"account:{forged.pk}") in found()
    tamper("DELETE FROM ledger_ledgeraccount WHERE id = %s", forged.pk)
    assert found() == []
    tamper("DELETE FROM ledger_ledgeraccount WHERE id = %s", account.pk)
    assert ("sealed_row_missing", f"account:{account.pk}") in found()


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
               FROM (SELECT p.hash AS previous, b.members
                       FROM ledger_ledgerseal o JOIN ledger_ledgerseal p ON p.number = o.number - 1
                      CROSS JOIN LATERAL ledger_block(p.until, o.until) b
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


def test_what_is_set_aside_is_held_against_what_is_pending_from_any_seal_on(sealed, people, posted):
    """Whether it was set aside before that seal or after it."""
    entries = recipes.commit(buyer=people.acme, downpayment=usd("1"), expected=usd("1"))
    rows = {}
    for key in ("old", "settled", "new"):
        rows[key] = post_pending(entries=entries, key=key, source="t", recipe="commit", at=AT, actor=ACTOR)
        keep(margin=NOW)
    settle_pending(transaction=rows["settled"], key="done", at=AT, actor=ACTOR)
    keep(margin=NOW)
    wallet = LedgerAccount.objects.get(kind="AVAILABLE")
    assert [found(since=number) for number in range(1, 8)] == [[]] * 7
    tamper("UPDATE ledger_ledgerbalance SET held_dr = 200 WHERE account_id = %s", wallet.pk)
    assert [found(since=number) for number in (1, 7)] == [[("hold_not_sum", f"account:{wallet.pk}")]] * 2


def test_a_resolution_is_looked_at_from_the_seal_that_covers_it(sealed, people, posted):
    tamper("UPDATE ledger_ledgertransaction SET resolves_id = %s WHERE key = 'c'", sealed["a"].pk)
    assert ("resolved_twice", of(sealed["a"])) in found(since=2)
    assert found(since=3) == []


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
    for line in (
        "[]",
        "1",
        "null",
        '"3"',
        "{}",
        '{"number": true, "hash": ""}',
        '{"number": 1e3, "hash": ""}',
    ):
        file.write_text(line)
        assert run("--against", str(file))[:2] == (6, ""), line
    file.write_text('{"number": 9999999999999999999999, "hash": "00"}')
    assert run("--against", str(file))[:2] == (6, "")


def test_there_is_no_anchor_before_the_first_seal(db):
    assert run("--anchor")[0] == 6
