"""Approvals on the command line: whoever decides signs in, and the same rules hold."""

import json
from collections.abc import Callable
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command

from commerce.actor import Actor
from commerce.console.models import Approval, ReviewItem
from tests.commerce.console.approvals.conftest import ask, leave_elsewhere, nothing_was_done, status


def run(*arguments: str) -> tuple[int, Any, str]:
    out, err = StringIO(), StringIO()
    code = 0
    try:
        call_command("approvals", *arguments, stdout=out, stderr=err)
    except SystemExit as left:
        code = int(str(left.code))
    text = out.getvalue()
    return code, json.loads(text) if "--json" in arguments and text else text, err.getvalue()


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda password: monkeypatch.setattr("sys.stdin", StringIO(f"{password}\n"))


def test_the_command_lists_what_waits(approval: Approval) -> None:
    code, rows, _ = run("--json", "list")
    assert (code, [row["id"] for row in rows]) == (0, [str(approval.pk)])
    assert rows[0]["consequences"] == "A note is left."
    assert rows[0]["arguments"] == approval.arguments
    _, text, _ = run("list")
    assert f"{approval.pk}  Leave a note, requested by operator, expires 2027-03-08" in text
    assert run("list", "--status", "approved")[1] == "nothing is approved\n"


def test_the_command_approves_as_the_person_who_signs_in(approval: Approval, typed: Any, clock: Any) -> None:
    arguments = (str(approval.pk), "--as", "approver", "--reason", "Agreed.")
    typed("approver-demo-2027")
    assert run("--dry-run", "approve", *arguments)[0] == 0
    assert nothing_was_done(approval)
    typed("approver-demo-2027")
    code, text, _ = run("approve", *arguments)
    assert code == 0
    assert text.startswith("Leave a note: approved, made console.reviewitem ")
    assert Approval.objects.get().checker == f"user:{User.objects.get(username='approver').pk}"
    assert ReviewItem.objects.count() == 1


@pytest.mark.parametrize(
    ("person", "password", "code"),
    [
        ("approver", "a guess", "not_signed_in"),
        ("nobody", "x", "not_signed_in"),
        ("operator", "operator-demo-2027", "permission_denied"),
        ("root", "root", "own_approval"),
    ],
)
def test_the_command_approves_for_nobody_else(
    people: dict[str, Actor], typed: Any, clock: Any, person: str, password: str, code: str
) -> None:
    approval = ask(people["root"])
    typed(password)
    left, text, talk = run("approve", str(approval.pk), "--as", person, "--reason", "x")
    assert (left, text) == (6, "")
    assert code in talk
    assert nothing_was_done(approval)


def test_the_command_says_that_a_request_was_overtaken(approval: Approval, typed: Any, clock: Any) -> None:
    leave_elsewhere()
    typed("approver-demo-2027")
    code, text, talk = run("approve", str(approval.pk), "--as", "approver", "--reason", "Agreed.")
    assert (code, text) == (6, "Leave a note: nothing was done, and the request is closed.\n")
    assert talk.endswith("Somebody else left it.\n")
    assert status(approval) == "cancelled"


def test_the_command_rejects_and_cancels(maker: Actor, typed: Any, clock: Any) -> None:
    first, second = ask(maker), ask(maker, subject_id="2")
    typed("approver-demo-2027")
    assert run("reject", str(first.pk), "--as", "approver", "--reason", "No.")[0] == 0
    typed("operator-demo-2027")
    assert run("cancel", str(second.pk), "--as", "operator", "--reason", "Mistake.")[0] == 0
    assert (status(first), status(second)) == ("rejected", "cancelled")
    assert not ReviewItem.objects.exists()
    assert run("reject", str(uuid4()), "--as", "approver", "--reason", "No.")[0] == 6
