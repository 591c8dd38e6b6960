"""Approvals in the console: the page, its buttons, their consequences, and the card on home."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from commerce.actor import Actor
from commerce.console import approvals, panels, registry
from commerce.console.models import Approval, ReviewItem
from commerce.money import Money
from tests.commerce.console.approvals.conftest import SOON, ask, nothing_was_done, status
from tests.commerce.console.conftest import AT, fingerprint_on

Browser = Callable[..., Client]


def press(client: Client, approval: Approval, action: str, **fields: str) -> Any:
    url = f"/admin/console/approval/{approval.pk}/do/{action}/"
    shown = client.get(url)
    assert shown.status_code == 200, shown.status_code
    return client.post(url, {"reason": "test", "fingerprint": fingerprint_on(shown), **fields})


def page(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, answer.status_code
    return re.sub(r"\s+", " ", answer.content.decode())


def place(approval: Approval) -> str:
    return f"/admin/console/approval/{approval.pk}/change/"


@pytest.fixture
def root(people: dict[str, Actor]) -> Client:
    client = Client()
    assert client.login(username="root", password="root")
    return client


def test_the_page_says_who_asked_for_what_and_what_it_does(approval: Approval, browser: Browser) -> None:
    shown = page(browser("viewer"), place(approval))
    for fact in ("operator", "A customer called.", approval.sha256, "matches", "8 Mar 2027", "Look here"):
        assert fact in shown
    assert "A note &lt;Look here&gt; is left." in shown
    assert "/do/" not in shown


def test_the_checker_sees_the_consequences_then_approves(
    approval: Approval, browser: Browser, clock: Any
) -> None:
    approver = browser("approver")
    confirmation = page(approver, f"/admin/console/approval/{approval.pk}/do/approve/")
    assert "A note &lt;Look here&gt; is left." in confirmation
    assert "Requested by operator: A customer called." in confirmation
    assert nothing_was_done(approval)
    assert press(approver, approval, "approve").status_code == 302
    assert status(approval) == "approved"
    item = ReviewItem.objects.get()
    assert f"/admin/console/reviewitem/{item.pk}/change/" in page(approver, place(approval))


def test_the_maker_has_no_button_to_approve(approval: Approval, browser: Browser, clock: Any) -> None:
    operator = browser("operator")
    shown = page(operator, place(approval))
    assert "do/cancel" in shown
    assert "do/approve" not in shown
    assert operator.get(f"/admin/console/approval/{approval.pk}/do/approve/").status_code == 403
    assert press(operator, approval, "cancel").status_code == 302
    assert nothing_was_done(approval, "cancelled")


def test_a_maker_who_may_approve_others_is_told_why_not_this(
    people: dict[str, Actor], root: Client, browser: Browser, clock: Any
) -> None:
    approval = ask(people["root"])
    assert "somebody else must" in page(root, place(approval))
    seen = browser("approver").get(f"/admin/console/approval/{approval.pk}/do/approve/")
    posted = {"reason": "x", "fingerprint": fingerprint_on(seen)}
    answer = root.post(f"/admin/console/approval/{approval.pk}/do/approve/", posted)
    assert answer.status_code == 409
    assert nothing_was_done(approval)


def test_a_refusal_is_a_sentence_on_the_page(maker: Actor, browser: Browser, clock: Any) -> None:
    approval = ask(maker, arguments={"title": "x", "impossible": True})
    answer = press(browser("approver"), approval, "approve")
    assert answer.status_code == 409
    assert "The books are closed." in answer.content.decode()
    assert nothing_was_done(approval)


def test_an_expired_request_offers_no_approval(approval: Approval, browser: Browser, clock: Any) -> None:
    clock(approval.expires_at)
    shown = page(browser("approver"), place(approval))
    assert "It expired on 2027-03-08 at 00:00 UTC." in shown
    assert "do/approve" not in shown


def test_an_operation_that_is_gone_leaves_a_page_and_no_buttons(
    approval: Approval, root: Client, monkeypatch: pytest.MonkeyPatch, clock: Any
) -> None:
    monkeypatch.setattr(approvals, "_operations", {})
    shown = page(root, place(approval))
    assert "There is no operation" in shown
    assert "/do/" not in shown


def test_home_counts_what_waits_for_this_very_person(
    people: dict[str, Actor], browser: Browser, root: Client, clock: Any, rf: Any
) -> None:
    ask(people["operator"], value=Money(500, "USD"))
    ask(people["root"], subject_id="2", value=Money(70, "USD"))
    ask(people["root"], subject_id="3", expires_at=SOON)
    card = next(card for card in registry.cards() if card.key == "console.approval")

    def waiting(name: str) -> Any:
        request = rf.get("/")
        request.user = User.objects.get(username=name)
        value = card.load(request)
        return value.count, value.oldest, value.value

    assert waiting("approver") == (3, AT, {"USD": 570})
    assert waiting("root") == (1, AT, {"USD": 500})
    assert waiting("operator") == (0, None, {})
    clock(SOON)
    assert waiting("approver")[0] == 2
    assert "Nothing waits for your approval." in page(browser("operator"), "/admin/")
    assert "Nothing waits for your approval." not in page(browser("approver"), "/admin/")
    assert "Leave a note" in page(browser("approver"), card.href)


def test_arguments_read_as_tables_with_money() -> None:
    shown = panels.readable(
        {
            "currency": "USD",
            "amount_minor": 123456,
            "notify": True,
            "tags": ["a", "<b>"],
            "entries": [{"account": "cash", "amount_minor": -5}, {"account": "fees", "note": None}],
            "limit": {"amount_minor": 700, "currency": "EUR"},
        }
    )
    for part in ("1,234.56", "yes", "a, &lt;b&gt;", "−0.05", "cash", "7.00", "EUR", ">entries<"):
        assert part in shown
    assert "<b>" not in shown


def test_a_subjects_page_may_show_what_was_requested_about_it(approval: Approval) -> None:
    assert "Leave a note" in panels.approvals_of("billing.Invoice", 1)
    assert panels.approvals_of("billing.invoice", 2) == ""
