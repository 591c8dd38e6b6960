"""What the ledger exports: rows that add up to its balances, and to nobody else's."""

import csv
import html
import io
import json
import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.urls import reverse

from commerce.console import exports
from commerce.console.export_formats import stream_writer
from commerce.console.exports import Selection, snapshot, source_named, write
from commerce.console.models import Export
from commerce.errors import InvalidInput
from commerce.management.ops import Exit
from commerce.money import Money
from ledger.models import LedgerAccount, LedgerEntry, LedgerTransaction
from ledger.rules import recipes
from ledger.services import balance, post_pending, statement
from tests.commerce.console.conftest import browser as browser
from tests.commerce.console.conftest import passwords as passwords
from tests.commerce.console.test_exports import Key
from tests.ledger.conftest import ACTOR, AT, People, usd

DAY = timedelta(days=1)
EVIL = "=HYPERLINK(1)"


@pytest.fixture
def story(people: People, posted: Callable[..., LedgerTransaction]) -> People:
    """Three days of wallets, with an entry that was recorded last and belongs to the first day."""
    p = people
    fund = {"platform": p.platform, "buyer": p.acme}
    posted("fund_wallet", recipes.fund_wallet(**fund, amount=usd("1000")), "fund", AT)
    posted("fund_wallet", recipes.fund_wallet(**fund, amount=Money(5000, "EUR")), "eur", AT + DAY)
    for number, at in ((1, AT + DAY), (2, AT + 2 * DAY), (3, AT)):
        entries = recipes.commit(buyer=p.acme, downpayment=usd("0"), expected=usd(f"{number}"))
        posted("commit", entries, f"commit:{number}", at)
    post_pending(
        entries=recipes.commit(buyer=p.acme, downpayment=usd("0"), expected=usd("7.50")),
        key="pend",
        source=EVIL,
        recipe="commit",
        at=AT,
        actor=ACTOR,
    )
    return p


def exported(name: str, organization: Any = None, **parameters: Any) -> tuple[list[dict], dict]:
    """The rows as JSON lines give them, and the totals in minor units."""
    source = source_named(f"ledger.{name}")
    stream = io.StringIO()
    selection = source.selection(parameters, organization)
    with snapshot():
        count = source.count(selection)
        done = write(source, selection, stream_writer("jsonl", source.columns, stream))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) - 1 == done.rows == count, "the progress bar would lie"
    return lines[:-1], {c: dict(sums) for c, sums in done.totals.items()}


def account(story: People, kind: str, currency: str = "USD") -> LedgerAccount:
    return LedgerAccount.objects.get(owner=story.acme, kind=kind, currency=currency)


def minor(amount: dict | None) -> int:
    return amount["amount_minor"] if amount else 0


def test_the_totals_of_all_entries_are_those_of_the_ledger(story: People) -> None:
    rows, totals = exported("entries")
    assert set(totals) == {"USD", "EUR"}
    for currency, sums in totals.items():
        signed = LedgerEntry.objects.filter(account__currency=currency).values_list("amount", flat=True)
        assert sums["credit"] == sum(amount for amount in signed if amount > 0)
        assert sums["debit"] == sums["credit"]
    for found in LedgerAccount.objects.all():
        own = [row for row in rows if row["account_id"] == found.pk]
        signed = sum(minor(row["credit"]) - minor(row["debit"]) for row in own)
        ours = balance(owner=found.owner_id, kind=found.kind, currency=found.currency)
        assert found.on_normal_side(signed) == ours
    keys = list(LedgerEntry.objects.order_by("pk").values_list("account_id", "transaction_id"))
    assert [(row["account_id"], row["transaction_id"]) for row in rows] == [(a, str(t)) for a, t in keys]


def test_entries_are_chosen_by_owner_kind_currency_and_either_instant(story: People) -> None:
    assert {row["owner"] for row in exported("entries", owner_id=str(story.acme))[0]} == {"Acme"}
    assert {row["kind"] for row in exported("entries", kind="COMMITTED")[0]} == {"COMMITTED"}
    assert {row["currency"] for row in exported("entries", currency="EUR")[0]} == {"EUR"}
    first = {"since": AT.isoformat(), "until": (AT + DAY).isoformat()}
    keys = {row["key"] for row in exported("entries", **first)[0]}
    assert keys == {"fund", "commit:3"}
    assert exported("entries", **first, by="recorded")[0] == []


