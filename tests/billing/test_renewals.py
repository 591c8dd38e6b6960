"""Who owes is not bound to more: no other term by the clock or its own key, no more units by its own key."""

# ruff: noqa: F811  (fixtures)

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from billing.models import BillingAccount
from commerce.actor import Actor
from commerce.parties.models import Organization
from commerce.states import transition
from contracts.models import Contract
from tests.contracts.conftest import MARCH, active, draft, parties, payload, servers  # noqa: F401  (fixtures)
from tests.contracts.test_doors import Api, operate

CLERK = Actor.system("test")
pytestmark = pytest.mark.django_db


@pytest.fixture
def account(active: Contract) -> BillingAccount:
    return BillingAccount.objects.create(contract=active, buyer=active.buyer, status_since=MARCH)


def become(account: BillingAccount, *steps: str) -> BillingAccount:
    for step in steps:
        account = transition(account, f"become_{step}", actor=CLERK, at=MARCH)
    return account


def test_a_delinquent_buyer_is_renewed_by_the_platform_only(
    account: BillingAccount, active: Contract, clock: Any
) -> None:
    clock(MARCH + timedelta(days=2))
    buyer, platform = Api(active.buyer), Api(Organization.objects.platform())
    become(account, "invoiced", "in_grace", "past_due", "delinquent")
    refused = operate(buyer, active, "renew", {"term_months": 120})
    assert (refused.status_code, refused.json()["code"]) == (409, "past_due_block")
    assert not active.edits.filter(operation="renew").exists()
    assert operate(platform, active, "renew", {}).status_code == 201


def test_who_is_past_due_still_renews(account: BillingAccount, active: Contract, clock: Any) -> None:
    clock(MARCH + timedelta(days=2))
    become(account, "invoiced", "in_grace", "past_due")
    assert operate(Api(active.buyer), active, "renew", {}).status_code == 201


def test_a_delinquent_buyer_orders_fewer_and_no_more(
    account: BillingAccount, active: Contract, servers: UUID, clock: Any
) -> None:
    clock(MARCH + timedelta(days=2))
    buyer, platform = Api(active.buyer), Api(Organization.objects.platform())
    line = {"line_id": str(servers)}
    account = become(account, "invoiced", "in_grace", "past_due")
    assert operate(buyer, active, "change_quantity", {**line, "delta": 1}).status_code == 201
    become(account, "delinquent")
    for more in ({"delta": 500}, {"quantity": 500}):
        body = {"operation": "change_quantity", "payload": {**line, **more}}
        for refused in (
            operate(buyer, active, "change_quantity", {**line, **more}),
            buyer.post(f"contracts/{active.pk}/preview/", body),
        ):
            assert (refused.status_code, refused.json()["code"]) == (409, "past_due_block")
            assert [error["pointer"] for error in refused.json()["errors"]] == ["/payload"]
    assert operate(buyer, active, "change_quantity", {**line, "delta": -1}).status_code == 201
    assert operate(platform, active, "change_quantity", {**line, "delta": 1}).status_code == 201
