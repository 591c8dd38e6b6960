"""Contracts over HTTP."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client

from commerce.api.services import issue_key
from commerce.parties.models import Organization
from contracts.models import Contract, ContractEdit
from tests.contracts.conftest import MARCH, OPERATOR, Parties, edit

pytestmark = pytest.mark.django_db

SCOPES = ("contracts:read", "contracts:write")


class Api:
    """Calls with the key of one organization."""

    def __init__(self, organization: Organization) -> None:
        _, self.plain = issue_key(
            organization=organization, scopes=SCOPES, label="test", actor=OPERATOR, at=MARCH
        )
        self.client = Client(raise_request_exception=False)

    def get(self, path: str) -> Any:
        return self.client.get(f"/api/v1/{path}", headers={"Authorization": f"Bearer {self.plain}"})

    def post(self, path: str, body: Any, **headers: str) -> Any:
        given = {"Idempotency-Key": str(uuid4()), "Authorization": f"Bearer {self.plain}", **headers}
        return self.client.post(f"/api/v1/{path}", json.dumps(body), "application/json", headers=given)


@pytest.fixture
def platform(parties: Parties, clock: Any) -> Api:
    return Api(Organization.objects.platform())


def operate(api: Api, contract: Contract, operation: str, payload: Any, **more: Any) -> Any:
    version = more.pop("version", Contract.objects.get(pk=contract.pk).version)
    body = {"operation": operation, "payload": payload, **more}
    return api.post(f"contracts/{contract.pk}/operations/", body, **{"If-Match": f'"{version}"'})


# HTTP


def test_a_contract_is_created_signed_and_activated_over_http(platform: Api, payload: dict[str, Any]) -> None:
    created = platform.post("contracts/", payload)
    assert created.status_code == 201, created.json()
    assert created["ETag"] == '"1"'
    body = created.json()
    assert (body["status"], body["version"], body["end_at"]) == ("draft", 1, "2028-03-01T00:00:00Z")
    assert body["lines"][0]["price"] == {"model": "unit", "rate": "18000", "currency": "USD"}
    contract = Contract.objects.get(pk=body["id"])
    for stage in ("submit", "signed", "live"):
        answer = operate(platform, contract, "activate", {"stage": stage})
        assert answer.status_code == 201, answer.json()
    assert answer.json()["contract"]["status"] == "active"
    assert answer.json()["edit"]["seq"] == 4
    assert answer["ETag"] == '"4"'
    assert platform.get(created["Location"].removeprefix("/api/v1/")).json()["status"] == "active"


def test_a_version_must_be_named_and_be_the_current_one(platform: Api, active: Contract) -> None:
    body = {"operation": "suspend", "payload": {"reason": "legal"}}
    assert platform.post(f"contracts/{active.pk}/operations/", body).status_code == 428
    stale = operate(platform, active, "suspend", {"reason": "legal"}, version=3)
    assert (stale.status_code, stale.json()["code"]) == (412, "version_conflict")
    assert stale.json()["current_version"] == 4
    assert ContractEdit.objects.filter(operation="suspend").count() == 0


def test_faults_are_problems_with_pointers_into_the_body(
    platform: Api, active: Contract, payload: dict[str, Any], servers: UUID
) -> None:
    body = {"line_id": str(servers), "quantity": -1}
    negative = operate(platform, active, "change_quantity", body)
    assert negative.status_code == 422
    assert negative.json()["errors"][0]["pointer"] == "/payload/quantity"
    unknown = operate(platform, active, "change_quantity", {**body, "colour": "red"})
    assert unknown.status_code == 400
    naive = operate(platform, active, "change_quantity", body, effective_at="2027-03-05T00:00:00")
    assert naive.json()["errors"][0] == {
        "pointer": "/effective_at", "code": "invalid_instant", "detail": naive.json()["errors"][0]["detail"],
    }  # fmt: skip
    created = platform.post("contracts/", {**payload, "lines": [{**payload["lines"][0], "product": "b200"}]})
    assert created.status_code == 422
    assert created.json()["errors"][0]["pointer"] == "/lines/0/product"
    assert platform.post("contracts/", ["a"]).status_code in (400, 422)
    assert Contract.objects.count() == 1


def test_the_same_request_twice_has_one_effect(platform: Api, payload: dict[str, Any]) -> None:
    first = platform.post("contracts/", payload, **{"Idempotency-Key": "one"})
    again = platform.post("contracts/", payload, **{"Idempotency-Key": "one"})
    other = platform.post("contracts/", {**payload, "number": "X-1"}, **{"Idempotency-Key": "one"})
    assert again.json() == first.json()
    assert again["Idempotent-Replay"] == "true"
    assert other.status_code == 422
    assert Contract.objects.count() == 1


def test_a_contract_is_seen_by_its_parties_and_nobody_else(
    platform: Api, active: Contract, parties: Parties
) -> None:
    for organization, seen in (
        (parties.buyer, True),
        (parties.seller, True),
        (parties.other_seller, False),
        (parties.partner, True),
    ):
        api = Api(organization)
        assert len(api.get("contracts/").json()["items"]) == seen
        for path in ("", "edits/", "timeline/"):
            assert api.get(f"contracts/{active.pk}/{path}").status_code == (200 if seen else 404)
        foreign = operate(api, active, "suspend", {"reason": "abuse"})
        assert foreign.status_code == (403 if seen else 404)
    assert ContractEdit.objects.filter(operation="suspend").count() == 0


def test_a_buyer_cannot_open_a_contract_for_somebody_else(
    parties: Parties, payload: dict[str, Any], clock: Any
) -> None:
    other = Organization.objects.create(name="Other", slug="other", roles=["buyer"])
    assert Api(other).post("contracts/", payload).status_code == 403
    assert Api(parties.buyer).post("contracts/", payload).status_code == 201
    assert Contract.objects.count() == 1


def test_a_contract_is_read_at_any_two_instants(platform: Api, active: Contract, servers: UUID) -> None:
    known = ContractEdit.objects.latest("recorded_at").recorded_at
    later = MARCH + timedelta(days=10)
    body = {"line_id": str(servers), "quantity": 5}
    edit(active, "change_quantity", body, at=later, effective_at=MARCH + timedelta(days=2), reason="Late")

    def quantity(query: str) -> int:
        answer = platform.get(f"contracts/{active.pk}/?{query}")
        assert answer.status_code == 200, answer.json()
        return answer.json()["lines"][0]["quantity"]

    then = known.isoformat().replace("+00:00", "Z")
    assert quantity("valid_at=2027-03-02T00:00:00Z") == 2
    assert quantity("valid_at=2027-03-05T00:00:00Z") == 5
    assert quantity(f"valid_at=2027-03-05T00:00:00Z&known_at={then}") == 2
    assert platform.get(f"contracts/{active.pk}/?valid_at=2026-01-01T00:00:00Z").status_code == 404
    assert platform.get(f"contracts/{active.pk}/?valid_at=2027-03-05").status_code == 400
    assert platform.get(f"contracts/{active.pk}/?colour=red").status_code == 400


def test_edits_timeline_products_and_filters(platform: Api, active: Contract) -> None:
    edits = platform.get(f"contracts/{active.pk}/edits/").json()["items"]
    assert [row["seq"] for row in edits] == [4, 3, 2, 1]
    steps = platform.get(f"contracts/{active.pk}/timeline/").json()["items"]
    assert [(step["edits"], step["contract"]["status"]) for step in steps] == [
        ([1, 2, 3, 4], "active"), ([], "expired"),
    ]  # fmt: skip
    codes = [row["code"] for row in platform.get("products/").json()["items"]]
    assert {"h100-server", "h100-burst"} <= set(codes)
    assert len(platform.get("contracts/?status=active").json()["items"]) == 1
    assert platform.get("contracts/?status=draft").json()["items"] == []
    assert platform.get("contracts/?status=odd").status_code == 400


def test_a_preview_answers_like_the_operation_and_writes_nothing(
    platform: Api, active: Contract, servers: UUID
) -> None:
    body = {"operation": "change_quantity", "payload": {"line_id": str(servers), "quantity": 5}}
    preview = platform.post(f"contracts/{active.pk}/preview/", body)
    assert preview.status_code == 200, preview.json()
    assert preview.json()["after"] == {f"/lines/{servers}/quantity": 5}
    assert ContractEdit.objects.count() == 4
    done = operate(platform, active, "change_quantity", body["payload"])
    assert done.json()["contract"]["state_hash"] == preview.json()["contract"]["state_hash"]
    bad = platform.post(f"contracts/{active.pk}/preview/", {**body, "operation": "explode"})
    assert (bad.status_code, bad.json()["code"]) == (422, "unknown_operation")