def test_a_statement_begins_at_its_opening_and_ends_at_its_closing_back_dated_or_not(story: People) -> None:
    found = account(story, "AVAILABLE")
    period = {"since": (AT + DAY).isoformat(), "until": (AT + 3 * DAY).isoformat()}
    rows, totals = exported("statement", account_id=found.pk, **period)
    assert [row["line"] for row in rows] == ["opening", "entry", "entry", "closing"]
    assert [minor(row["balance"]) for row in rows] == [99700, 99600, 99400, 99400]
    assert totals == {"USD": {"debit": 300, "credit": 0}}
    page = statement(account=found, since=AT + DAY, until=AT + 3 * DAY)
    assert [line.balance.minor for line in page.lines] == [99400, 99600]
    assert (page.opening.minor, page.closing.minor) == (99700, 99400)
    whole, sums = exported("statement", account_id=found.pk)
    assert [row["key"] for row in whole[1:-1]] == ["fund", "commit:3", "commit:1", "commit:2"]
    assert minor(whole[0]["balance"]) == 0
    assert minor(whole[-1]["balance"]) == sums["USD"]["credit"] - sums["USD"]["debit"] == 99400
    assert found.on_normal_side(99400) == balance(owner=story.acme, kind="AVAILABLE", currency="USD")


def test_a_statement_can_be_asked_for_from_the_first_day_to_the_last_of_the_calendar(story: People) -> None:
    found = account(story, "AVAILABLE")
    ends = {"since": "0001-01-01T00:00:00Z", "until": "9999-12-31T23:59:59.999999Z"}
    rows, _ = exported("statement", account_id=found.pk, **ends)
    whole, _ = exported("statement", account_id=found.pk)
    assert rows[1:-1] == whole[1:-1]
    assert [minor(rows[place]["balance"]) for place in (0, -1)] == [0, 99400]


def test_a_statement_as_known_then_does_not_know_what_came_later(story: People) -> None:
    found = account(story, "AVAILABLE")
    then = LedgerEntry.objects.get(account=found, transaction__key="commit:2").recorded_at
    rows, _ = exported("statement", account_id=found.pk, known_at=then.isoformat())
    assert [row["key"] for row in rows[1:-1]] == ["fund", "commit:1", "commit:2"]
    assert minor(rows[-1]["balance"]) == 99700


def test_a_trial_balance_is_every_balance_and_its_sides_are_equal(story: People) -> None:
    for at in (None, AT, AT + DAY):
        rows, totals = exported("balances", **({"at": at.isoformat()} if at else {}))
        assert len(rows) == LedgerAccount.objects.count()
        for row in rows:
            side = minor(row["credit"]) - minor(row["debit"])
            owned = LedgerAccount.objects.get(pk=row["account_id"])
            ours = balance(owner=owned.owner_id, kind=owned.kind, currency=owned.currency, at=at)
            assert owned.on_normal_side(side) == ours
        for sums in totals.values():
            assert sums["debit"] == sums["credit"]
    assert minor(next(r for r in exported("balances")[0] if r["kind"] == "AVAILABLE")["available"]) == 98650


def test_transactions_have_a_row_for_each_currency_and_what_is_pending_moved_nothing(story: People) -> None:
    rows, totals = exported("transactions")
    assert [row["id"] for row in rows] == sorted(str(t.pk) for t in LedgerTransaction.objects.all())
    _, entries = exported("entries")
    assert {c: (s["debit"], s["credit"]) for c, s in totals.items()} == {
        c: (s["debit"], s["credit"]) for c, s in entries.items()
    }
    pending = next(row for row in rows if row["status"] == "pending")
    assert (pending["debit"], pending["credit"], minor(pending["set_aside"])) == (None, None, 750)
    assert [row["key"] for row in exported("transactions", status="pending")[0]] == ["pend"]
    assert len(exported("transactions", recipe="commit", until=(AT + DAY).isoformat())[0]) == 2


