"""Products and offers from files: all rows or none, every fault with its place, twice is once."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from commerce.errors import InvalidInput, PermissionDenied
from commerce.outbox.models import OutboxEvent
from contracts.models import Offer, Product, Stock
from contracts.services.catalog_files import (
    MAX_ROWS,
    MAX_ROWS_IN_A_REQUEST,
    Kind,
    read_rows,
    tiers_of,
    tiers_text,
)
from contracts.services.catalog_import import Imported, import_catalogue, preview_import
from tests.contracts.conftest import MARCH, OPERATOR, Parties
from tests.contracts.test_catalogue_offers import events, faults, key_of, live

pytestmark = pytest.mark.django_db

LATER = MARCH + timedelta(days=10)

PRODUCTS = """code,name,description,kind,unit,meter,active
b200-server,B200 server,"Eight GPUs,
liquid cooled",recurring,server_month,,yes
b200-burst,B200 burst,,usage,gpu_hour,b200_hours,
setup,Setup,,one_off,each,,no
"""
OFFERS = """seller,code,product,currency,model,rate,tiers,capacity,valid_from,min_term_months,terms
northwind,monthly,h100-server,USD,unit,18000.00,,12,2027-03-01,6,"Paid, monthly"
northwind,burst,h100-burst,USD,graduated,,100=2.00; 1000=1.80+500; *=1.50,,,,
southwind,monthly,h100-server,EUR,volume,,10=16000;*=15000,4,,,
"""


def imported(kind: Kind, content: str, *, format: Any = "csv", **given: Any) -> Imported:
    arguments: dict[str, Any] = {"actor": OPERATOR, "at": MARCH, **given}
    return import_catalogue(kind=kind, rows=read_rows(kind, content, format=format), **arguments)


def contents() -> list[Any]:
    return [
        *Product.objects.order_by("id").values(),
        *Offer.objects.order_by("id").values(),
        *Stock.objects.order_by("id").values(),
        OutboxEvent.objects.count(),
    ]


# Products


def test_products_are_added_with_what_the_file_says(parties: Parties) -> None:
    result = imported("products", PRODUCTS)
    assert result.counts == {"added": 3, "changed": 0, "unchanged": 0}
    server, burst, setup = (Product.objects.get(code=code) for code in ("b200-server", "b200-burst", "setup"))
    assert (server.kind, server.unit, server.active) == ("recurring", "server_month", True)
    assert server.description == "Eight GPUs,\nliquid cooled"
    assert (burst.meter, burst.active, setup.kind, setup.active) == ("b200_hours", True, "one_off", False)


@pytest.mark.parametrize(("kind", "content"), [("products", PRODUCTS), ("offers", OFFERS)])
@pytest.mark.parametrize("publish", [False, True])
def test_the_same_file_again_changes_nothing(
    parties: Parties, kind: Kind, content: str, publish: bool
) -> None:
    imported(kind, content, publish=publish)
    before = contents()
    again = imported(kind, content, publish=publish, at=LATER)
    assert again.counts == {"added": 0, "changed": 0, "unchanged": 3}
    assert contents() == before


def test_columns_that_are_not_in_the_file_are_left_alone(parties: Parties) -> None:
    imported("products", PRODUCTS)
    result = imported("products", "code,name\nb200-server,B200 NVL server\nsetup,Setup\n")
    assert [(change.what, change.fields) for change in result.changes] == [
        ("changed", ("name",)), ("unchanged", ()),
    ]  # fmt: skip
    server = Product.objects.get(code="b200-server")
    assert (server.name, server.description) == ("B200 NVL server", "Eight GPUs,\nliquid cooled")
    assert not Product.objects.get(code="setup").active


def test_what_lines_were_sold_as_does_not_change(parties: Parties) -> None:
    with pytest.raises(InvalidInput) as refused:
        imported("products", "code,kind,unit,meter\nh100-server,usage,gpu_hour,hours\n")
    assert set(faults(refused.value).items()) == {
        (f"/2/{column}", "product_fixed") for column in ("kind", "unit", "meter")
    }
    assert Product.objects.get(code="h100-server").kind == "recurring"


def test_every_fault_is_listed_with_row_and_column_and_nothing_is_written(parties: Parties) -> None:
    before = contents()
    bad = (
        "code,name,kind,unit,meter,active\n"
        "fine,Fine,recurring,each,,\n"
        "Bad Code,,rented,each,,perhaps\n"
        "metered,Metered,usage,gpu_hour,,\n"
        "lost,Lost,recurring,furlong,,\n"
        "fine,Again,recurring,each,,\n"
    )
    with pytest.raises(InvalidInput) as refused:
        imported("products", bad)
    assert faults(refused.value) == {
        "/3/code": "invalid_format",
        "/3/name": "invalid_format",
        "/3/kind": "invalid_choice",
        "/3/active": "invalid_type",
        "/4/meter": "invalid",
        "/5/unit": "invalid",
        "/6/code": "row_repeated",
    }
    assert contents() == before


# Offers


def test_offers_are_added_as_drafts_and_published_when_asked_for(parties: Parties) -> None:
    result = imported("offers", OFFERS)
    assert result.counts == {"added": 3, "changed": 0, "unchanged": 0}
    monthly = Offer.objects.get(seller=parties.seller, code="monthly")
    assert (monthly.status, monthly.stock.capacity, monthly.min_term_months) == ("draft", 12, 6)
    assert (monthly.valid_from, monthly.terms, str(monthly.asked.rate)) == (MARCH, "Paid, monthly", "18000")
    burst = Offer.objects.get(code="burst")
    assert [(tier.up_to, str(tier.rate), tier.flat_minor) for tier in burst.asked.tiers] == [
        (100, "2", 0), (1000, "1.8", 500), (None, "1.5", 0),
    ]  # fmt: skip
    assert burst.stock.capacity is None
    assert not events("offer.published")
    result = imported("offers", OFFERS, publish=True)
    assert [(change.what, change.published) for change in result.changes] == [("changed", True)] * 3
    assert set(Offer.objects.values_list("status", "version")) == {("live", 1)}
    assert len(events("offer.published")) == 3


def test_another_price_is_another_version_and_another_capacity_is_not(parties: Parties) -> None:
    imported("offers", OFFERS, publish=True)
    file = "seller,code,rate,capacity\nnorthwind,monthly,17500,12\nsouthwind,monthly,,6\n"
    result = imported("offers", file, at=LATER)
    assert [(c.what, c.fields, c.version) for c in result.changes] == [
        ("changed", ("price",), 2), ("changed", ("capacity",), 1),
    ]  # fmt: skip
    first, second = Offer.objects.filter(seller=parties.seller, code="monthly").order_by("version")
    assert (first.status, str(first.asked.rate)) == ("live", "18000")
    assert (second.status, str(second.asked.rate), second.valid_from) == ("draft", "17500", MARCH)
    assert second.min_term_months == 6
    assert Offer.objects.get(seller=parties.other_seller).stock.capacity == 6
    imported("offers", file, at=LATER, publish=True)
    first.refresh_from_db()
    assert first.status == "withdrawn"


def test_an_empty_cell_stands_for_the_default(parties: Parties) -> None:
    imported("offers", OFFERS)
    imported(
        "offers", "seller,code,capacity,min_term_months,terms,valid_from\nnorthwind,monthly,,,,\n", at=LATER
    )
    offer = Offer.objects.get(seller=parties.seller, code="monthly", status="draft")
    assert (offer.stock.capacity, offer.min_term_months, offer.terms) == (None, None, "")
    assert (offer.version, offer.valid_from) == (2, MARCH)


def test_faults_of_offers_name_the_column_of_the_file(parties: Parties) -> None:
    imported("offers", OFFERS)
    before = contents()
    bad = (
        "seller,code,product,currency,model,rate,tiers,capacity,valid_to\n"
        "northwind,fine,h100-server,USD,unit,1,,,\n"
        "nobody,x,h100-server,USD,unit,1,,,\n"
        "northwind,y,h100-server,USD,graduated,,10=1;5=1;*=1,,\n"
        "northwind,z,nothing,usd,unit,-1,,many,tomorrow\n"
        "northwind,w,h100-server,USD,volume,,cheap,,\n"
        "northwind,monthly,h100-burst,USD,unit,1,,,\n"
        "acme,v,h100-server,USD,unit,1,,,2027-02-01\n"
    )
    with pytest.raises(InvalidInput) as refused:
        imported("offers", bad)
    assert refused.value.code == "import_invalid"
    assert faults(refused.value) == {
        "/3/seller": "unknown_seller",
        "/4/tiers": "tiers_invalid",
        "/5/currency": "invalid_format",
        "/5/rate": "amount_negative",
        "/5/capacity": "invalid_type",
        "/5/valid_to": "invalid_instant",
        "/6/tiers": "tiers_unreadable",
        "/7/product": "product_fixed",
        "/8/seller": "unknown_seller",
    }
    assert contents() == before


def test_capacity_below_what_is_reserved_is_a_fault_of_its_row(parties: Parties) -> None:
    offer = live(parties.seller)
    Stock.objects.filter(pk=offer.stock_id).update(committed=5)
    with pytest.raises(InvalidInput) as refused:
        imported("offers", "seller,code,capacity\nnorthwind,h100-monthly,4\n")
    assert faults(refused.value) == {"/2/capacity": "capacity_in_use"}


def test_a_preview_says_what_an_import_does_and_does_nothing(parties: Parties) -> None:
    before = contents()
    rows = read_rows("offers", OFFERS, format="csv")
    given: dict[str, Any] = {"kind": "offers", "rows": rows, "actor": OPERATOR, "at": MARCH, "publish": True}
    preview = preview_import(**given)
    assert contents() == before
    assert import_catalogue(**given) == preview


def test_offers_in_json_are_as_in_the_api(parties: Parties) -> None:
    offer = {
        "seller_id": str(parties.seller.pk),
        "code": "burst",
        "product": "h100-burst",
        "currency": "USD",
        "price": {"model": "volume", "tiers": [{"up_to": "5", "rate": "2"}, {"rate": "1"}]},
    }
    other = {**offer, "seller_id": None, "seller": "southwind"}
    for content in (json.dumps([offer, other]), json.dumps({"offers": [offer, other]})):
        result = imported("offers", content, format="json")
    assert result.counts["unchanged"] == 2
    bad = {**other, "price": {"model": "volume", "tiers": [{"rate": "1"}, {"rate": "1"}]}, "colour": "red"}
    with pytest.raises(InvalidInput) as refused:
        imported("offers", json.dumps([offer, bad]), format="json")
    assert "/2/colour" in faults(refused.value)
    assert Offer.objects.count() == 2


def test_a_seller_imports_its_own_offers_and_names_nobody_else(parties: Parties) -> None:
    seller = key_of(parties.seller)
    own = OFFERS.replace("southwind", "northwind").replace("monthly,h100-server,EUR", "other,h100-server,EUR")
    assert imported("offers", own, actor=seller).counts["added"] == 3
    with pytest.raises(InvalidInput) as refused:
        imported("offers", OFFERS, actor=seller)
    assert faults(refused.value) == {"/4/seller": "unknown_seller"}
    with pytest.raises(PermissionDenied):
        imported("products", PRODUCTS, actor=seller)
    with pytest.raises(PermissionDenied):
        imported("offers", own, actor=key_of(parties.seller, "view_offer"))
    assert not Offer.objects.filter(seller=parties.other_seller).exists()


def test_a_long_file_is_read_with_queries_that_do_not_grow_where_nothing_changes(parties: Parties) -> None:
    head = "seller,code,product,currency,model,rate\n"

    def queries(count: int) -> int:
        file = head + "".join(f"northwind,c{i},h100-server,USD,unit,{i}\n" for i in range(count))
        imported("offers", file)
        with CaptureQueriesContext(connection) as captured:
            imported("offers", file)
        return len([q for q in captured if "SAVEPOINT" not in q["sql"]])

    few, many = queries(3), queries(30)
    assert many == few


# Reading


@pytest.mark.parametrize(
    ("content", "format", "code"),
    [
        ("", "csv", "import_invalid"),
        ("code,name\n", "csv", "file_empty"),
        ("code,colour\nx,red\n", "csv", "import_invalid"),
        ("name\nx\n", "csv", "import_invalid"),
        ("code,code\nx,y\n", "csv", "import_invalid"),
        ('code,name\n"x,y\n', "csv", "file_unreadable"),
        ("code,name\nx,y,z\n", "csv", "too_many_cells"),
        ("[", "json", "file_unreadable"),
        ('"text"', "json", "file_unreadable"),
        ("[1]", "json", "file_unreadable"),
        ('[{"code": "\\ud800"}]', "json", "file_unreadable"),
        ("[" * 100_000, "json", "file_unreadable"),
        ("[]", "json", "file_empty"),
        ("code\n" + "x\n" * (MAX_ROWS + 1), "csv", "limit_exceeded"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(content: str, format: Any, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_rows("products", content, format=format)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("content", "format", "pointer"),
    [
        ("seller,code\nnorthwind,ok\nnorth\x00wind,x\n", "csv", "/3/seller"),
        ("seller,code\nnorthwind,a\x1bb\n", "csv", "/2/code"),
        ('[{"code": "a\\u0000b", "seller": "northwind"}]', "json", "/1/code"),
        ('[{"code": "x", "price": {"model": "\\u0000"}}]', "json", "/1/price"),
    ],
)
def test_control_characters_are_refused_with_their_cell(
    parties: Parties, content: str, format: Any, pointer: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        imported("offers", content, format=format)
    assert [(one.pointer, one.code) for one in refused.value.errors] == [(pointer, "control_character")]
    fine = [{"code": "x", "description": "C:\\u0000 is a\npath"}]
    rows = read_rows("products", json.dumps(fine), format="json")
    with pytest.raises(InvalidInput) as refused:
        import_catalogue(kind="products", rows=rows, actor=OPERATOR, at=MARCH)
    assert "control_character" not in {one.code for one in refused.value.errors}


def test_a_request_has_fewer_rows_than_a_file_of_the_command() -> None:
    content = "code\n" + "x\n" * 501
    assert len(read_rows("products", content, format="csv")) == 501
    with pytest.raises(
        InvalidInput, match="500 rows at once here, and 5,000 with the command contracts_import"
    ):
        read_rows("products", content, format="csv", most=MAX_ROWS_IN_A_REQUEST)


def test_a_spreadsheets_mark_and_blank_lines_are_no_rows() -> None:
    rows = read_rows("products", "\ufeffcode, name \r\n\r\nx, X \r\n,\r\n", format="csv")
    assert [(row.number, row.values) for row in rows] == [(3, {"code": "x", "name": "X"})]


@given(st.text(max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    for format_ in ("csv", "json"):
        try:
            read_rows("offers", f"code,terms\n{text}", format=format_)  # type: ignore[arg-type]
        except InvalidInput as error:
            assert error.code  # noqa: PT017
    tiers_of(text)


@given(
    st.lists(
        st.tuples(st.decimals(1, 10**6, places=2), st.decimals(0, 10**6, places=4), st.integers(0, 10**6)),
        max_size=6,
    )
)
def test_tiers_are_read_as_they_are_written(found: list[Any]) -> None:
    tiers: list[dict[str, Any]] = [
        {"up_to": str(up_to), "rate": str(rate), "flat_minor": flat} for up_to, rate, flat in found
    ]
    tiers.append({"up_to": None, "rate": "1", "flat_minor": 0})
    assert tiers_of(tiers_text(tiers)) == tiers


# The command


def run(*arguments: str, expect: int = 0) -> None:
    if expect:
        with pytest.raises(SystemExit) as ended:
            call_command("contracts_import", *arguments)
        assert ended.value.code == expect
    else:
        call_command("contracts_import", *arguments)


def test_the_command_imports_lists_and_keeps_nothing_of_a_dry_run(
    parties: Parties, tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: Any
) -> None:
    file = tmp_path / "offers.csv"
    file.write_text(OFFERS)
    run("offers", str(file), "--dry-run", "--json")
    out = json.loads(capsys.readouterr().out)
    assert (out["added"], [row["row"] for row in out["rows"]]) == (3, [2, 3, 4])
    assert not Offer.objects.exists()
    run("offers", str(file), "--publish")
    assert "3 added" in capsys.readouterr().out
    assert Offer.objects.filter(status="live").count() == 3
    run("offers", str(file))
    assert "0 added, 0 changed, 3 unchanged" in capsys.readouterr().out


def test_the_command_lists_faults_and_ends_with_three(
    parties: Parties, tmp_path: Path, capsys: pytest.CaptureFixture[str], clock: Any
) -> None:
    file = tmp_path / "file.txt"
    file.write_text("seller,code,product,currency,model,rate\nnobody,x,y,USD,unit,1\n")
    run("offers", str(file), expect=2)
    run("offers", str(tmp_path / "none.csv"), expect=2)
    capsys.readouterr()
    run("offers", str(file), "--format", "csv", "--json", expect=3)
    [fault] = json.loads(capsys.readouterr().out)["faults"]
    assert (fault["row"], fault["column"], fault["code"]) == (2, "seller", "unknown_seller")
    run("offers", str(file), "--format", "csv", expect=3)
    assert "row 2, seller: There is no such seller." in capsys.readouterr().out
    assert not Offer.objects.exists()
