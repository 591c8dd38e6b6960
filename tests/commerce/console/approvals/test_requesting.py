"""A request is kept as it was asked, waits once, and does nothing by itself."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.core.exceptions import ImproperlyConfigured

from commerce.actor import Actor
from commerce.console import approvals
from commerce.console.approvals import Operation, reject
from commerce.console.models import Approval
from commerce.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from commerce.money import Money
from tests.commerce.console.approvals.conftest import NOTE, SOON, ask, events, nothing_was_done, status
from tests.commerce.console.conftest import AT


def test_a_request_is_kept_with_its_hash_and_does_nothing(maker: Actor) -> None:
    approval = ask(maker, value=Money(500, "USD"))
    approval.refresh_from_db()
    assert nothing_was_done(approval)
    assert approvals.is_bound(approval)
    assert (approval.maker, approval.maker_name, approval.checker) == (str(maker), "operator", "")
    assert (approval.title, approval.subject_type) == ("Leave a note", "billing.invoice")
    assert approval.expires_at == AT + timedelta(days=7)
    assert approval.value == Money(500, "USD")
    assert events() == ["approval.requested"]


def test_who_may_not_request_requests_nothing(people: dict[str, Actor]) -> None:
    for name in ("viewer", "approver"):
        with pytest.raises(PermissionDenied):
            ask(people[name])
    assert not Approval.objects.exists()
    assert events() == []


def test_the_order_of_the_arguments_does_not_matter_and_all_else_does() -> None:
    subject = {"operation": "a", "subject_type": "b", "subject_id": "c"}
    one = approvals.digest(**subject, arguments={"x": 1, "y": {"p": 1, "q": 2}})
    assert one == approvals.digest(**subject, arguments={"y": {"q": 2, "p": 1}, "x": 1})
    others = [
        approvals.digest(**subject | {"operation": "z"}, arguments={"x": 1, "y": {"p": 1, "q": 2}}),
        approvals.digest(**subject | {"subject_id": "z"}, arguments={"x": 1, "y": {"p": 1, "q": 2}}),
        approvals.digest(**subject, arguments={"x": "1", "y": {"p": 1, "q": 2}}),
        approvals.digest(**subject, arguments={"x": 1, "y": {"p": 2, "q": 1}}),
    ]
    assert len({one, *others}) == 5


@pytest.mark.parametrize(
    "odd", [1.5, 1.0, float("nan"), UUID(int=7), (1, 2), {1: 2}, "a\x00b", "\ud800"], ids=repr
)
def test_arguments_that_would_not_come_back_as_they_are_are_refused(maker: Actor, odd: Any) -> None:
    with pytest.raises(InvalidInput) as refusal:
        ask(maker, arguments={"title": "x", "odd": odd})
    assert refusal.value.errors[0].pointer == "/arguments"
    assert not Approval.objects.exists()


def test_arguments_come_back_as_they_were(maker: Actor) -> None:
    arguments = {"title": "ä “x” \\u0000", "n": 2**53 - 1, "list": [1, "a", None, True, {"z": 1, "a": 2}]}
    approval = ask(maker, arguments=arguments)
    approval.refresh_from_db()
    assert approval.arguments == arguments
    assert approvals.is_bound(approval)


def test_a_request_says_why_and_expires_later(maker: Actor) -> None:
    for wrong in ({"reason": "  "}, {"expires_at": AT}):
        with pytest.raises(InvalidInput):
            ask(maker, **wrong)
    assert not Approval.objects.exists()


def test_the_same_waits_once(maker: Actor, approval: Approval, people: dict[str, Actor]) -> None:
    with pytest.raises(Conflict, match="requested by operator") as refusal:
        ask(people["root"], reason="Another reason.")
    assert refusal.value.code == "approval_pending"
    assert refusal.value.extra["approval_id"] == str(approval.pk)
    assert Approval.objects.count() == 1
    assert ask(maker, arguments={"title": "Another"}) != approval
    assert ask(maker, subject_id="2") != approval


def test_what_was_decided_or_has_expired_may_be_requested_again(maker: Actor, checker: Actor) -> None:
    first = ask(maker)
    reject(approval=first, actor=checker, at=SOON, reason="No.")
    second = ask(maker)
    later = second.expires_at
    third = ask(maker, at=later)
    assert (status(first), status(second), status(third)) == ("rejected", "expired", "pending")


def test_a_key_repeated_is_the_first_request(maker: Actor, checker: Actor) -> None:
    first = ask(maker, key="call-17")
    assert ask(maker, key="call-17") == first
    reject(approval=first, actor=checker, at=SOON, reason="No.")
    assert ask(maker, key="call-17") == first
    with pytest.raises(Conflict) as refusal:
        ask(maker, key="call-17", subject_id="2")
    assert refusal.value.code == "key_reused"
    assert Approval.objects.count() == 1
    assert events() == ["approval.requested", "approval.rejected"]


def test_an_operation_is_known_once(maker: Actor) -> None:
    approvals.register_operation(NOTE)
    with pytest.raises(ImproperlyConfigured):
        approvals.register_operation(
            Operation("test.note", "Another", "x.request_y", "x.approve_y", run=NOTE.run, describe=str)
        )
    with pytest.raises(NotFound):
        ask(maker, operation="test.unknown")
    assert not Approval.objects.exists()
