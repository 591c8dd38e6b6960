"""Over HTTP: a payee sees what is its own and nothing else, and the bank is never called in a request."""

import json
from uuid import uuid4

import pytest
from django.test import Client

from commerce.actor import Actor
from commerce.api.services import issue_key
from commerce.errors import PermissionDenied
from commerce.outbox.models import OutboxEvent
from commerce.parties.models import Organization
from payouts import services
from payouts.models import Payout
from tests.payouts.conftest import PAID, SEASONED, SYSTEM, holds, organization, usd

pytestmark = pytest.mark.django_db
ALL = ("settlements:read", "settlements:write", "payouts:read", "payouts:write")


class Api:
    """Calls as one organization's key would."""

    def __init__(self, owner: Organization, *scopes: str) -> None:
        _, self.plain = issue_key(
            organization=owner, scopes=scopes or ALL, label="key", actor=SYSTEM, at=PAID
        )
        self.client = Client(raise_request_exception=False)

    def get(self, path: str):
        return self.client.get(f"/api/v1/{path}", headers={"Authorization": f"Bearer {self.plain}"})

    def send(self, path: str, body=None, method: str = "post"):
        headers = {"Authorization": f"Bearer {self.plain}", "Idempotency-Key": str(uuid4())}
        content = json.dumps({} if body is None else body)
        call = getattr(self.client, method)
        return call(f"/api/v1/{path}", content, content_type="application/json", headers=headers)


@pytest.fixture
def northwind(world):
    return Api(world.northwind)


@pytest.fixture
def platform(world):
    return Api(world.platform, *ALL, "payouts:approve")


@pytest.fixture
def released(world):
    world.settle()
    world.release()
    return world


def test_the_platform_sees_every_leg_and_the_whole_invoice(released, platform):
    (settlement,) = platform.get("settlements/").json()["items"]
    assert settlement["total"] == {"amount_minor": 3_918_650, "currency": "USD"}
    assert [leg["kind"] for leg in settlement["legs"]] == ["tax", "fee", "partner", "seller"]
    assert settlement["legs"][3]["payouts"][0]["status"] == "approved"


def test_a_payee_sees_its_own_leg_and_no_other_amount(released, northwind):
    answer = northwind.get("settlements/")
    (settlement,) = answer.json()["items"]
    assert [leg["kind"] for leg in settlement["legs"]] == ["seller"]
    assert settlement["total"]["amount_minor"] == 3_167_500
    assert settlement["buyer_id"] is None
    for secret in ("22625", "429875", "298650", "3918650", str(released.acme.pk), str(released.bridge.pk)):
        assert secret not in answer.content.decode()


def test_strangers_see_nothing(released):
    stranger = Api(organization("Stranger", "seller"))
    buyer = Api(released.acme)
    payout = released.payout()
    settlement = payout.items.get().leg.settlement_id
    for key in (stranger, buyer):
        assert key.get("settlements/").json()["items"] == []
        assert key.get("payouts/").json()["items"] == []
        assert key.get(f"settlements/{settlement}/").status_code == 404
        assert key.get(f"settlements/{settlement}/legs/").status_code == 404
        assert key.get(f"payouts/{payout.pk}/").status_code == 404
        assert key.get(f"payout-policies/{released.northwind.pk}/").status_code == 404
        assert key.send(f"payouts/{payout.pk}/cancel/", {"reason": "x"}).status_code == 404


def test_legs_can_be_polled_and_asking_the_bank_is_only_noted(released, northwind, settings):
    settings.MODERN_TREASURY_BASE_URL = "http://127.0.0.1:9"
    payout = released.paid_through("sent")
    leg = payout.items.get().leg
    path = f"settlements/{leg.settlement_id}/legs/"
    assert northwind.get(path).json()["items"][0]["status"] == "released"
    Payout.objects.filter(pk=payout.pk).update(next_poll_at=SEASONED.replace(year=2040))
    answer = northwind.send(f"{path}{leg.pk}/poll/")
    assert answer.status_code == 202, answer.content
    assert answer.json()["payouts"][0]["next_poll_at"] < "2040"
    assert OutboxEvent.objects.filter(type="payout.poll_requested").count() == 1
    other = leg.settlement.legs.get(kind="partner")
    assert northwind.send(f"{path}{other.pk}/poll/").status_code == 404


