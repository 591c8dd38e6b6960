"""Who agrees to an edit sees it in words, with the bills that it changes, before anything is recorded."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.html import strip_tags

from commerce.console.approvals import approve
from commerce.console.models import Approval
from commerce.ids import uuid7
from contracts.models import Contract, ContractEdit
from contracts.services import OperationRequest, request_edits
from tests.contracts.conftest import MARCH, edit
from tests.contracts.console.test_bulk import people

__all__ = ["people"]
pytestmark = pytest.mark.django_db
Browser = Callable[[str], Client]


def ask(
    contract: Contract, people: dict[str, Any], *operations: OperationRequest, at: datetime = MARCH
) -> Approval:
    contract.refresh_from_db()
    return request_edits(
        contract_id=contract.pk, operations=operations, expected_version=contract.version,
        actor=people["operator"], at=at, reason="Promised by phone",
    )  # fmt: skip


@pytest.fixture
def asked(active: Contract, servers: UUID, people: dict[str, Any]) -> Approval:
    discount = {
        "discount_id": str(uuid7()), "scope": [str(servers)], "kind": "percent", "percent": "0.1",
        "funded_by": {"kind": "platform"},
    }  # fmt: skip
    return ask(active, people, OperationRequest("apply_discount", discount))


def panels(client: Client, approval: Approval) -> str:
    """Of the request's page what stands before the arguments as they are kept."""
    page = client.get(reverse("admin:console_approval_change", args=[approval.pk]))
    assert page.status_code == 200
    text = page.content.decode()
    return text[text.index("What it does") : text.index("<h2>Arguments")]


def test_who_agrees_sees_the_operation_in_words_and_what_it_costs(
    browser: Browser, asked: Approval, servers: UUID
) -> None:
    before = ContractEdit.objects.count()
    text = panels(browser("approver"), asked)
    for words in ("Apply a discount", "percent 10 %", "h100-server", "Promised by phone", "−3,600.00"):
        assert words in strip_tags(text), words
    assert str(servers) not in text
    assert "Confirming asks a second person" not in text
    assert ContractEdit.objects.count() == before


def test_a_correction_says_what_it_puts_in_place(
    browser: Browser, active: Contract, servers: UUID, people: dict[str, Any]
) -> None:
    edit(active, "change_quantity", {"line_id": str(servers), "quantity": 3})
    new = {"payload": {"line_id": str(servers), "quantity": 4}}
    replaced = {"target_seq": 5, "mode": "replace", "replacement": new}
    text = panels(browser("approver"), ask(active, people, OperationRequest("correct", replaced)))
    for words in ("Replace #5", "quantity 4", "h100-server quantity"):
        assert words in strip_tags(text), words


@pytest.mark.parametrize("days", [0, 1, 5])
def test_what_was_asked_for_the_end_of_the_period_is_shown_as_it_would_be_recorded_then(
    browser: Browser, active: Contract, servers: UUID, people: dict[str, Any], clock: Any, days: int
) -> None:
    """Asked for on the last of March; agreed to on that day, or when the period is over."""
    dearer = {"line_id": str(servers), "percent": "0.5", "when": "next_period"}
    april = MARCH + timedelta(days=31)
    asked = ask(active, people, OperationRequest("change_price", dearer), at=april - timedelta(hours=9))
    now = asked.requested_at + timedelta(days=days)
    clock(now)
    text = panels(browser("approver"), asked)
    assert "It cannot be recorded so" not in text
    assert "Bills" in text
    approve(approval=asked, actor=people["approver"], at=now)
    assert ContractEdit.objects.get(operation="change_price").effective_at == april


def test_what_cannot_be_recorded_any_more_says_why(
    browser: Browser, active: Contract, servers: UUID, asked: Approval
) -> None:
    edit(active, "change_quantity", {"line_id": str(servers), "quantity": 3})
    text = panels(browser("approver"), asked)
    assert "It cannot be recorded so" in text
    assert "version" in text
    assert "Bills" not in text


def test_once_decided_it_would_change_nothing_any_more(
    browser: Browser, asked: Approval, people: dict[str, Any]
) -> None:
    approve(approval=asked, actor=people["approver"], at=MARCH + timedelta(hours=1))
    text = panels(browser("approver"), asked)
    assert "Apply a discount" in text
    assert "What it would change" not in text