def test_an_organization_gets_its_own_rows_and_no_others(story: People) -> None:
    for name in ("entries", "balances", "accounts"):
        assert {row["owner"] for row in exported(name, story.acme)[0]} == {"Acme"}
        assert exported(name, story.northwind)[0] == []
        assert exported(name, story.northwind, owner_id=str(story.acme))[0] == []
    own = {row["id"]: row for row in exported("transactions", story.acme)[0]}
    funding = own[str(LedgerTransaction.objects.get(key="fund").pk)]
    assert (funding["debit"], minor(funding["credit"])) == (None, 100000), "the platform's leg is not theirs"
    assert exported("transactions", story.northwind)[0] == []
    assert exported("transactions", story.northwind, owner_id=str(story.acme))[0] == []
    with pytest.raises(InvalidInput):
        exported("statement", story.northwind, account_id=account(story, "AVAILABLE").pk)


@pytest.mark.django_db(transaction=True)
def test_what_is_posted_while_a_file_is_written_is_not_half_in_it(
    story: People, posted: Callable[..., LedgerTransaction]
) -> None:
    source, stream = source_named("ledger.entries"), io.StringIO()
    with snapshot():
        rows = source.rows(Selection({}))
        first = next(rows)
        beside = exports.connections.create_connection("default")
        with beside.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM ledger_ledgertransaction")
            before = cursor.fetchone()[0]
        beside.close()
        assert source.count(Selection({})) == 1 + sum(1 for _ in rows)
        assert first
        with connection.cursor() as cursor, pytest.raises(Exception, match="read-only"):
            cursor.execute("DELETE FROM console_export")
    assert before == LedgerTransaction.objects.count()
    assert stream.getvalue() == ""


# Doors


@pytest.fixture(autouse=True)
def _folder(settings: Any, tmp_path: Path) -> None:
    settings.EXPORTS_DIR = str(tmp_path / "exports")


def command(*arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("ledger_export", *arguments, stdout=out, stderr=err)
    except SystemExit as left:
        return int(str(left.code)), out.getvalue(), err.getvalue()
    return Exit.DONE, out.getvalue(), err.getvalue()


def test_the_command_writes_rows_to_standard_output_and_talk_to_the_other(story: People) -> None:
    code, out, talk = command("transactions")
    rows = list(csv.DictReader(io.StringIO(out.lstrip("\ufeff"), newline="")))
    assert code == Exit.DONE
    assert talk == "6 rows.\n"
    assert [row["Source"] for row in rows if row["Status"] == "pending"] == [f"'{EVIL}"]
    totals = {row["Currency"]: row for row in rows if row["ID"] == "Total"}
    assert Decimal(totals["USD"]["Debit"]) == Decimal(totals["USD"]["Credit"]) == Decimal("1006.00")


@pytest.mark.parametrize("format", ["csv", "xlsx", "jsonl"])
def test_the_command_writes_a_whole_file_and_says_its_hash(
    story: People, tmp_path: Path, format: str
) -> None:
    file = tmp_path / f"entries.{format}"
    code, out, _ = command("entries", "--format", format, "--output", str(file), "--json")
    facts = json.loads(out)
    assert code == Exit.DONE
    assert facts["sha256"] == exports.sha256_of(file)
    assert facts["rows"] == LedgerEntry.objects.count()
    assert facts["totals"]["USD"]["debit"] == facts["totals"]["USD"]["credit"] == 100600
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_an_interrupted_command_leaves_no_half_file_and_the_old_one(
    story: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "entries.csv"
    file.write_text("yesterday's")
    source = source_named("ledger.entries")

    def interrupted(selection: Selection) -> Any:
        yield next(source.rows(selection))
        raise KeyboardInterrupt

    broken = exports.Source(**{**vars(source), "rows": interrupted})
    monkeypatch.setitem(exports._sources, source.name, broken)
    for format in ("csv", "xlsx"):
        code, out, _ = command("entries", "--format", format, "--output", str(file))
        assert (code, out) == (Exit.INTERRUPTED, "")
    assert file.read_text() == "yesterday's"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["statement"], "--account: This field is required."),
        (["statement", "--account", "0"], "--account: "),
        (["statement", "--account", "987654321"], "--account: "),
        (["entries", "--since", "2027-03-01"], "--since: An instant such as 2027-03-01T00:00:00Z"),
        (["entries", "--at", "2027-03-01T00:00:00Z"], "--at: Unknown field."),
        (["entries", "--kind", "POCKET"], '--kind: "POCKET" is not a valid choice.'),
        (["entries", "--owner", "acme"], "--owner: "),
        (
            ["entries", "--since", "2027-03-02T00:00:00Z", "--until", "2027-03-01T00:00:00Z"],
            "--until: It must",
        ),
        (["balances", "--known-at", "now"], "--known-at: An instant"),
        (["balances", "--format", "xlsx"], "--format xlsx and --json need --output FILE."),
        (["balances", "--json"], "--format xlsx and --json need --output FILE."),
        (["balances", "--output", "/tmp"], "--output: /tmp is a folder."),
        (["balances", "--output", "/nowhere/at/all.csv"], "--output: there is no folder /nowhere/at."),
    ],
)
def test_wrong_arguments_are_2_with_a_sentence_and_write_nothing(
    story: People, arguments: list[str], sentence: str
) -> None:
    code, out, talk = command(*arguments)
    assert (code, out) == (Exit.USAGE, "")
    assert talk.startswith(sentence), talk


