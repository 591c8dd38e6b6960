"""Exports: files that a spreadsheet cannot be tricked by, made by a worker that may die at any time."""

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import pytest
from django.conf import settings as project
from django.db import DatabaseError, connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from rest_framework import serializers

from commerce.actor import Actor
from commerce.api.problems import Invalid
from commerce.api.scopes import permissions_of
from commerce.api.serializers import StrictSerializer
from commerce.api.services import issue_key
from commerce.console import export_formats, exports
from commerce.console.export_formats import Column, file_writer, stream_writer, unformula
from commerce.console.exports import Selection, Source, request_export, run_next
from commerce.console.models import Export
from commerce.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from commerce.models import TransitionLog
from commerce.money import Money
from commerce.parties.models import Organization
from tests.commerce.console.conftest import AT, SYSTEM

Browser = Callable[..., Client]
COLUMNS = (
    Column("name"),
    Column("count"),
    Column("made_at"),
    Column("currency"),
    Column("amount", total=True),
)
FORMULAS = (
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1", "＋1", "－1", "＠A1", " =1", "\ufeff=1",
    "=cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", '=HYPERLINK("http://evil","x")',
)  # fmt: skip
SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


class NumbersQuery(StrictSerializer):
    rows = serializers.IntegerField(min_value=0, max_value=1_000_000)
    breaks_at = serializers.IntegerField(required=False)


def numbers(selection: Selection) -> Iterator[tuple[Any, ...]]:
    for number in range(selection.parameters["rows"]):
        if number == selection.parameters.get("breaks_at"):
            raise ZeroDivisionError
        currency = "JPY" if number % 3 else "USD"
        yield f"row {number}", number, AT, currency, Money(-number, currency)


NUMBERS = Source(
    name="test.numbers",
    label="Numbers",
    scope="payouts",
    permission="console.view_reviewitem",
    columns=COLUMNS,
    rows=numbers,
    count=lambda selection: selection.parameters["rows"],
    query=NumbersQuery,
)


@pytest.fixture(autouse=True)
def _source(monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path) -> None:
    monkeypatch.setitem(exports._sources, NUMBERS.name, NUMBERS)
    settings.EXPORTS_DIR = str(tmp_path / "exports")


def asked(format: str = "csv", actor: Actor = SYSTEM, **parameters: Any) -> Export:
    return request_export(
        source=NUMBERS.name, format=format, parameters={"rows": 3} | parameters, actor=actor, at=AT
    )


def run() -> bool:
    return run_next(actor=SYSTEM, at=AT)


def written(format: str, rows: list[tuple[Any, ...]], totals: Any = (), columns: Any = COLUMNS) -> str:
    stream = io.StringIO(newline="")
    writer = stream_writer(format, columns, stream)
    for row in rows:
        writer.row(row)
    writer.end(len(rows), dict(totals))
    return stream.getvalue()


def workbook(path: Path) -> dict[str, list[list[tuple[str, str]]]]:
    """Sheet name -> rows of (type, value) of the cells that there are; t is inlineStr, n or str."""
    with zipfile.ZipFile(path) as book:
        names = [
            s.get("name") for s in ElementTree.fromstring(book.read("xl/workbook.xml")).iter(f"{SHEET}sheet")
        ]
        found = {}
        for number, name in enumerate(names, start=1):
            sheet = ElementTree.fromstring(book.read(f"xl/worksheets/sheet{number}.xml"))
            assert not list(sheet.iter(f"{SHEET}f")), "a formula"
            found[str(name)] = [
                [(cell.get("t", "n"), "".join(cell.itertext())) for cell in row]
                for row in sheet.iter(f"{SHEET}row")
            ]
        return found


# Formats


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_spreadsheet_would_calculate_is_a_text(text: str, tmp_path: Path) -> None:
    row = (text, 1, AT, "USD", Money(-150, "USD"))
    rows = list(csv.reader(io.StringIO(written("csv", [row]).lstrip("\ufeff"), newline="")))
    assert rows[1][0] == f"'{text}"
    assert rows[1][4] == "-1.50", "an amount stays a number"
    assert json.loads(written("jsonl", [row]).splitlines()[0])["name"] == text
    with file_writer("xlsx", COLUMNS, tmp_path / "x.xlsx") as writer:
        writer.row(row)
        writer.end(1, {})
    cells = workbook(tmp_path / "x.xlsx")["Rows"][1]
    assert cells[0][0] == "inlineStr"
    assert cells[4] == ("n", "-1.50")


