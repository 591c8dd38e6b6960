"""Who asks never decides; what is decided is done, or neither is; what nobody decides expires."""

from datetime import timedelta
from typing import Any

import pytest

from commerce.actor import Actor
from commerce.console import approvals
from commerce.console.approvals import approve, cancel, reject
from commerce.console.groups import permissions_by_group
from commerce.console.models import Approval, ReviewItem
from commerce.errors import CommerceError, Conflict, PermissionDenied, StateConflict
from commerce.models import TransitionLog
from commerce.outbox.models import OutboxEvent
from commerce.tasks import expire_approvals
from tests.commerce.console.approvals.conftest import (
    SOON,
    ask,
    events,
    findings,
    forge,
    leave_elsewhere,
    nothing_was_done,
    refused_by_the_database,
    status,
)
from tests.commerce.console.conftest import SYSTEM


def test_approving_does_it_as_the_checker(approval: Approval, checker: Actor) -> None:
    done = approve(approval=approval, actor=checker, at=SOON, reason="Agreed.")
    item = ReviewItem.objects.get()
    assert (done.status, done.checker, done.checker_name) == ("approved", str(checker), "approver")
    assert (done.result_type, done.result_id) == ("console.reviewitem", str(item.pk))
    assert (done.decided_at, done.decision) == (SOON, "Agreed.")
    assert item.title == "Look here"
    assert events() == ["approval.requested", "review_item.opened", "approval.approved"]
    decided = OutboxEvent.objects.order_by("id")[1:]
    assert {event.headers["actor"] for event in decided} == {str(checker)}
    log = TransitionLog.objects.get()
    assert (log.model, log.actor, log.reason) == ("console.approval", str(checker), "Agreed.")
    assert findings("I4") == []


def test_a_maker_cannot_decide_on_their_own_request(people: dict[str, Actor]) -> None:
    approval = ask(people["root"])
    for decide in (approve, reject):
        with pytest.raises(PermissionDenied, match="somebody else must"):
            decide(approval=approval, actor=people["root"], at=SOON, reason="Mine.")
    assert nothing_was_done(approval)
    decided = "status = 'approved', checker = maker, decided_at = now() - interval '9 years'"
    assert refused_by_the_database(decided, approval) == "23514"
    approve(approval=approval, actor=people["other"], at=SOON)
    assert status(approval) == "approved"


def test_a_system_may_request_and_decides_nothing(checker: Actor) -> None:
    approval = ask(SYSTEM)
    for decide in (approve, reject):
        with pytest.raises(PermissionDenied, match="a person must"):
            decide(approval=approval, actor=Actor.system("another"), at=SOON, reason="x")
    assert nothing_was_done(approval)
    decided = "status = 'approved', checker = 'system:x', decided_at = now() - interval '9 years'"
    assert refused_by_the_database(decided, approval) == "23514"
    approve(approval=approval, actor=checker, at=SOON)
    assert status(approval) == "approved"


def test_who_lacks_the_permission_decides_nothing(approval: Approval, people: dict[str, Actor]) -> None:
    for name in ("viewer", "operator", "admin"):
        for decide in (approve, reject):
            with pytest.raises(PermissionDenied):
                decide(approval=approval, actor=people[name], at=SOON, reason="x")
    for name in ("viewer", "approver", "admin"):
        with pytest.raises(PermissionDenied):
            cancel(approval=approval, actor=people[name], at=SOON)
    assert nothing_was_done(approval)
    assert not TransitionLog.objects.exists()


def test_when_the_service_refuses_nothing_is_approved(maker: Actor, checker: Actor) -> None:
    approval = ask(maker, arguments={"title": "x", "impossible": True})
    with pytest.raises(Conflict, match="books are closed"):
        approve(approval=approval, actor=checker, at=SOON)
    assert nothing_was_done(approval)
    assert events() == ["approval.requested"]
    assert not TransitionLog.objects.exists()


def test_what_was_overtaken_is_closed_with_the_reason_and_not_done(
    approval: Approval, people: dict[str, Actor]
) -> None:
    leave_elsewhere()
    for name in ("operator", "viewer"):
        with pytest.raises(PermissionDenied):
            approve(approval=approval, actor=people[name], at=SOON)
    assert status(approval) == "pending"
    closed = approve(approval=approval, actor=people["approver"], at=SOON, reason="Agreed.")
    assert (closed.status, closed.decision, closed.checker) == ("cancelled", "Somebody else left it.", "")
    assert not ReviewItem.objects.filter(kind="noted").exists()
    assert events() == ["approval.requested", "review_item.opened", "approval.cancelled"]
    log = TransitionLog.objects.get()
    assert (log.name, log.actor, log.reason) == ("cancel", "system:approvals", "Somebody else left it.")


def test_the_tick_closes_what_was_overtaken_and_no_more(maker: Actor, clock: Any) -> None:
    clock(SOON)
    first, rest = ask(maker), ask(maker, subject_id="2")
    assert expire_approvals() == 0
    leave_elsewhere()
    assert expire_approvals() == 1
    assert (status(first), status(rest)) == ("cancelled", "pending")
    forge("""arguments = '{}'""", rest)
    leave_elsewhere("2")
    assert expire_approvals() == 0, "What is not bound any more is a finding, and stays as it was found."
    assert status(rest) == "pending"


@pytest.mark.parametrize(("decide", "state"), [(reject, "rejected"), (cancel, "cancelled")])
def test_a_refused_or_withdrawn_request_does_nothing_ever(
    approval: Approval, people: dict[str, Actor], decide: Any, state: str
) -> None:
    decide(approval=approval, actor=people["other"], at=SOON, reason="Not now.")
    assert nothing_was_done(approval, state)
    for again in (approve, reject, cancel):
        with pytest.raises(StateConflict):
            again(approval=approval, actor=people["root"], at=SOON, reason="x")
    assert nothing_was_done(approval, state)
    assert events() == ["approval.requested", f"approval.{state}"]


def test_an_approval_counts_until_the_instant_it_expires(maker: Actor, checker: Actor) -> None:
    late, early = ask(maker), ask(maker, subject_id="2")
    with pytest.raises(StateConflict, match="expired on 2027-03-08"):
        approve(approval=late, actor=checker, at=late.expires_at)
    assert nothing_was_done(late)
    approve(approval=early, actor=checker, at=early.expires_at - timedelta(microseconds=1))
    assert status(early) == "approved"


def test_the_tick_expires_what_is_overdue_and_no_more(maker: Actor, clock: Any) -> None:
    due = ask(maker, expires_at=SOON)
    rest = ask(maker, subject_id="2")
    assert expire_approvals() == 0
    clock(SOON)
    assert expire_approvals() == 1
    assert (status(due), status(rest)) == ("expired", "pending")
    assert nothing_was_done(due, "expired")
    assert events().count("approval.expired") == 1
    assert expire_approvals() == 0


def test_operators_make_and_approvers_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    groups = permissions_by_group()
    for operation in approvals.operations():
        assert operation.maker in groups["operator"], operation.name
        assert operation.checker in groups["approver"], operation.name
        for name, permissions in groups.items():
            assert not {operation.maker, operation.checker} <= permissions, (operation.name, name)


def test_errors_name_themselves(approval: Approval, checker: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "_operations", {})
    assert approvals.describe(approval) == "There is no operation 'test.note' to approve."
    with pytest.raises(CommerceError) as refusal:
        approve(approval=approval, actor=checker, at=SOON)
    assert refusal.value.code == "unknown_operation"
    assert nothing_was_done(approval)