@pytest.mark.django_db(transaction=True)
def test_a_key_of_an_organization_exports_its_own_accounts_only(story: People) -> None:
    from commerce.parties.models import Organization

    acme, northwind = (
        Key(Organization.objects.get(pk=pk), "exports:write", "exports:read", "ledger:read")
        for pk in (story.acme, story.northwind)
    )
    body = {"source": "ledger.entries", "format": "jsonl", "parameters": {}}
    assert acme.post(body, "all").status_code == 201
    export = Export.objects.get()
    assert export.organization_id == story.acme
    foreign = {"source": "ledger.statement", "parameters": {"account_id": account(story, "AVAILABLE").pk}}
    assert northwind.post(foreign, "foreign").status_code == 422
    assert Export.objects.count() == 1
    assert exports.run_next(actor=ACTOR, at=AT)
    lines = b"".join(acme.get(f"{export.pk}/file/").streaming_content).decode().splitlines()
    assert {json.loads(line)["owner_id"] for line in lines[:-1]} == {str(story.acme)}
    assert len(lines) > 1
    for path in (f"{export.pk}/", f"{export.pk}/file/"):
        assert northwind.get(path).status_code == 404
    assert northwind.get("").json()["items"] == []


def test_the_pages_of_the_ledger_lead_to_their_exports(story: People, browser: Any, clock: Any) -> None:
    found = account(story, "AVAILABLE")
    pages = {
        reverse("admin:ledger_ledgertransaction_changelist")
        + "?status__exact=pending": "ledger.transactions",
        reverse("admin:ledger_ledgeraccount_changelist"): "ledger.balances",
        reverse("admin:ledger_ledgeraccount_change", args=[found.pk])
        + "?from=2027-03-02": "ledger.statement",
        reverse("admin:ledger_trial_balance"): "ledger.balances",
    }
    operator, viewer = browser("operator"), browser("viewer")
    for page, name in pages.items():
        link = reverse("admin:console_export_new", args=[name])
        body = operator.get(page).content.decode()
        assert link in body
        assert link not in viewer.get(page).content.decode()
        (address,) = re.findall(f'href="({link}[^"]*)"', body)
        assert operator.get(html.unescape(address)).status_code == 200
    new = reverse("admin:console_export_new", args=["ledger.statement"])
    filled = operator.get(f"{new}?account_id={found.pk}&since=2027-03-02T00:00:00").content.decode()
    assert 'value="2027-03-02T00:00:00"' in filled
    data = {"format": "csv", "account_id": str(found.pk), "since": "2027-03-02T00:00:00"}
    assert operator.post(new, data).status_code == 302
    assert Export.objects.get().parameters == {"account_id": found.pk, "since": "2027-03-02T00:00:00Z"}