@pytest.mark.parametrize("text", ["Acme", "a=b", "1-2", "", "'=1", "(1)", "Ünïcode", "1e5"])
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert unformula(text) == text


def test_csv_is_utf8_with_its_mark_quotes_texts_and_ends_with_totals_per_currency() -> None:
    rows = [("Bän, k", 1, AT, "USD", Money(-1050, "USD")), ("b", 2, None, "KWD", Money(1, "KWD"))]
    totals = {"USD": {"amount": -1050}, "KWD": {"amount": 1}}
    assert written("csv", rows, totals) == (
        '\ufeff"Name","Count","Made at","Currency","Amount"\r\n'
        '"Bän, k",1,"2027-03-01T00:00:00Z","USD",-10.50\r\n'
        '"b",2,"","KWD",0.001\r\n'
        '"Total","","","KWD",0.001\r\n'
        '"Total","","","USD",-10.50\r\n'
    )


def test_json_lines_have_money_as_the_api_and_end_with_the_totals() -> None:
    lines = written("jsonl", [("b", 2, AT, "JPY", Money(-5, "JPY"))], {"JPY": {"amount": -5}}).splitlines()
    money = {"amount_minor": -5, "currency": "JPY"}
    assert [json.loads(line) for line in lines] == [
        {"name": "b", "count": 2, "made_at": "2027-03-01T00:00:00Z", "currency": "JPY", "amount": money},
        {"rows": 1, "totals": [{"currency": "JPY", "amount": money}]},
    ]


def test_a_workbook_has_typed_cells_and_goes_on_on_the_next_sheet_when_one_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_formats, "XLSX_ROWS", 4)
    rows = list(numbers(Selection({"rows": 7})))
    with file_writer("xlsx", COLUMNS, tmp_path / "x.xlsx") as writer:
        for row in rows:
            writer.row(row)
        writer.end(len(rows), {"USD": {"amount": -9}, "JPY": {"amount": -12}})
    found = workbook(tmp_path / "x.xlsx")
    assert [(name, len(lines)) for name, lines in found.items()] == [
        ("Rows", 4), ("Rows 2", 4), ("Rows 3", 2), ("Totals", 4)
    ]  # fmt: skip
    assert [cell[1] for cell in found["Rows 3"][0]] == [
        "Name",
        "Count",
        "Made at (UTC)",
        "Currency",
        "Amount",
    ]
    assert [cell[0] for cell in found["Rows 2"][1]] == ["inlineStr", "n", "n", "inlineStr", "n"]
    assert found["Rows 2"][1][4] == ("n", "-0.03")
    assert found["Rows 3"][1][4] == ("n", "-0.06")
    assert [[cell[1] for cell in line] for line in found["Totals"]] == [
        ["Currency", "Amount", "Rows"], ["JPY", "-12"], ["USD", "-0.09"], ["7"]
    ]  # fmt: skip


def test_an_amount_keeps_every_digit_in_a_workbook(tmp_path: Path) -> None:
    with file_writer("xlsx", COLUMNS, tmp_path / "x.xlsx") as writer:
        writer.row(("x", 1, AT, "USD", Money(2**53 - 1, "USD")))
        writer.end(1, {})
    assert Decimal(workbook(tmp_path / "x.xlsx")["Rows"][1][4][1]) == Decimal("90071992547409.91")


