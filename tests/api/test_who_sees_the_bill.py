"""What each party reads of what should be billed, of what was learned, of what comes and of the document."""

from datetime import timedelta
from typing import Any

import pytest

from commerce.ids import uuid7
from commerce.parties.models import Organization
from contracts.models import ContractEdit
from contracts.services.edits import OperationRequest, record
from tests.api.conftest import Api, contents
from tests.api.test_who_sees_what import BILL, DAY, FEE, SHARE, Shared, parties, payload, shared
from tests.contracts.conftest import MARCH, OPERATOR, edit

__all__ = ["parties", "payload", "shared"]
pytestmark = pytest.mark.django_db

NOW = MARCH + 7 * DAY
SPLIT = {
    "kind": "percent",
    "percent": "0.1",
    "duration": {"kind": "forever"},
    "funded_by": {"kind": "split", "seller_share": "0.35"},
}


@pytest.fixture
def discounted(shared: Shared) -> Shared:
    """Ten per cent off everything, a third of it borne by the sellers; the contract runs again."""
    edit(shared.contract, "resume", {"reason": "non_payment"}, at=NOW)
    discount = OperationRequest("apply_discount", {"discount_id": str(uuid7()), **SPLIT})
    record(
        shared.contract.pk, [discount], actor=OPERATOR, at=NOW, idempotency_key="split",
        expected_version=None, pointer="", approved=True,
    )  # fmt: skip
    shared.contract.refresh_from_db()
    return shared


def net(items: list[Any]) -> int:
    return sum(item["net"]["amount_minor"] for item in items)


def test_a_seller_reads_what_its_own_lines_come_to_and_no_tax(shared: Shared) -> None:
    everything = shared.get(Organization.objects.platform(), BILL)["items"]
    for seller, own in (
        (shared.parties.seller, {shared.northwinds_line}),
        (shared.parties.other_seller, {shared.southwinds_line, shared.later_line}),
    ):
        body = shared.get(seller, BILL)
        assert body["items"]
        assert {item["line_id"] for item in body["items"]} <= own
        assert net(body["items"]) == net([one for one in everything if one["line_id"] in own])
        assert body["net"]["amount_minor"] == net(body["items"])
        assert {item["tax"] for item in body["items"]} | {body["tax"]} == {None}
    assert shared.get(shared.parties.partner, BILL)["items"] == []


def test_a_buyer_reads_the_whole_bill_with_its_tax(shared: Shared) -> None:
    body = shared.get(shared.parties.buyer, BILL)
    assert body == shared.get(Organization.objects.platform(), BILL)
    assert body["tax"]["amount_minor"] > 0