def test_a_payee_pays_itself_on_request(world, northwind):
    services.set_policy(organization=world.northwind, mode="on_request", actor=SYSTEM, at=PAID)
    world.settle()
    world.release()
    amount = {"amount_minor": 100_000, "currency": "USD"}
    made = northwind.send("payouts/", {"amount": amount})
    assert made.status_code == 201, made.content
    assert (made.json()["status"], made.json()["amount"]) == ("approved", amount)
    rest = northwind.send("payouts/", {"currency": "USD"}).json()
    assert rest["amount"]["amount_minor"] == 3_067_500
    empty = northwind.send("payouts/", {"currency": "USD"})
    assert (empty.status_code, empty.json()["code"]) == (409, "nothing_payable")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "amount_or_currency"),
        ({"currency": "USD", "amount": {"amount_minor": 1, "currency": "USD"}}, 400, "amount_or_currency"),
        ({"amount": {"amount_minor": 0, "currency": "USD"}}, 400, "amount_too_small"),
        ({"amount": {"amount_minor": 2**53, "currency": "USD"}}, 400, "number_too_large"),
        ({"amount": {"amount_minor": 3_167_501, "currency": "USD"}}, 409, "insufficient_funds"),
        ({"currency": "EUR"}, 409, "nothing_payable"),
        ({"currency": "USD", "colour": "red"}, 400, "unknown_field"),
    ],
)
def test_bad_requests_say_what_is_wrong_and_pay_nothing(world, northwind, body, status, code):
    services.set_policy(organization=world.northwind, mode="on_request", actor=SYSTEM, at=PAID)
    world.settle()
    world.release()
    answer = northwind.send("payouts/", body)
    assert answer.status_code == status, answer.content
    assert code in {answer.json()["code"], *(error["code"] for error in answer.json()["errors"])}
    assert not Payout.objects.filter(payee=world.northwind).exists()


def test_nobody_pays_somebody_else_but_the_platform_which_needs_a_second_person(world, northwind, platform):
    services.set_policy(organization=world.bridge, mode="on_request", actor=SYSTEM, at=PAID)
    world.settle()
    world.release()
    body = {"payee_id": str(world.bridge.pk), "currency": "USD"}
    refused = northwind.send("payouts/", body)
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_payee")
    made = platform.send("payouts/", body).json()
    assert (made["status"], made["approval_reason"]) == ("needs_approval", "requested by hand")
    own = platform.send(f"payouts/{made['id']}/approve/", {"reason": "fine"})
    assert (own.status_code, own.json()["code"]) == (403, "own_payout")
    second = Api(world.platform, "payouts:read", "payouts:approve")
    approved = second.send(f"payouts/{made['id']}/approve/", {"reason": "fine"})
    assert (approved.status_code, approved.json()["status"]) == (200, "approved")


def test_approving_needs_its_scope_and_is_never_the_payees(world, settings):
    settings.PAYOUT_APPROVAL_LIMIT_MINOR = 0
    world.settle()
    world.release()
    payout = world.payout()
    path = f"payouts/{payout.pk}/approve/"
    assert Api(world.platform).send(path, {"reason": "x"}).status_code == 403
    may = frozenset({"payouts.approve_payout"})
    payee = Actor(type="api_key", id="k", organization_id=world.northwind.pk, permissions=may)
    with pytest.raises(PermissionDenied, match="nor its payee"):
        services.approve_payout(payout=payout, actor=payee, at=SEASONED)
    payout.refresh_from_db()
    assert payout.status == "needs_approval"


def test_cancelling_gives_the_money_back(released, northwind):
    payout = released.payout()
    answer = northwind.send(f"payouts/{payout.pk}/cancel/", {"reason": "wrong account"})
    assert answer.json()["status"] == "cancelled"
    assert holds(released.northwind, "PAYABLE") == usd("31,675.00")
    again = northwind.send(f"payouts/{payout.pk}/cancel/", {"reason": "again"})
    assert (again.status_code, again.json()["code"]) == (409, "state_conflict")


def test_a_payee_sets_its_own_policy(world, northwind):
    path = f"payout-policies/{world.northwind.pk}/"
    assert northwind.get(path).json()["mode"] == "automatic"
    terms = {"mode": "scheduled", "cadence": "weekly", "day": 5, "minimum_minor": 10_000}
    answer = northwind.send(path, terms, method="put")
    assert answer.status_code == 200, answer.content
    assert answer.json().items() >= terms.items()
    wrong = northwind.send(path, {"mode": "scheduled", "cadence": "weekly", "day": 9}, method="put")
    assert wrong.status_code == 422
    assert wrong.json()["errors"][0]["pointer"] == "/day"
    assert northwind.get(path).json().items() >= terms.items()