@pytest.mark.parametrize(("format", "rows"), [("csv", 40_000), ("jsonl", 40_000), ("xlsx", 10_000)])
def test_memory_does_not_grow_with_the_rows(format: str, rows: int, tmp_path: Path) -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        with file_writer(format, COLUMNS, tmp_path / f"{count}.{format}") as writer:
            for row in numbers(Selection({"rows": count})):
                writer.row(row)
            highest = tracemalloc.get_traced_memory()[1]
            writer.end(count, {})
        tracemalloc.stop()
        return highest

    few = peak(rows // 10)
    assert peak(rows) < few + 100_000


# Asking


def test_who_may_not_see_such_rows_or_have_exports_made_gets_none(db: None) -> None:
    both, scope = {"console.request_export", "console.view_reviewitem"}, {"payouts:read"}
    for permissions, scopes in (
        ({"console.request_export"}, scope),
        ({"console.view_reviewitem"}, scope),
        (both, {"payouts:write"}),
    ):
        actor = Actor(type="api_key", id="1", permissions=frozenset(permissions), scopes=frozenset(scopes))
        with pytest.raises(PermissionDenied):
            asked(actor=actor)
    assert not Export.objects.exists()
    assert asked(actor=Actor(type="api_key", id="1", permissions=frozenset(both), scopes=frozenset(scope)))


def test_the_permission_that_an_export_asks_for_comes_with_its_scope() -> None:
    for source in exports.sources():
        if source is not NUMBERS:
            assert source.permission in permissions_of([f"{source.scope}:read"], platform=False), source.name


def test_what_does_not_exist_is_refused_by_name(db: None) -> None:
    with pytest.raises(InvalidInput) as unknown:
        request_export(source="no.such", format="csv", parameters={}, actor=SYSTEM, at=AT)
    assert unknown.value.errors[0].pointer == "/source"
    with pytest.raises(InvalidInput) as format:
        asked("pdf")
    assert format.value.errors[0].pointer == "/format"
    with pytest.raises(Invalid) as parameters:
        asked(rows=-1, colour="red")
    assert {e.pointer for e in parameters.value.errors} == {"/parameters/rows", "/parameters/colour"}
    assert not Export.objects.exists()


def test_nobody_has_more_than_twenty_under_way(db: None) -> None:
    for _ in range(20):
        asked()
    with pytest.raises(Conflict):
        asked()
    asked(actor=Actor.system("somebody else"))
    assert Export.objects.count() == 21


def test_what_was_asked_for_is_never_changed_or_removed(db: None) -> None:
    export = asked()
    with pytest.raises(DatabaseError), connection.cursor() as cursor:
        cursor.execute("UPDATE console_export SET parameters = '{}' WHERE id = %s", [export.pk])


# Making


@pytest.fixture
def job(transactional_db: None) -> Callable[..., Export]:
    return asked


@pytest.mark.parametrize("format", ["csv", "jsonl", "xlsx"])
def test_a_job_ends_with_a_private_whole_file_whose_hash_and_totals_are_kept(
    job: Callable[..., Export], format: str
) -> None:
    export = job(format, rows=6)
    assert run()
    assert not run(), "it is made once"
    export.refresh_from_db()
    assert (export.status, export.rows_done, export.rows_total, export.attempts) == ("completed", 6, 6, 1)
    path = exports.file_of(export, actor=SYSTEM)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == export.sha256
    assert export.size == path.stat().st_size
    assert export.totals == {"USD": {"amount": -3}, "JPY": {"amount": -12}}
    assert export.expires_at == export.completed_at + timedelta(days=7)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert os.listdir(path.parent) == [path.name]
    log = TransitionLog.objects.filter(object_id=str(export.pk)).order_by("id")
    assert [change.target for change in log] == ["running", "completed"]


def test_progress_is_seen_while_it_is_made(
    job: Callable[..., Export], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int | None]] = []
    monkeypatch.setattr(exports, "PROGRESS_ROWS", 2)

    def watched(selection: Selection) -> Iterator[Any]:
        for row in numbers(selection):
            with connection.cursor() as cursor:  # the snapshot does not see it: another connection does
                cursor.execute("SELECT current_setting('transaction_isolation')")
                assert cursor.fetchone() == ("repeatable read",)
            yield row
            beside = exports.connections.create_connection("default")
            with beside.cursor() as cursor:
                cursor.execute("SELECT rows_done, rows_total FROM console_export")
                seen.append(cursor.fetchone())
            beside.close()

    monkeypatch.setitem(exports._sources, NUMBERS.name, Source(**{**vars(NUMBERS), "rows": watched}))
    job(rows=5)
    assert run()
    assert seen == [(0, 5), (2, 5), (2, 5), (4, 5), (4, 5)]


def test_what_fails_says_so_and_leaves_no_file(job: Callable[..., Export]) -> None:
    export = job(breaks_at=2)
    assert run()
    export.refresh_from_db()
    assert (export.status, export.sha256) == ("failed", "")
    assert "ZeroDivisionError" in export.error
    assert os.listdir(exports.folder()) == []
    with pytest.raises(NotFound):
        exports.file_of(export, actor=SYSTEM)
    assert not run()


