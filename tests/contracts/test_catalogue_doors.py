"""The catalogue's doors: offers over HTTP, and products, offers, units and files in the console."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from commerce.console.demo_users import ensure_demo_users
from commerce.parties.models import Organization
from contracts.models import Offer, Product, Reservation
from tests.contracts.conftest import Parties
from tests.contracts.test_catalogue_import import OFFERS, PRODUCTS
from tests.contracts.test_catalogue_offers import draft_on, live, offered
from tests.contracts.test_doors import Api

pytestmark = pytest.mark.django_db

NEW = {
    "code": "monthly",
    "product": "h100-server",
    "currency": "USD",
    "price": {"model": "unit", "rate": "18000.00"},
    "capacity": 4,
}


@pytest.fixture
def seller(parties: Parties, clock: Any) -> Api:
    return Api(parties.seller)


@pytest.fixture
def buyer(parties: Parties, clock: Any) -> Api:
    return Api(parties.buyer)


# HTTP


def test_a_seller_makes_publishes_revises_and_withdraws_its_own_offer_over_http(
    seller: Api, parties: Parties
) -> None:
    created = seller.post("offers/", NEW)
    assert created.status_code == 201, created.json()
    offer = created.json()
    assert (offer["status"], offer["seller_id"], offer["free"]) == ("draft", str(parties.seller.pk), 4)
    place = f"offers/{offer['id']}"
    assert seller.post(f"{place}/publish/", {}).json()["status"] == "live"
    revised = seller.post(f"{place}/revisions/", {"price": {"model": "unit", "rate": "17000"}}).json()
    assert (revised["version"], revised["supersedes_id"], revised["status"]) == (2, offer["id"], "draft")
    assert revised["price"]["rate"] == "17000"
    assert seller.post(f"offers/{revised['id']}/publish/", {}).status_code == 200
    assert seller.get(f"{place}/").json()["status"] == "withdrawn"
    assert seller.post(f"{place}/capacity/", {"capacity": None}).json()["free"] is None
    gone = seller.post(f"offers/{revised['id']}/withdraw/", {"reason": "Sold."}).json()
    assert gone["withdrawn_at"]
    again = seller.post(f"offers/{revised['id']}/withdraw/", {"reason": "Sold."})
    assert (again.status_code, again.json()["code"]) == (409, "state_conflict")


def test_faults_of_an_offer_are_problems_with_pointers(seller: Api) -> None:
    bad = {**NEW, "price": {"model": "graduated", "tiers": [{"up_to": "5", "rate": "1"}]}, "capacity": -1}
    answer = seller.post("offers/", bad)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/capacity"]
    answer = seller.post("offers/", {**bad, "capacity": 1})
    assert [(e["pointer"], e["code"]) for e in answer.json()["errors"]] == [
        ("/price/tiers/0/up_to", "tiers_invalid")
    ]  # fmt: skip
    assert not Offer.objects.exists()


def test_everybody_sees_live_offers_and_only_the_seller_drafts_and_capacity(
    seller: Api, buyer: Api, parties: Parties
) -> None:
    on_sale, drafted = live(parties.seller), offered(parties.seller, code="drafted")
    foreign = offered(parties.other_seller)
    assert {item["id"] for item in buyer.get("offers/").json()["items"]} == {str(on_sale.pk)}
    assert {item["id"] for item in seller.get("offers/").json()["items"]} == {
        str(on_sale.pk),
        str(drafted.pk),
    }
    for hidden in (drafted, foreign):
        assert buyer.get(f"offers/{hidden.pk}/").status_code == 404
    seen = buyer.get(f"offers/{on_sale.pk}/").json()
    assert (seen["free"], seen["capacity"], seen["held"], seen["committed"]) == (10, None, None, None)
    own = seller.get(f"offers/{on_sale.pk}/").json()
    assert (own["free"], own["capacity"], own["held"], own["committed"]) == (10, 10, 0, 0)
    refused = buyer.post(f"offers/{on_sale.pk}/withdraw/", {"reason": "Mine."})
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    assert buyer.post("offers/", NEW).status_code == 422
    assert Offer.objects.get(pk=on_sale.pk).status == "live"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("product=h100-burst", {"burst"}),
        ("currency=EUR", {"euros"}),
        ("status=draft", {"drafted"}),
        ("code=euros", {"euros"}),
        ("product=nothing", set()),
    ],
)
def test_offers_are_filtered(parties: Parties, clock: Any, query: str, expected: set[str]) -> None:
    live(parties.seller)
    live(parties.seller, code="burst", product="h100-burst")
    live(parties.seller, code="euros", currency="EUR")
    offered(parties.seller, code="drafted")
    found = Api(parties.seller).get(f"offers/?{query}").json()["items"]
    assert {item["code"] for item in found} == expected
    other = Api(parties.seller).get(f"offers/?seller_id={parties.other_seller.pk}")
    assert other.json()["items"] == []


def test_a_list_of_offers_costs_the_same_however_long(seller: Api, parties: Parties) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert seller.get("offers/").status_code == 200
        return len(captured)

    live(parties.seller)
    queries()
    few = queries()
    for i in range(10):
        live(parties.seller, code=f"more-{i}")
    assert queries() == few


def test_an_import_over_http_is_all_or_none_and_can_be_tried(seller: Api, parties: Parties) -> None:
    rows = [NEW, {**NEW, "code": "other"}]
    tried = seller.post("offers/imports/", {"offers": rows, "dry_run": True}).json()
    assert (tried["dry_run"], tried["added"], [row["row"] for row in tried["rows"]]) == (True, 2, [0, 1])
    assert not Offer.objects.exists()
    bad = seller.post("offers/imports/", {"offers": [NEW, {**NEW, "code": "x", "product": "nothing"}]})
    assert bad.status_code == 422
    assert [(e["pointer"], e["code"]) for e in bad.json()["errors"]] == [
        ("/offers/1/product", "unknown_product")
    ]  # fmt: skip
    assert not Offer.objects.exists()
    done = seller.post("offers/imports/", {"offers": rows, "publish": True}).json()
    assert (done["added"], [row["published"] for row in done["rows"]]) == (2, [True, True])
    again = seller.post("offers/imports/", {"offers": rows, "publish": True}).json()
    assert (again["added"], again["changed"], again["unchanged"]) == (0, 0, 2)
    foreign = {**NEW, "seller_id": str(parties.other_seller.pk)}
    refused = seller.post("offers/imports/", {"offers": [foreign]})
    assert refused.json()["errors"][0]["pointer"] == "/offers/0/seller_id"
    assert Offer.objects.count() == 2


def test_a_sold_out_offer_is_a_conflict_with_what_is_free(parties: Parties, payload: Any, clock: Any) -> None:
    offer = live(parties.seller)
    line = {"line_id": "019cd0a1-7b00-7000-8000-00000000aaaa", "offer_id": str(offer.pk), "quantity": 11}
    answer = Api(Organization.objects.platform()).post("contracts/", {**payload, "lines": [line]})
    assert (answer.status_code, answer.json()["code"], answer.json()["free"]) == (
        409, "capacity_unavailable", 10,
    )  # fmt: skip
    assert answer.json()["errors"][0]["pointer"] == "/lines/0/quantity"
    assert not Reservation.objects.exists()


# The console


@pytest.fixture
def browser(parties: Parties, clock: Any) -> Callable[[str], Client]:
    passwords = ensure_demo_users()

    def log_in(name: str) -> Client:
        client = Client()
        assert client.login(username=name, password=passwords[name])
        return client

    return log_in


def page(row: Any) -> str:
    return reverse(f"admin:contracts_{row._meta.model_name}_change", args=[row.pk])


def act(client: Client, row: Any, name: str, **data: str) -> Any:
    url = reverse(f"admin:contracts_{row._meta.model_name}_do", args=[row.pk, name])
    seen = re.search(r'name="fingerprint" value="([^"]+)"', client.get(url).content.decode())
    return client.post(url, {"reason": "test", "fingerprint": seen[1] if seen else "", **data})


def text_of(answer: Any) -> str:
    return str(answer.content.decode())


def test_an_operator_makes_publishes_and_revises_an_offer_in_the_console(
    browser: Callable[[str], Client], parties: Parties
) -> None:
    operator, new = browser("operator"), reverse("admin:contracts_offer_new")
    assert "New offer" in text_of(operator.get(reverse("admin:contracts_offer_changelist")))
    fields = {
        "payload.seller_id": "northwind",
        "payload.code": "monthly",
        "payload.product": "h100-server",
        "payload.currency": "USD",
        "payload.capacity": "8",
        "payload.price.model": "graduated",
        "payload.price.tiers.0.up_to": "4",
        "payload.price.tiers.0.rate": "18000",
    }
    refused = operator.post(new, fields)
    assert refused.status_code == 422
    assert "The last tier is open" in text_of(refused)
    made = operator.post(new, {**fields, "payload.price.tiers.1.rate": "17000"})
    offer = Offer.objects.get()
    assert (made.status_code, made["Location"]) == (302, page(offer))
    assert (offer.seller, offer.stock.capacity, offer.status) == (parties.seller, 8, "draft")
    assert act(operator, offer, "publish").status_code == 302
    revise = reverse("admin:contracts_offer_do", args=[offer.pk, "revise"])
    assert "17000" in text_of(operator.get(revise))
    same = operator.post(revise, {**fields, "payload.price.tiers.1.rate": "17000"})
    assert (same.status_code, "Nothing would change." in text_of(same)) == (422, True)
    dearer = {**fields, "payload.price.tiers.1.rate": "17500", "payload.terms": "Net 14."}
    assert operator.post(revise, dearer).status_code == 302
    second = Offer.objects.get(version=2)
    assert (second.terms, str(second.asked.tiers[1].rate), second.status) == ("Net 14.", "17500", "draft")
    assert "is the latest version" in text_of(operator.get(revise))
    assert "instead of monthly v1" in text_of(
        operator.get(reverse("admin:contracts_offer_do", args=[second.pk, "publish"]))
    )


def test_the_page_of_an_offer_shows_its_units_and_who_has_them(
    browser: Callable[[str], Client], parties: Parties, payload: dict[str, Any]
) -> None:
    offer = live(parties.seller)
    contract = draft_on(offer, payload, quantity=4)
    text = text_of(browser("viewer").get(page(offer)))
    assert "4 of 10 units are taken" in text
    assert contract.number in text
    assert "/do/" not in text
    operator = browser("operator")
    refused = act(operator, offer, "set-capacity", capacity="3")
    assert (refused.status_code, "4 units of h100-monthly are reserved." in text_of(refused)) == (409, True)
    assert act(operator, offer, "set-capacity", capacity="").status_code == 302
    assert Offer.objects.get().stock.capacity is None
    assert act(operator, offer, "withdraw").status_code == 302
    assert Offer.objects.get().status == "withdrawn"


def test_held_units_are_released_in_the_console_and_committed_ones_are_not(
    browser: Callable[[str], Client], parties: Parties, payload: dict[str, Any]
) -> None:
    row = draft_on(live(parties.seller), payload).reservations.get()
    operator = browser("operator")
    assert row.contract.number in text_of(operator.get(reverse("admin:contracts_reservation_changelist")))
    assert act(operator, row, "release").status_code == 302
    row.refresh_from_db()
    assert row.status == "released"
    again = act(operator, row, "release")
    assert "Only held units" in text_of(operator.get(page(row))) + text_of(again)


def upload(client: Client, kind: str, content: str | bytes, name: str = "file.csv", **data: str) -> Any:
    file = SimpleUploadedFile(name, content.encode() if isinstance(content, str) else content)
    return client.post(reverse(f"admin:contracts_{kind}_import"), {"file": file, **data})


def confirmed(client: Client, kind: str, previewed: Any, **changed: str) -> Any:
    hidden = dict(re.findall(r'name="(content|format|publish|seen)" value="([^"]*)"', text_of(previewed)))
    return client.post(reverse(f"admin:contracts_{kind}_import"), {"step": "confirm", **hidden, **changed})


def test_a_file_is_looked_at_before_it_is_imported(
    browser: Callable[[str], Client], parties: Parties
) -> None:
    administrator = browser("admin")
    previewed = upload(administrator, "product", PRODUCTS)
    assert previewed.status_code == 200
    assert "3 added, 0 changed, 0 unchanged" in text_of(previewed)
    assert not Product.objects.filter(code="b200-server").exists()
    assert confirmed(administrator, "product", previewed).status_code == 302
    assert Product.objects.get(code="b200-server").description == "Eight GPUs,\nliquid cooled"
    again = upload(administrator, "product", PRODUCTS)
    assert "Everything is so already." in text_of(again)
    assert 'value="confirm"' not in text_of(again)


def test_what_changed_since_it_was_looked_at_is_not_imported(
    browser: Callable[[str], Client], parties: Parties
) -> None:
    operator = browser("operator")
    previewed = upload(operator, "offer", OFFERS, publish="on")
    assert "published" in text_of(previewed)
    offered(parties.seller, code="monthly")
    answer = confirmed(operator, "offer", previewed)
    assert (answer.status_code, "changed while you were looking" in text_of(answer)) == (409, True)
    assert Offer.objects.count() == 1
    assert confirmed(operator, "offer", previewed, content="rubbish!").status_code == 422
    again = upload(operator, "offer", OFFERS, publish="on")
    assert confirmed(operator, "offer", again).status_code == 302
    assert Offer.objects.filter(status="live").count() == 3


def test_faults_of_a_file_are_shown_with_row_and_column(
    browser: Callable[[str], Client], parties: Parties
) -> None:
    operator = browser("operator")
    bad = upload(operator, "offer", "seller,code,product,currency,model,rate\nnobody,x,y,USD,unit,1\n")
    assert bad.status_code == 422
    assert "There is no such seller." in text_of(bad)
    assert 'value="confirm"' not in text_of(bad)
    for content, name in ((b"\xff\xfe", "x.csv"), ("[", "x.json"), ("code\n", "x.csv"), ("x", "x.txt")):
        assert upload(operator, "offer", content, name).status_code == 422
    assert upload(operator, "offer", "code\n" + "x" * 700_000).status_code == 422
    assert not Offer.objects.exists()


def test_who_may_not_change_the_catalogue_imports_nothing(
    browser: Callable[[str], Client], parties: Parties
) -> None:
    viewer, operator, administrator = (browser(name) for name in ("viewer", "operator", "admin"))
    assert (
        upload(viewer, "product", PRODUCTS).status_code == upload(viewer, "offer", OFFERS).status_code == 403
    )
    assert upload(operator, "product", PRODUCTS).status_code == 403
    assert upload(administrator, "offer", OFFERS).status_code == 403
    assert viewer.get(reverse("admin:contracts_offer_new")).status_code == 403
    assert "Import" not in text_of(viewer.get(reverse("admin:contracts_offer_changelist")))
    assert not Offer.objects.exists()


def test_the_lists_of_the_console_cost_the_same_however_long(
    browser: Callable[[str], Client], parties: Parties, payload: dict[str, Any]
) -> None:
    viewer = browser("viewer")
    lists = [reverse(f"admin:contracts_{name}_changelist") for name in ("offer", "reservation")]

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            for address in lists:
                assert viewer.get(address).status_code == 200
        return len(captured)

    draft_on(live(parties.seller), payload)
    queries()
    few = queries()
    for i in range(5):
        draft_on(live(parties.other_seller, code=f"more-{i}"), payload)
    assert queries() == few
