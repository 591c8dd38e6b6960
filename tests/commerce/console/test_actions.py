"""An object action: looking changes nothing; acting needs CSRF, permission, a reason and fresh eyes."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import OperationalError
from django.test import Client

from commerce.console import services
from commerce.console.admin import ReviewItemAdmin
from commerce.console.models import ReviewItem
from commerce.errors import StateConflict
from commerce.models import TransitionLog
from commerce.money import Money
from tests.commerce.console.conftest import AT, SYSTEM, fingerprint_on

Browser = Callable[..., Client]


def url(item: ReviewItem, action: str = "resolve") -> str:
    return f"/admin/console/reviewitem/{item.pk}/do/{action}/"


def unchanged(item: ReviewItem) -> bool:
    return (
        ReviewItem.objects.get(pk=item.pk).status == item.status
        and not TransitionLog.objects.exists()
        and not LogEntry.objects.exists()
    )


def test_looking_shows_the_consequences_and_changes_nothing(browser: Browser, item: ReviewItem) -> None:
    page = browser("operator").get(url(item))
    assert page.status_code == 200
    assert "closed for good" in page.content.decode()
    assert unchanged(item)


def test_acting_does_it_once_and_leaves_its_trace(browser: Browser, item: ReviewItem) -> None:
    operator = browser("operator")
    data = {
        "reason": "Paid the difference.",
        "code": "fixed",
        "fingerprint": fingerprint_on(operator.get(url(item))),
    }
    answer = operator.post(url(item), data)
    assert answer.status_code == 302
    item.refresh_from_db()
    assert (item.status, item.resolution, item.note) == ("resolved", "fixed", "Paid the difference.")
    log = TransitionLog.objects.get()
    assert log.actor == f"user:{User.objects.get(username='operator').pk}"
    assert log.request_id == answer["X-Request-ID"]
    assert LogEntry.objects.get().change_message == "Resolve: Paid the difference."
    again = operator.post(url(item), data)
    assert again.status_code == 409
    assert TransitionLog.objects.count() == LogEntry.objects.count() == 1


@pytest.mark.parametrize("name", ["viewer", "approver", "admin"])
def test_without_the_permission_it_is_403_either_way(browser: Browser, item: ReviewItem, name: str) -> None:
    somebody = browser(name)
    seen = fingerprint_on(browser("operator").get(url(item)))
    assert somebody.get(url(item)).status_code == 403
    data = {"reason": "x", "code": "fixed", "fingerprint": seen}
    assert somebody.post(url(item), data).status_code == 403
    assert unchanged(item)


def test_without_login_it_is_the_login_page(item: ReviewItem) -> None:
    assert Client().post(url(item), {"reason": "x"})["Location"].startswith("/admin/login/")
    assert unchanged(item)


def test_without_csrf_it_is_403(browser: Browser, item: ReviewItem) -> None:
    strict = browser("operator", enforce_csrf=True)
    seen = fingerprint_on(strict.get(url(item)))
    assert strict.post(url(item), {"reason": "x", "code": "fixed", "fingerprint": seen}).status_code == 403
    assert unchanged(item)


@pytest.mark.parametrize("missing", ["reason", "fingerprint", "code"])
def test_what_is_missing_is_asked_for(browser: Browser, item: ReviewItem, missing: str) -> None:
    operator = browser("operator")
    data = {"reason": "x", "code": "fixed", "fingerprint": fingerprint_on(operator.get(url(item)))}
    answer = operator.post(url(item), {k: v for k, v in data.items() if k != missing})
    assert answer.status_code == 422
    assert unchanged(item)


def test_what_changed_meanwhile_is_looked_at_again(browser: Browser, item: ReviewItem) -> None:
    operator = browser("operator")
    data = {"reason": "x", "code": "fixed", "fingerprint": fingerprint_on(operator.get(url(item)))}
    ReviewItem.objects.filter(pk=item.pk).update(detail="Now it differs by more.")
    answer = operator.post(url(item), data)
    assert answer.status_code == 409
    assert "changed while you were looking" in answer.content.decode()
    assert unchanged(item)
    again = operator.post(url(item), data | {"fingerprint": fingerprint_on(answer)})
    assert again.status_code == 302


def test_a_failed_rule_is_a_sentence_and_undoes_everything(
    browser: Browser, item: ReviewItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_done(*, item: ReviewItem, **context: Any) -> None:
        ReviewItem.objects.filter(pk=item.pk).update(detail="half done")
        raise StateConflict("The books are closed.")

    monkeypatch.setattr(services, "resolve_review", half_done)
    operator = browser("operator")
    data = {"reason": "x", "code": "fixed", "fingerprint": fingerprint_on(operator.get(url(item)))}
    answer = operator.post(url(item), data)
    assert answer.status_code == 409
    assert "The books are closed." in answer.content.decode()
    assert unchanged(item)
    assert ReviewItem.objects.get(pk=item.pk).detail != "half done"


def test_a_busy_database_is_a_sentence_too(
    browser: Browser, item: ReviewItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(**context: Any) -> None:
        raise OperationalError("canceling statement due to lock timeout")

    monkeypatch.setattr(services, "resolve_review", locked)
    operator = browser("operator")
    data = {"reason": "x", "code": "fixed", "fingerprint": fingerprint_on(operator.get(url(item)))}
    answer = operator.post(url(item), data)
    assert answer.status_code == 503
    assert "nothing was changed" in answer.content.decode()
    assert unchanged(item)


def test_an_action_or_object_that_is_not_there_is_404(browser: Browser, item: ReviewItem) -> None:
    operator = browser("operator")
    assert operator.get(url(item, "explode")).status_code == 404
    assert operator.get("/admin/console/reviewitem/nothing/do/resolve/").status_code == 404


def test_the_page_offers_what_one_may_do_and_says_what_waits(browser: Browser, item: ReviewItem) -> None:
    page = f"/admin/console/reviewitem/{item.pk}/change/"
    operator = browser("operator").get(page).content.decode()
    assert "Resolve" in operator
    assert "Not possible while open." in operator
    assert "do/resolve" not in browser("viewer").get(page).content.decode()


def test_the_page_itself_can_change_nothing(browser: Browser, item: ReviewItem) -> None:
    operator = browser("operator")
    page = f"/admin/console/reviewitem/{item.pk}"
    assert operator.post(f"{page}/change/", {"title": "Mine"}).status_code == 403
    assert operator.post(f"{page}/delete/", {"post": "yes"}).status_code == 403
    assert operator.post("/admin/console/reviewitem/add/", {}).status_code == 403
    item.refresh_from_db()
    assert item.title.startswith("Invoice")


def test_not_even_a_superuser_edits_by_hand(item: ReviewItem) -> None:
    User.objects.create_superuser("root", password="x")
    root = Client()
    root.login(username="root", password="x")
    assert root.post(f"/admin/console/reviewitem/{item.pk}/change/", {"title": "Mine"}).status_code == 403
    assert root.get("/admin/console/reviewitem/add/").status_code == 403


def test_names_of_actions_are_distinct() -> None:
    names = [action.name for action in ReviewItemAdmin.object_actions]
    assert len(names) == len(set(names))


def test_snooze_asks_for_how_long(browser: Browser, item: ReviewItem, clock: Any) -> None:
    operator = browser("operator")
    seen = fingerprint_on(operator.get(url(item, "snooze")))
    data = {"reason": "Bank is closed.", "days": "3", "fingerprint": seen}
    assert operator.post(url(item, "snooze"), data | {"days": "400"}).status_code == 422
    assert operator.post(url(item, "snooze"), data).status_code == 302
    item.refresh_from_db()
    assert (item.snoozed_until - AT).days == 3


def test_only_one_question_per_subject_is_open(item: ReviewItem) -> None:
    same: dict[str, Any] = {"kind": item.kind, "subject_type": "billing.invoice", "subject_id": 1}
    assert services.open_review(**same, title="again", actor=SYSTEM, at=AT) == item
    services.resolve_review(item=item, code="fixed", actor=SYSTEM, at=AT)
    assert services.open_review(**same, title="again", actor=SYSTEM, at=AT) != item


def test_a_review_item_may_be_about_a_stablecoin(db: None) -> None:
    coins = Money(12_500_000, "USDC")
    about = {"kind": "x", "subject_type": "billing.invoice", "subject_id": "1", "title": "x"}
    made = services.open_review(**about, value=coins, actor=SYSTEM, at=AT)
    made.refresh_from_db()
    assert (made.value_minor, made.currency) == (coins.minor, "USDC")


def test_what_settles_itself_leaves_the_queue(item: ReviewItem) -> None:
    other = services.open_review(
        kind="other", subject_type="billing.invoice", subject_id="1", title="x", actor=SYSTEM, at=AT
    )
    subject: dict[str, Any] = {"subject_type": "billing.Invoice", "subject_id": "1"}
    assert services.clear_reviews(**subject, kind="other", actor=SYSTEM, at=AT) == 1
    other.refresh_from_db()
    item.refresh_from_db()
    assert (other.resolution, item.status) == ("cleared", "open")
