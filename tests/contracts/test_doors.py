"""The two doors: contracts over HTTP and in the console."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client
from django.urls import reverse

from commerce.api.services import issue_key
from commerce.console.demo_users import ensure_demo_users
from commerce.parties.models import Organization
from contracts.models import Contract, ContractEdit, Product
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


# Console


@pytest.fixture
def browser(db: None, clock: Any) -> Callable[[str], Client]:
    passwords = ensure_demo_users()

    def log_in(name: str) -> Client:
        client = Client()
        assert client.login(username=name, password=passwords[name])
        return client

    return log_in


def page(contract: Contract, query: str = "") -> str:
    return reverse("admin:contracts_contract_change", args=[contract.pk]) + query


def act(client: Client, contract: Contract, name: str, **data: Any) -> Any:
    url = reverse("admin:contracts_contract_do", args=[contract.pk, name])
    confirmation = client.get(url)
    assert confirmation.status_code == 200
    fingerprint = re.search(r'name="fingerprint" value="(\w+)"', confirmation.content.decode())
    assert fingerprint
    return client.post(url, {"reason": "Agreed by phone", "fingerprint": fingerprint[1], **data})


def test_the_page_shows_lines_terms_versions_and_only_possible_operations(
    browser: Callable[[str], Client], active: Contract
) -> None:
    text = browser("operator").get(page(active)).content.decode()
    assert "36,000.00" in text
    assert "2,970.00" in text
    assert "12.5 % of the net" in text
    assert "Northwind" in text
    assert "Go live (version 4)" in text
    assert "Not possible while active." in text
    assert "No hold is open." in text


def test_every_operation_has_its_form_in_the_console(
    browser: Callable[[str], Client], draft: Contract, servers: UUID
) -> None:
    operator = browser("operator")
    line = str(servers)
    steps: list[tuple[str, dict[str, Any]]] = [
        ("submit", {}),
        ("withdraw", {}),
        (
            "add-product",
            {"product": "h100-server", "seller": "southwind", "quantity": "1", "rate": "17000.50"},
        ),
        ("submit", {}),
        ("signed", {}),
        ("live", {}),
        ("change-quantity", {"line": line, "quantity": "3"}),
        ("suspend", {"hold": "abuse", "billing": "stop"}),
        ("resume", {"hold": "abuse"}),
        ("remove-product", {"line": line, "when": "immediate"}),
        ("terminate", {"when": "end_of_period", "cause": "mutual"}),
    ]
    for name, data in steps:
        answer = act(operator, draft, name, **data)
        assert answer.status_code == 302, (name, answer.content.decode())
    draft.refresh_from_db()
    assert (draft.version, draft.status) == (12, "active")
    assert draft.next_due_at is not None
    last = ContractEdit.objects.get(contract=draft, seq=12)
    assert (last.reason, last.actor_label, last.actor_type) == ("Agreed by phone", "operator", "user")


def test_a_refused_operation_is_a_sentence_on_the_same_page(
    browser: Callable[[str], Client], active: Contract, servers: UUID
) -> None:
    answer = act(browser("operator"), active, "change-quantity", line=str(servers), quantity="2")
    assert answer.status_code == 422
    assert "Nothing would change." in answer.content.decode()
    assert ContractEdit.objects.count() == 4


def test_a_viewer_sees_the_contract_and_can_do_nothing(
    browser: Callable[[str], Client], active: Contract
) -> None:
    viewer = browser("viewer")
    text = viewer.get(page(active)).content.decode()
    assert active.number in text
    assert "/do/" not in text
    url = reverse("admin:contracts_contract_do", args=[active.pk, "terminate"])
    assert viewer.get(url).status_code == viewer.post(url, {"reason": "x"}).status_code == 403


def test_at_another_instant_the_page_warns_and_offers_no_operation(
    browser: Callable[[str], Client], active: Contract, servers: UUID
) -> None:
    body = {"line_id": str(servers), "quantity": 5}
    edit(active, "change_quantity", body, at=MARCH + timedelta(days=10))
    text = browser("operator").get(page(active, "?valid_at=2027-03-05T00:00")).content.decode()
    assert "Back to now" in text
    assert "36,000.00" in text
    assert "/do/" not in text
    for none in ("rubbish", "9999-12-31T23:59-23:59", "0001-01-01T00:00%2B23:59"):
        text = browser("operator").get(page(active, f"?valid_at={none}")).content.decode()
        assert "90,000.00" in text
    text = browser("operator").get(page(active, "?valid_at=2027-03-11T12:00%2B23:59")).content.decode()
    assert "36,000.00" in text
    assert 'value="2027-03-10T12:01"' in text


def test_lists_and_the_log_are_read_only_and_products_are_the_administrators(
    browser: Callable[[str], Client], active: Contract
) -> None:
    operator, administrator = browser("operator"), browser("admin")
    edit_page = reverse("admin:contracts_contractedit_change", args=[active.edits.get(seq=1).pk])
    assert "h100-server" in operator.get(edit_page).content.decode()
    assert operator.post(edit_page, {"reason": "x"}).status_code == 403
    assert active.number in operator.get(reverse("admin:contracts_contract_changelist")).content.decode()
    product = Product.objects.get(code="h100-server")
    change = reverse("admin:contracts_product_change", args=[product.pk])
    assert operator.post(change, {"name": "Mine", "active": "on"}).status_code == 403
    assert administrator.post(change, {"name": "H100 SXM", "active": "on"}).status_code == 302
    add = reverse("admin:contracts_product_add")
    new = {
        "code": "b200",
        "name": "B200",
        "kind": "usage",
        "unit": "device_hour",
        "meter": "",
        "active": "on",
    }
    assert operator.post(add, new).status_code == 403
    assert "needs a meter" in administrator.post(add, new).content.decode()
    assert administrator.post(add, {**new, "meter": "b200_hours"}).status_code == 302
    product.refresh_from_db()
    assert product.name == "H100 SXM"
    assert Product.objects.filter(code="b200").count() == 1
