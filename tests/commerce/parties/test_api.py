"""Organizations over HTTP: who may register, who sees whom, and what never comes back."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from commerce.actor import Actor
from commerce.api.models import IdempotencyKey
from commerce.api.services import issue_key
from commerce.outbox.models import OutboxEvent
from commerce.parties.models import Organization, ProviderReference

PATH = "/api/v1/organizations/"
CANARY = "987654321098"
BANK = {"account_number": CANARY, "routing_number": "121141822"}
SELLER = {
    "name": "Northwind",
    "roles": ["seller"],
    "country": "US",
    "currency": "USD",
    "email": "ap@northwind.test",
    "bank_account": BANK,
}

pytestmark = pytest.mark.django_db
Call = Callable[..., Any]


def caller(organization: Organization, *scopes: str) -> Call:
    _, plain = issue_key(
        organization=organization,
        scopes=scopes or ("organizations:read", "organizations:write"),
        label="key",
        actor=Actor.system("test"),
        at=datetime(2027, 3, 1, tzinfo=UTC),
    )

    def call(method: str, path: str = "", body: Any = None, **headers: str) -> Any:
        headers = {"Authorization": f"Bearer {plain}", "Idempotency-Key": str(uuid4()), **headers}
        more = {"data": json.dumps(body), "content_type": "application/json"} if body is not None else {}
        return Client().generic(method, PATH + path, headers=headers, **more)

    return call


@pytest.fixture
def platform(db: None) -> Call:
    return caller(Organization.objects.platform())


def test_the_platform_registers_and_gets_no_number_back(platform: Call) -> None:
    answer = platform("POST", body=SELLER)
    assert answer.status_code == 201, answer.content
    body = answer.json()
    assert (body["onboarding_status"], body["missing"]) == (
        "registered",
        ["counterparty", "external_account"],
    )
    assert CANARY not in answer.content.decode()
    assert CANARY not in json.dumps(list(IdempotencyKey.objects.values_list("response", flat=True)))
    listed = platform("GET", f"{body['id']}/references/").json()["items"]
    assert [(row["kind"], row["status"], row["last4"]) for row in listed] == [
        ("external_account", "requested", "1098"),
        ("counterparty", "requested", ""),
    ]


def test_the_same_request_twice_is_one_organization(platform: Call) -> None:
    first, again = (platform("POST", body=SELLER, **{"Idempotency-Key": "one"}) for _ in range(2))
    assert first.json() == again.json()
    assert Organization.objects.filter(slug="northwind").count() == 1
    assert OutboxEvent.objects.count() == 1


def test_an_organization_sees_itself_and_registers_nobody(
    platform: Call, organization_of: Callable[..., Organization]
) -> None:
    other = platform("POST", body=SELLER).json()["id"]
    acme = organization_of("buyer", name="Acme")
    call = caller(acme)
    assert [row["id"] for row in call("GET").json()["items"]] == [str(acme.pk)]
    assert call("GET", f"{acme.pk}/").status_code == 200
    assert call("GET", f"{other}/").status_code == 404
    assert call("GET", f"{other}/references/").status_code == 404
    assert call("POST", f"{other}/bank-accounts/", BANK).status_code == 404
    assert call("POST", body={**SELLER, "name": "Mine"}).status_code == 403
    assert not Organization.objects.filter(name="Mine").exists()


def test_a_seller_adds_its_own_bank_account_with_the_scope_to_write(
    organization_of: Callable[..., Organization],
) -> None:
    seller = organization_of("seller")
    reader = caller(seller, "organizations:read")
    assert reader("POST", f"{seller.pk}/bank-accounts/", BANK).status_code == 403
    answer = caller(seller)("POST", f"{seller.pk}/bank-accounts/", BANK)
    assert (answer.status_code, answer.json()["last4"]) == (201, "1098")
    assert CANARY not in answer.content.decode()


def test_a_buyer_is_not_paid(organization_of: Callable[..., Organization]) -> None:
    buyer = organization_of("buyer")
    answer = caller(buyer)("POST", f"{buyer.pk}/bank-accounts/", BANK)
    assert (answer.status_code, answer.json()["code"]) == (422, "not_a_payee")
    assert not ProviderReference.objects.exists()


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"roles": []}, "/roles"),
        ({"roles": ["platform"]}, "/roles/0"),
        ({"country": "us"}, "/country"),
        ({"currency": "XXX"}, "/currency"),
        ({"email": "nobody"}, "/email"),
        ({"surprise": 1}, "/surprise"),
        ({"bank_account": {**BANK, "routing_number": "121141823"}}, "/bank_account/routing_number"),
        ({"bank_account": {**BANK, "account_number": f"{CANARY}!"}}, "/bank_account/account_number"),
        ({"bank_account": {**BANK, "iban": "x"}}, "/bank_account/iban"),
        ({"bank_account": CANARY}, "/bank_account"),
    ],
)
def test_bad_input_names_the_field_and_never_repeats_the_number(
    platform: Call, change: dict[str, Any], pointer: str
) -> None:
    answer = platform("POST", body={**SELLER, **change})
    assert answer.status_code in (400, 422)
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert CANARY not in answer.content.decode()
    assert CANARY not in json.dumps(list(IdempotencyKey.objects.values_list("response", flat=True)))
    assert not Organization.objects.filter(slug="northwind").exists()


def test_lists_filter_by_role_and_status(platform: Call) -> None:
    platform("POST", body=SELLER)
    platform("POST", body={**SELLER, "name": "Acme", "roles": ["partner"]})
    rows = platform("GET", "?role=seller&onboarding_status=registered").json()["items"]
    assert [row["name"] for row in rows] == ["Northwind"]
    assert platform("GET", "?role=bank").status_code == 400
    assert platform("GET", "?colour=red").status_code == 400