def test_a_killed_workers_job_is_taken_again_from_the_start(
    job: Callable[..., Export], tmp_path: Path, settings: Any
) -> None:
    from ledger.services import exports as _  # noqa: F401

    export = request_export(source="ledger.accounts", format="csv", parameters={}, actor=SYSTEM, at=AT)
    worker = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v0", "-c", _MAKE_ONE],
        cwd=project.BASE_DIR,
        env={
            **os.environ,
            "DATABASE_NAME": connection.settings_dict["NAME"],
            "EXPORTS_DIR": settings.EXPORTS_DIR,
            "CRASH_AT": "exports.before_the_file_is_in_place",
            "CRASH_MARKERS": str(tmp_path),
        },
        capture_output=True,
        text=True,
    )
    assert worker.returncode == -signal.SIGKILL, worker.stderr
    export.refresh_from_db()
    assert (export.status, export.attempts) == ("running", 1)
    assert [name.endswith(".part") for name in os.listdir(exports.folder())] == [True]
    assert not run(), "its lease still runs"
    Export.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert run()
    export.refresh_from_db()
    assert (export.status, export.attempts) == ("completed", 2)
    assert os.listdir(exports.folder()) == [f"{export.pk}.csv"]


_MAKE_ONE = """
from commerce import clock
from commerce.actor import Actor
from commerce.console.exports import run_next
run_next(actor=Actor.system("test"), at=clock.now())
"""


def test_a_worker_that_lost_its_lease_changes_nothing(
    job: Callable[..., Export], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = uuid4()

    def taken_over(selection: Selection) -> Iterator[Any]:
        beside = exports.connections.create_connection("default")
        with beside.cursor() as cursor:
            cursor.execute("UPDATE console_export SET lease_token = %s", [other])
        beside.close()
        yield from numbers(selection)

    monkeypatch.setitem(exports._sources, NUMBERS.name, Source(**{**vars(NUMBERS), "rows": taken_over}))
    export = job()
    assert run()
    export.refresh_from_db()
    assert (export.status, export.sha256, export.lease_token) == ("running", "", other)
    assert os.listdir(exports.folder()) == []


def test_a_job_that_never_ends_is_given_up_after_three_attempts(job: Callable[..., Export]) -> None:
    export = job()
    Export.objects.update(attempts=3)
    assert run()
    export.refresh_from_db()
    assert (export.status, export.sha256) == ("failed", "")
    assert "3 times" in export.error


def test_one_is_made_at_a_time_and_the_oldest_first(job: Callable[..., Export]) -> None:
    first, second = job(), job()
    Export.objects.filter(pk=second.pk).update(lease_until=timezone.now() + timedelta(minutes=1))
    assert not run()
    Export.objects.filter(pk=second.pk).update(lease_until=None)
    assert run()
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.status, second.status) == ("completed", "requested")