def test_who_bears_a_discount_is_not_for_the_buyer(discounted: Shared) -> None:
    platform, buyer = Organization.objects.platform(), discounted.parties.buyer
    whole = [one for one in discounted.get(platform, BILL)["items"] if one["kind"] == "discount"]
    assert {one["funded_by"] for one in whole} == {"seller", "platform"}
    body = discounted.get(buyer, BILL)
    found = [one for one in body["items"] if one["kind"] == "discount"]
    assert (len(found), net(found)) == (len(whole) // 2, net(whole))
    assert {one["funded_by"] for one in body["items"]} == {""}
    assert body["net"] == discounted.get(platform, BILL)["net"]
    text = discounted.everything(buyer)
    for secret in ("seller_share", "0.35", "Borne by", "35 %"):
        assert secret not in text, secret
    assert "seller_share" in discounted.everything(platform)


def test_a_seller_reads_its_part_of_a_discount_and_not_the_platforms(discounted: Shared) -> None:
    for seller in (discounted.parties.seller, discounted.parties.other_seller):
        items = discounted.get(seller, BILL)["items"]
        assert {one["funded_by"] for one in items if one["kind"] == "discount"} == {"seller"}
    for secret in (discounted.southwinds_line, discounted.later_line, "17500", "0.0825"):
        assert secret not in discounted.everything(discounted.parties.seller)


def test_a_preview_tells_a_buyer_its_bills_and_not_who_bears_them(discounted: Shared) -> None:
    body = {"operation": "change_quantity", "payload": {"line_id": discounted.northwinds_line, "delta": 1}}
    path = f"contracts/{discounted.contract.pk}/preview/"
    before = contents()
    answers = {
        name: Api(one)("POST", path, body)
        for name, one in (
            ("platform", Organization.objects.platform()),
            ("buyer", discounted.parties.buyer),
            ("seller", discounted.parties.seller),
            ("partner", discounted.parties.partner),
        )
    }
    assert [answer.status_code for answer in answers.values()] == [200, 200, 403, 403]
    whole, own = (answers[name].json()["bills"] for name in ("platform", "buyer"))
    counts = [len([bill for bill in bills if bill["kind"] == "discount"]) for bills in (whole, own)]
    assert counts[0] == 2 * counts[1] > 0
    for side in ("before", "after", "tax"):
        assert sum(bill[side]["amount_minor"] for bill in own) == sum(
            bill[side]["amount_minor"] for bill in whole
        )
    assert contents() == before


def test_what_was_learned_of_one_seller_is_nothing_to_another(shared: Shared) -> None:
    northwind, southwind = shared.parties.seller, shared.parties.other_seller
    edit(
        shared.contract, "change_quantity", {"line_id": shared.northwinds_line, "quantity": 4},
        at=NOW, effective_at=MARCH + 3 * DAY + timedelta(hours=1), reason="Forgotten",
    )  # fmt: skip
    version = ContractEdit.objects.filter(contract=shared.contract).count()
    diff = f"diff/?from_version={version - 1}"
    items = shared.get(northwind, diff)["items"]
    assert {pointer for item in items for pointer in item["after"]} == {
        f"/lines/{shared.northwinds_line}/quantity"
    }
    starts = {item["start"] for item in items} | {item["end"] for item in items}
    assert "2027-04-10T00:00:00Z" not in starts, "another seller's planned change is no date here"
    assert shared.get(southwind, diff)["items"] == []
    assert shared.get(shared.parties.partner, diff)["items"] == []
    assert shared.get(shared.parties.buyer, diff)["items"] != []


def test_the_schedule_is_the_buyers_and_the_platforms(shared: Shared) -> None:
    path = f"contracts/{shared.contract.pk}/schedule/"
    for one in (shared.parties.buyer, Organization.objects.platform()):
        assert "2027-04-10T00:00:00Z" in [item["at"] for item in Api(one)("GET", path).json()["items"]]
    for one in (shared.parties.seller, shared.parties.other_seller, shared.parties.partner):
        answer = Api(one)("GET", path)
        assert (answer.status_code, "items" in answer.json()) == (404, False)


def test_a_document_shows_each_party_its_own_and_a_digest_of_that(shared: Shared) -> None:
    hashes = set()
    for one in (Organization.objects.platform(), *vars(shared.parties).values()):
        if not isinstance(one, Organization):
            continue
        body = shared.get(one, "document/")
        hashes.add(body["sha256"])
        titles = {section["title"] for section in body["sections"]}
        is_payer = "platform" in one.roles or one == shared.parties.buyer
        assert ("Payment" in titles) is is_payer
        if "platform" not in one.roles:
            assert not {FEE, SHARE} & set(str(body).split("'")), one.name
    assert len(hashes) == 5, "a digest of what is hidden lets it be guessed"
    assert shared.parties.other_seller.name not in str(shared.get(shared.parties.seller, "document/"))


@pytest.mark.parametrize(
    ("query", "accept", "is_pdf"),
    [
        ("", "", False),
        ("", "*/*", False),
        ("", "application/pdf", True),
        ("?format=pdf", "*/*", True),
        ("?format=json", "application/pdf", False),
    ],
)
def test_a_document_comes_as_json_or_as_pdf(shared: Shared, query: str, accept: str, is_pdf: bool) -> None:
    api = Api(shared.parties.seller)
    answer = api("GET", f"contracts/{shared.contract.pk}/document/{query}", Accept=accept)
    assert (answer.status_code, answer["ETag"]) == (200, f'"{shared.contract.version}"')
    sha256 = shared.get(shared.parties.seller, "document/")["sha256"]
    if is_pdf:
        assert answer["Content-Type"] == "application/pdf"
        assert answer.content.startswith(b"%PDF-")
        assert answer["X-Content-SHA256"] == sha256
    else:
        assert (answer["Content-Type"], answer.json()["sha256"]) == ("application/json", sha256)


def test_a_document_that_is_not_there_is_a_problem_whatever_was_asked_for(shared: Shared) -> None:
    path = f"contracts/{shared.contract.pk}/document/?valid_at=2026-01-01T00:00:00Z"
    answer = Api(shared.parties.buyer)("GET", path, Accept="application/pdf")
    assert (answer.status_code, answer["Content-Type"]) == (404, "application/problem+json")
    assert answer.json()["code"] == "not_found"
