"""What was asked and decided never changes, whoever writes, also when several do at once."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from commerce.actor import Actor
from commerce.console.approvals import approve
from commerce.console.models import Approval, ReviewItem
from commerce.errors import Conflict, StateConflict
from commerce.models import TransitionLog
from tests.commerce.console.approvals.conftest import (
    SOON,
    ask,
    findings,
    forge,
    nothing_was_done,
    refused_by_the_database,
)


@pytest.mark.parametrize(
    "change",
    ["arguments = '{}'", "maker = 'user:0'", "operation = 'x'", "subject_id = '2'", "sha256 = ''",
     "expires_at = now() + interval '9 years'", "reason = 'x'", "requested_at = now()", "value_minor = 1"],
)  # fmt: skip
def test_what_was_requested_never_changes(approval: Approval, change: str) -> None:
    assert refused_by_the_database(change, approval) == "23001"


@pytest.mark.parametrize(
    "change",
    ["checker = 'user:0'", "decision = 'x'", "result_id = 'x'", "decided_at = now()", "status = 'pending'"],
)
def test_what_was_decided_never_changes(approval: Approval, checker: Actor, change: str) -> None:
    approve(approval=approval, actor=checker, at=SOON)
    assert refused_by_the_database(change, approval) == "23514"


@pytest.mark.parametrize(
    "change",
    ["status = 'approved'", "status = 'approved', decided_at = expires_at - interval '1 second'",
     "status = 'approved', checker = 'user:0', decided_at = expires_at",
     "status = 'rejected', decided_at = now()", "status = 'cancelled'", "decided_at = now()",
     "result_type = 'a.b', result_id = '1'"],
)  # fmt: skip
def test_half_a_decision_is_none(approval: Approval, change: str) -> None:
    assert refused_by_the_database(change, approval) == "23514"


def test_an_approval_bound_to_something_else_is_refused_and_found(approval: Approval, checker: Actor) -> None:
    assert findings("I4") == []
    forge("""arguments = '{"title": "Another"}'""", approval)
    with pytest.raises(Conflict) as refusal:
        approve(approval=approval, actor=checker, at=SOON)
    assert refusal.value.code == "approval_tampered"
    assert nothing_was_done(approval)
    assert findings("I4") == ["Leave a note: changed after it was requested."]


@pytest.mark.parametrize("forged", ["operation = 'test.other'", "subject_id = '9'", "subject_type = 'a.b'"])
def test_a_request_that_was_moved_to_another_subject_is_found(approval: Approval, forged: str) -> None:
    forge(forged, approval)
    assert findings("I4") != []


def test_an_approval_that_nobody_gave_is_found(approval: Approval) -> None:
    forge("status = 'approved', checker = 'user:900000000', decided_at = requested_at", approval)
    assert findings("I4") == [
        f"Leave a note: requested by {approval.maker}, approved by user:900000000, not as the rules ask."
    ]


def test_a_request_that_should_have_expired_is_found(approval: Approval, clock: Any) -> None:
    clock(approval.expires_at + timedelta(hours=23))
    assert findings("I5") == []
    clock(approval.expires_at + timedelta(hours=25))
    assert findings("I5") == ["Leave a note should have expired and has not."]


def together(*works: Callable[[], Any]) -> list[Any]:
    barrier, results = threading.Barrier(len(works)), [None] * len(works)

    def run(number: int) -> None:
        try:
            connection.ensure_connection()
            barrier.wait()
            results[number] = works[number]()
        except BaseException as error:
            results[number] = error
        finally:
            connection.close()

    workers = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    return results


@pytest.mark.django_db(transaction=True)
def test_two_checkers_at_once_do_it_once(people: dict[str, Actor]) -> None:
    approval = ask(people["operator"])
    names = ("approver", "root", "other")
    found = together(
        *(lambda n=n: approve(approval=approval, actor=people[n], at=SOON, reason=n) for n in names)
    )
    assert [type(result) for result in found].count(Approval) == 1
    assert [type(result) for result in found].count(StateConflict) == 2
    assert ReviewItem.objects.count() == 1
    assert TransitionLog.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_the_same_requested_at_once_waits_once(people: dict[str, Actor]) -> None:
    makers = [people["operator"], people["root"], people["other"]]
    found = together(*(lambda m=m: ask(m) for m in makers))
    assert [type(result) for result in found].count(Approval) == 1
    assert all(isinstance(result, Approval | Conflict) for result in found)
    keyed = together(*(lambda: ask(makers[0], key="once", subject_id="2") for _ in range(3)))
    assert len({result.pk for result in keyed}) == 1
    assert Approval.objects.count() == 2
