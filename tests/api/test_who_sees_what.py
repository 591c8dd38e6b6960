"""What each party of one contract reads of it: one buyer, two sellers, a partner, and the platform."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from commerce.ids import uuid7
from commerce.money import Money
from commerce.outbox import drain
from commerce.parties.models import Organization
from contracts.models import Contract
from ledger.rules import recipes
from ledger.services import post
from tests.api.conftest import Api, contents
from tests.contracts.conftest import MARCH, OPERATOR, Parties, create, edit, parties, payload

__all__ = ["parties", "payload"]
pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
FEE, SHARE, DOWNPAYMENT = "0.125", "0.0531", 1_234_567
BILL = "desired-lines/?start=2027-03-01T00:00:00Z&end=2027-05-01T00:00:00Z"
SECRET_REASON = "Northwind is late and Southwind is not"
# What of the terms a buyer reads: all but how its money is divided.
AGREED = {"payment", "renewal", "sla", "tax", "commitment", "references"}


@dataclass
class Shared:
    """Northwind's servers and Southwind's burst hours on one contract, changed after it went live."""

    contract: Contract
    parties: Parties
    northwinds_line: str
    southwinds_line: str
    later_line: str

    def get(self, organization: Organization, path: str = "") -> Any:
        answer = Api(organization)("GET", f"contracts/{self.contract.pk}/{path}")
        assert answer.status_code == 200, answer.content
        return answer.json()

    def everything(self, organization: Organization) -> str:
        """All that an organization can read about the contract, as one text."""
        paths = ("", "edits/", "timeline/", "service/", "document/", "diff/?from_version=1", BILL)
        parts = [self.get(organization, path) for path in paths]
        parts.append(self.get(organization, "?valid_at=2027-03-20T00:00:00Z"))
        listed = Api(organization)("GET", "contracts/").json()["items"]
        return json.dumps([*parts, listed])

    def edits(self, organization: Organization) -> dict[int, Any]:
        return {row["seq"]: row for row in self.get(organization, "edits/")["items"]}


def fund(buyer: Organization) -> None:
    """What the downpayment needs before the contract may go live."""
    platform, amount = Organization.objects.platform(), Money(DOWNPAYMENT, "USD")
    post(
        entries=recipes.fund_wallet(platform=platform.pk, buyer=buyer.pk, amount=amount),
        key="fund", source="test", recipe="fund_wallet", at=MARCH, actor=OPERATOR,
    )  # fmt: skip
    drain(groups=["billing.account"])


@pytest.fixture
def shared(parties: Parties, payload: dict[str, Any], clock: Callable[..., None]) -> Shared:
    northwinds, southwinds = payload["lines"]
    southwinds["seller_id"] = str(parties.other_seller.pk)
    downpayment = {"amount_minor": DOWNPAYMENT, "currency": "USD"}
    payload["terms"]["commitment"] = {"downpayment": downpayment}
    payload["terms"]["settlement"]["partner_share"] = SHARE
    contract = create(payload).contract
    signatures = [
        {"party": str(party.pk), "name": f"Signed for {party.name}", "at": "2027-03-01T00:00:00Z"}
        for party in (parties.buyer, parties.seller, parties.other_seller)
    ]
    edit(contract, "activate", {"stage": "submit"})
    edit(contract, "activate", {"stage": "signed", "signatures": signatures})
    fund(parties.buyer)
    edit(contract, "activate", {"stage": "live"})
    later = str(uuid7())
    added = {
        "line_id": later,
        "product": "h100-server",
        "seller_id": str(parties.other_seller.pk),
        "quantity": 7,
        "price": {"model": "unit", "rate": "17500.00"},
    }
    at = MARCH + 2 * DAY
    edit(contract, "add_product", added, at=at)
    pinned = {"line_id": northwinds["line_id"], "quantity": 3}
    edit(contract, "change_quantity", pinned, at=at + DAY, reason=SECRET_REASON)
    fault = {"reason": "seller_fault", "scope": [later]}
    edit(contract, "suspend", fault, at=at + 2 * DAY, reason=SECRET_REASON)
    edit(contract, "resume", {"reason": "seller_fault"}, at=at + 3 * DAY)
    edit(contract, "suspend", {"reason": "non_payment"}, at=at + 4 * DAY)
    planned = {"line_id": later, "quantity": 9}
    edit(contract, "change_quantity", planned, at=at + 4 * DAY, effective_at=MARCH + 40 * DAY)
    clock(at + 5 * DAY)
    contract.refresh_from_db()
    return Shared(contract, parties, northwinds["line_id"], southwinds["line_id"], later)


def lines(body: Any) -> set[str]:
    return {line["line_id"] for line in body["lines"]}


def test_the_platform_sees_the_whole_contract(shared: Shared) -> None:
    platform = Organization.objects.platform()
    body = shared.get(platform)
    assert lines(body) == {shared.northwinds_line, shared.southwinds_line, shared.later_line}
    assert body["terms"] == shared.contract.state["terms"]
    assert body["holds"][0]["reason"] == "non_payment"
    assert body["state_hash"] == shared.contract.state_hash
    edits = shared.edits(platform)
    assert set(edits) == set(range(1, 11))
    assert all(row["hash"] and row["actor"] for row in edits.values())


def test_a_buyer_sees_its_contract_and_prices_and_not_how_its_money_is_divided(shared: Shared) -> None:
    buyer = shared.parties.buyer
    body = shared.get(buyer)
    assert lines(body) == {shared.northwinds_line, shared.southwinds_line, shared.later_line}
    assert {line["price"]["rate"] for line in body["lines"]} == {"18000", "2", "17500"}
    assert body["terms"]["commitment"]["downpayment"]["amount_minor"] == DOWNPAYMENT
    assert set(body["terms"]) == AGREED
    assert len(body["signatures"]) == 3
    edits = shared.edits(buyer)
    assert set(edits) == set(range(1, 11))
    assert set(edits[1]["payload"]["terms"]) == AGREED
    assert edits[6]["reason"] == SECRET_REASON
    text = shared.everything(buyer)
    for secret in (FEE, "fee_rate", SHARE, "partner", "seasoning", str(shared.parties.partner.pk)):
        assert secret not in text, secret
    assert shared.contract.state_hash not in text, "a digest of what is hidden lets it be guessed"
    assert {row["hash"] for row in edits.values()} == {""}


def test_a_seller_sees_its_lines_and_its_share_and_nothing_of_the_others(shared: Shared) -> None:
    northwind, southwind = shared.parties.seller, shared.parties.other_seller
    body = shared.get(northwind)
    assert lines(body) == {shared.northwinds_line}
    assert body["terms"] == {"settlement": {"fee_rate": FEE, "seasoning_days": 7, "reserve_rate": "0"}}
    assert body["buyer_id"] == str(shared.parties.buyer.pk)
    assert [item["party"] for item in body["signatures"]] == [str(northwind.pk)]
    assert body["status"] == "suspended"
    assert body["holds"] == [
        {"billing": "continue", "access": "block", "since": "2027-03-07T00:00:00Z", "scope": "all"}
    ]
    assert lines(shared.get(southwind)) == {shared.southwinds_line, shared.later_line}
    for own, other in ((northwind, southwind), (southwind, northwind)):
        text = shared.everything(own)
        foreign = {shared.northwinds_line, shared.southwinds_line, shared.later_line} - lines(shared.get(own))
        for secret in (
            *foreign, str(other.pk), str(shared.parties.partner.pk), "partner_share", str(DOWNPAYMENT),
            "downpayment", "net_days", "wallet_auto", "0.0825", "non_payment", "seller_fault", SECRET_REASON,
            f"Signed for {other.name}", shared.contract.state_hash,
        ):  # fmt: skip
            assert secret not in text, secret


def test_a_seller_sees_the_edits_that_concern_it_and_no_trace_of_the_others(shared: Shared) -> None:
    northwind, southwind = shared.parties.seller, shared.parties.other_seller
    edits = shared.edits(northwind)
    assert set(edits) == {1, 2, 3, 4, 6, 9}
    assert set(shared.edits(southwind)) == {1, 2, 3, 4, 5, 7, 8, 9, 10}
    assert {(row["actor"], row["reason"], row["hash"]) for row in edits.values()} == {("", "", "")}
    created = edits[1]["payload"]
    assert {line["line_id"] for line in created["lines"]} == {shared.northwinds_line}
    assert edits[6]["payload"] == {"line_id": shared.northwinds_line, "quantity": 3}
    hold = {"billing": "continue", "access": "block", "term": "run_on"}
    assert edits[9]["payload"] == {"scope": "all", **hold}
    seen = shared.edits(southwind)
    assert seen[7]["payload"] == {"scope": [shared.later_line], **hold}
    assert seen[8]["payload"] == {"scope": "all"}
    steps = shared.get(northwind, "timeline/")["items"]
    assert [step["edits"] for step in steps] == [[1, 2, 3, 4], [6], [9], []]
    assert steps[-1]["contract"]["status"] == "expired"


def test_a_planned_change_of_one_seller_is_no_date_in_anothers_calendar(shared: Shared) -> None:
    assert shared.contract.next_due_at == MARCH + 40 * DAY
    for organization, shows in (
        (shared.parties.buyer, True),
        (shared.parties.seller, False),
        (shared.parties.partner, False),
        (Organization.objects.platform(), True),
    ):
        [row] = Api(organization)("GET", "contracts/").json()["items"]
        assert (row["next_due_at"] is not None) is shows
    calendar = [step["at"] for step in shared.get(shared.parties.seller, "timeline/")["items"]]
    assert "2027-04-10T00:00:00Z" not in calendar


def test_a_partner_sees_the_header_and_its_share_alone(shared: Shared) -> None:
    partner = shared.parties.partner
    body = shared.get(partner)
    assert (body["status"], body["currency"], body["lines"], body["holds"]) == ("suspended", "USD", [], [])
    assert (body["signatures"], body["buyer_id"]) == ([], None)
    assert body["terms"]["settlement"] == {
        "partner_id": str(partner.pk),
        "partner_share": SHARE,
        "seasoning_days": 7,
        "reserve_rate": "0",
    }
    assert set(body["terms"]) == {"settlement"}
    assert set(shared.edits(partner)) == {1, 2, 3, 4, 9}
    text = shared.everything(partner)
    everybody = (shared.parties.buyer, shared.parties.seller, shared.parties.other_seller)
    for secret in (
        *(str(one.pk) for one in everybody), *(one.name for one in everybody), shared.northwinds_line,
        shared.southwinds_line, shared.later_line, FEE, "fee_rate", str(DOWNPAYMENT), "net_days", "0.0825",
        "18000", "non_payment", SECRET_REASON,
    ):  # fmt: skip
        assert secret not in text, secret


def test_a_seller_who_came_later_sees_nothing_of_the_time_before(shared: Shared) -> None:
    newcomer = Organization.objects.create(name="Eastwind", slug="eastwind", roles=["seller"])
    api = Api(newcomer)
    assert api("GET", f"contracts/{shared.contract.pk}/").status_code == 404
    added = {
        "line_id": str(uuid7()), "product": "h100-server", "seller_id": str(newcomer.pk), "quantity": 1,
        "price": {"model": "unit", "rate": "1.00"},
    }  # fmt: skip
    edit(shared.contract, "add_product", added, at=MARCH + 7 * DAY)
    assert lines(shared.get(newcomer)) == {added["line_id"]}
    before = api("GET", f"contracts/{shared.contract.pk}/?valid_at=2027-03-05T00:00:00Z")
    assert before.status_code == 404
    assert set(shared.edits(newcomer)) == {11}
    assert [step["edits"] for step in shared.get(newcomer, "timeline/")["items"]] == [[11], []]


def test_a_refusal_tells_a_seller_nothing_of_the_others(shared: Shared) -> None:
    """Neither a stale version nor a line that exists is told from one that does not."""
    before = contents()
    for organization in (shared.parties.seller, shared.parties.partner):
        api = Api(organization)
        answers = [
            api(
                "POST",
                f"contracts/{shared.contract.pk}/{path}",
                {"operation": "change_quantity", "payload": {"line_id": line, "quantity": 1}},
                If_Match=version,
            )
            for path in ("operations/", "preview/")
            for line in (shared.southwinds_line, str(uuid7()))
            for version in ('"1"', '"10"')
        ]
        assert {answer.status_code for answer in answers} == {403}
        assert len({answer.json()["detail"] for answer in answers}) == 1
        assert "edits" not in answers[0].json()
    assert contents() == before


def test_what_a_buyer_does_is_answered_without_the_split(shared: Shared) -> None:
    api = Api(shared.parties.buyer)
    body = {"operation": "suspend", "payload": {"reason": "buyer"}}
    preview = api("POST", f"contracts/{shared.contract.pk}/preview/", body)
    done = api("POST", f"contracts/{shared.contract.pk}/operations/", body, If_Match='"10"')
    assert (preview.status_code, done.status_code) == (200, 201), (preview.content, done.content)
    assert preview.json()["after"]
    for answer in (preview, done):
        assert len(answer.json()["contract"]["lines"]) == 3
        assert "settlement" not in answer.content.decode()
        assert "fee_rate" not in answer.content.decode()


def test_one_organization_in_two_roles_sees_what_either_sees(shared: Shared) -> None:
    both = shared.parties.seller
    own = {
        "line_id": str(uuid7()), "product": "h100-server", "seller_id": str(shared.parties.partner.pk),
        "quantity": 1, "price": {"model": "unit", "rate": "1.00"},
    }  # fmt: skip
    Organization.objects.filter(pk=shared.parties.partner.pk).update(roles=["seller", "partner"])
    edit(shared.contract, "add_product", own, at=MARCH + 7 * DAY)
    body = shared.get(shared.parties.partner)
    assert lines(body) == {own["line_id"]}
    assert set(body["terms"]["settlement"]) == {
        *("fee_rate", "partner_id", "partner_share", "seasoning_days", "reserve_rate")
    }
    assert "partner_id" not in shared.get(both)["terms"]["settlement"]


def test_a_digest_changes_only_with_what_is_shown(shared: Shared) -> None:
    northwind, southwind = shared.parties.seller, shared.parties.other_seller
    before = [shared.get(one)["state_hash"] for one in (northwind, southwind)]
    added = {"line_id": shared.southwinds_line}
    edit(shared.contract, "remove_product", added, at=MARCH + 7 * DAY)
    after = [shared.get(one)["state_hash"] for one in (northwind, southwind)]
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert UUID(shared.get(northwind)["id"]) == shared.contract.pk