def test_a_file_goes_when_its_days_are_over_and_the_row_stays(job: Callable[..., Export]) -> None:
    kept, gone = job(), job()
    assert run()
    assert run()
    assert exports.expire_exports(actor=SYSTEM, at=AT) == 0
    Export.objects.filter(pk=gone.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    left = exports.folder() / f"{uuid4()}.{uuid4()}.part"
    left.mkdir()
    assert exports.expire_exports(actor=SYSTEM, at=AT) == 1
    assert left.exists(), "a worker may be at it"
    os.utime(left, (0, 0))
    assert exports.expire_exports(actor=SYSTEM, at=AT) == 0
    gone.refresh_from_db()
    assert gone.status == "expired"
    assert len(gone.sha256) == 64
    assert os.listdir(exports.folder()) == [f"{kept.pk}.csv"]
    with pytest.raises(NotFound):
        exports.file_of(gone, actor=SYSTEM)


# Doors


def test_an_operator_asks_follows_and_downloads(transactional_db: None, clock: Any, browser: Browser) -> None:
    operator = browser("operator")
    new = reverse("admin:console_export_new", args=[NUMBERS.name])
    assert 'value="4"' in operator.get(f"{new}?rows=4&sort=x").content.decode()
    assert not Export.objects.exists(), "a GET changes nothing"
    assert operator.post(new, {"format": "csv", "rows": "many"}).status_code == 400
    answer = operator.post(new, {"format": "csv", "rows": "4"})
    export = Export.objects.get()
    page = reverse("admin:console_export_change", args=[export.pk])
    file = reverse("admin:console_export_file", args=[export.pk])
    assert answer["Location"] == page
    waiting = operator.get(page)
    assert waiting["Refresh"] == "2"
    assert "<progress" in waiting.content.decode()
    assert operator.get(file).status_code == 404
    assert run()
    done = operator.get(page)
    assert "Refresh" not in done
    assert file in done.content.decode()
    assert "−3" not in done.content.decode()
    download = operator.get(file)
    content = b"".join(download.streaming_content)
    assert hashlib.sha256(content).hexdigest() == Export.objects.get().sha256
    assert "no-store" in download["Cache-Control"]
    assert download["Content-Disposition"] == f'attachment; filename="{export.filename}"'
    assert NUMBERS.label in operator.get(reverse("admin:console_export_changelist")).content.decode()


def test_who_may_not_ask_sees_no_link_and_gets_no_page_and_no_file(
    transactional_db: None, browser: Browser, clock: Any
) -> None:
    export = asked()
    assert run()
    new = reverse("admin:console_export_new", args=[NUMBERS.name])
    viewer = browser("viewer")
    assert new not in viewer.get(reverse("admin:console_export_changelist")).content.decode()
    assert viewer.get(new).status_code == viewer.post(new, {"format": "csv", "rows": "1"}).status_code == 403
    administrator = browser("admin")
    file = reverse("admin:console_export_file", args=[export.pk])
    assert administrator.get(file).status_code == 403
    assert Client().get(file).status_code == 302
    assert Export.objects.count() == 1


def test_a_key_asks_once_follows_and_downloads(transactional_db: None) -> None:
    platform = Organization.objects.platform()
    api = Key(platform, "exports:write", "exports:read", "ledger:read")
    body = {"source": "ledger.accounts", "format": "jsonl", "parameters": {}}
    first, again = (api.post(body, "one") for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert again["Idempotent-Replay"] == "true"
    export = Export.objects.get()
    assert export.organization_id is None, "the platform's key has everything exported"
    assert api.get(f"{export.pk}/").json()["status"] == "requested"
    assert api.get(f"{export.pk}/file/").status_code == 404
    assert run()
    shown = api.get(f"{export.pk}/").json()
    assert (shown["status"], shown["rows_done"], shown["rows_total"]) == ("completed", 0, 0)
    assert shown["expires_at"]
    download = api.get(f"{export.pk}/file/")
    assert hashlib.sha256(b"".join(download.streaming_content)).hexdigest() == shown["sha256"]
    assert (download["Content-Type"], download["Cache-Control"]) == ("application/x-ndjson", "no-store")


def test_a_key_without_the_scope_of_the_rows_gets_none(db: None) -> None:
    body = {"source": "ledger.accounts", "format": "csv", "parameters": {}}
    for others in ((), ("wallets:read", "wallets:write"), ("ledger:write",)):
        api = Key(Organization.objects.platform(), "exports:write", "exports:read", *others)
        refused = api.post(body, "one")
        assert (refused.status_code, refused.json()["scope"]) == (403, "ledger:read")
    reader = Key(Organization.objects.platform(), "exports:read", "ledger:read")
    assert reader.post(body, "one").status_code == 403
    assert not Export.objects.exists()


def test_a_key_does_not_see_exports_of_what_it_may_not_read(transactional_db: None) -> None:
    owner = Organization.objects.platform()
    api = Key(owner, "exports:write", "exports:read", "ledger:read")
    made = api.post({"source": "ledger.entries", "format": "csv", "parameters": {}}, "one").json()
    assert run()
    blind = Key(owner, "exports:read", "wallets:read")
    assert blind.get("").json()["items"] == []
    for path in (f"{made['id']}/", f"{made['id']}/file/"):
        assert api.get(path).status_code == 200
        assert blind.get(path).status_code == 404


class Key:
    """An API key's view of /exports/."""

    def __init__(self, owner: Organization, *scopes: str) -> None:
        _, plain = issue_key(
            organization=owner, scopes=list(scopes), label=owner.slug, actor=SYSTEM, at=datetime.now(UTC)
        )
        self.client = Client(headers={"Authorization": f"Bearer {plain}"})

    def post(self, body: Any, key: str) -> Any:
        headers = {"Idempotency-Key": key}
        return self.client.post("/api/v1/exports/", body, content_type="application/json", headers=headers)

    def get(self, path: str) -> Any:
        return self.client.get(f"/api/v1/exports/{path}")
