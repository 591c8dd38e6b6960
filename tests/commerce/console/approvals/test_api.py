"""Approvals over HTTP: keys of the platform read them, nobody decides there."""

from typing import Any

import pytest
from django.test import Client

from commerce.actor import Actor
from commerce.api.services import issue_key
from commerce.console.models import Approval
from commerce.errors import InvalidInput
from commerce.money import Money
from commerce.parties.models import Organization
from tests.commerce.console.approvals.conftest import ask
from tests.commerce.console.conftest import AT, SYSTEM


def call(organization: Organization, scopes: list[str], path: str) -> Any:
    _, plain = issue_key(organization=organization, scopes=scopes, label="x", actor=SYSTEM, at=AT)
    return Client().get(f"/api/v1/{path}", headers={"Authorization": f"Bearer {plain}"})


def test_a_key_of_the_platform_reads_approvals(maker: Actor, approval: Approval) -> None:
    platform = Organization.objects.platform()
    staked = ask(maker, subject_id="2", value=Money(500, "USD"))
    answer = call(platform, ["approvals:read"], "approvals/").json()
    assert [item["id"] for item in answer["items"]] == [str(staked.pk), str(approval.pk)]
    assert [item["value"] for item in answer["items"]] == [{"amount_minor": 500, "currency": "USD"}, None]
    for query in ("subject=billing.invoice:1", "status=pending&subject=billing.Invoice:1"):
        found = call(platform, ["approvals:read"], f"approvals/?{query}").json()["items"]
        assert [item["id"] for item in found] == [str(approval.pk)]
    one = call(platform, ["approvals:read"], f"approvals/{approval.pk}/").json()
    assert (one["status"], one["sha256"], one["arguments"]) == (
        "pending",
        approval.sha256,
        approval.arguments,
    )
    assert call(platform, ["payouts:read"], "approvals/").status_code == 403


def test_nobody_else_may_have_such_a_key(db: None) -> None:
    buyer = Organization.objects.create(name="Acme", slug="acme", roles=["buyer"])
    with pytest.raises(InvalidInput, match="Only the platform's own keys"):
        call(buyer, ["approvals:read"], "approvals/")
