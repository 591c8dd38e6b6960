"""An operation that leaves a note, the people who may ask for it and agree, and what became of a request."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, connection, transaction

from commerce.actor import Actor
from commerce.console import approvals
from commerce.console.approvals import Operation, request_approval
from commerce.console.demo_users import ensure_demo_users
from commerce.console.models import Approval, ReviewItem
from commerce.console.services import open_review
from commerce.errors import Conflict
from commerce.invariants import REGISTRY
from commerce.outbox.models import OutboxEvent
from tests.commerce.console.conftest import AT, SYSTEM

SOON = AT + timedelta(hours=1)


def note(*, approval: Approval, actor: Actor, at: Any) -> ReviewItem:
    """The operation of these tests leaves a review item, unless it is asked for what cannot be."""
    item = open_review(
        kind="noted",
        subject_type=approval.subject_type,
        subject_id=approval.subject_id,
        title=approval.arguments["title"],
        actor=actor,
        at=at,
    )
    if approval.arguments.get("impossible"):
        raise Conflict("The books are closed.")
    return item


def _left_elsewhere(approval: Approval) -> bool:
    return ReviewItem.objects.filter(kind="elsewhere", subject_id=approval.subject_id).exists()


def leave_elsewhere(subject_id: str = "1") -> None:
    """What the request asks for comes about by another way."""
    open_review(
        kind="elsewhere",
        subject_type="billing.invoice",
        subject_id=subject_id,
        title="x",
        actor=SYSTEM,
        at=AT,
    )


NOTE = Operation(
    "test.note",
    "Leave a note",
    maker="console.claim_reviewitem",
    checker="payouts.approve_payout",
    run=note,
    describe=lambda approval: f"A note <{approval.arguments['title']}> is left.",
    overtaken=lambda approval: "Somebody else left it." if _left_elsewhere(approval) else "",
)


@pytest.fixture(autouse=True)
def _own_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "_operations", {})
    approvals.register_operation(NOTE)


@pytest.fixture
def people(db: None) -> dict[str, Actor]:
    ensure_demo_users()
    User.objects.create_superuser("root", password="root")
    User.objects.create_superuser("other", password="other")
    return {user.username: Actor.for_user(user) for user in User.objects.all()}


@pytest.fixture
def maker(people: dict[str, Actor]) -> Actor:
    return people["operator"]


@pytest.fixture
def checker(people: dict[str, Actor]) -> Actor:
    return people["approver"]


def ask(actor: Actor, **more: Any) -> Approval:
    given: dict[str, Any] = {
        "operation": "test.note",
        "arguments": {"title": "Look here", "amount_minor": 500},
        "subject_type": "billing.Invoice",
        "subject_id": "1",
        "reason": "A customer called.",
        "at": AT,
    }
    return request_approval(**given | {"actor": actor} | more)


@pytest.fixture
def approval(maker: Actor) -> Approval:
    return ask(maker)


def status(approval: Approval) -> str:
    return Approval.objects.get(pk=approval.pk).status


def nothing_was_done(approval: Approval, still: str = "pending") -> bool:
    return status(approval) == still and not ReviewItem.objects.exists()


def events() -> list[str]:
    return list(OutboxEvent.objects.order_by("id").values_list("type", flat=True))


def refused_by_the_database(change: str, approval: Approval) -> str:
    """The SQLSTATE with which the database refuses a change to the row; "" when it does not."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"UPDATE console_approval SET {change} WHERE id = %s", [approval.pk])
    except DatabaseError as error:
        return str(getattr(error.__cause__, "sqlstate", "?"))
    return ""


def forge(change: str, approval: Approval) -> None:
    """What somebody can do who owns the database."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE console_approval DISABLE TRIGGER USER")
        cursor.execute(f"UPDATE console_approval SET {change} WHERE id = %s", [approval.pk])
        cursor.execute("ALTER TABLE console_approval ENABLE TRIGGER USER")
        cursor.execute(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'console_approval'::regclass AND NOT tgisinternal"
        )
        for (name,) in cursor.fetchall():
            cursor.execute(f"ALTER TABLE console_approval ENABLE ALWAYS TRIGGER {name}")


def findings(code: str) -> list[str]:
    found = [finding for inv in REGISTRY if inv.code == code for finding in inv.check()]
    return [finding.detail for finding in found if finding.subject.startswith("approval:")]
