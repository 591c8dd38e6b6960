"""The way out of a payout that was submitted and never ordered: two people give it up, the bank is asked."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from commerce.actor import Actor
from commerce.api.services import issue_key
from commerce.console import approvals
from commerce.console.models import Approval, ReviewItem
from commerce.errors import PermissionDenied, StateConflict
from commerce.outbox import drain, replay
from commerce.outbox.models import OutboxEvent, OutboxStream
from commerce.providers import modern_treasury
from payouts import services
from payouts.models import Payout
from payouts.services.giving_up import _fail
from tests.payouts.conftest import (
    EVERYTHING,
    SEASONED,
    SYSTEM,
    fault,
    holds,
    link,
    orders,
    press,
    tell,
    text,
    usd,
)

pytestmark = pytest.mark.django_db
AMOUNT = usd("31,675.00")


def page(payout: Payout) -> str:
    return f"/admin/payouts/payout/{payout.pk}/"


def in_transit(world: Any) -> tuple[Any, Any]:
    """What the ledger says is on its way to Northwind, and what it could be paid."""
    return holds(world.northwind, "PAYOUT_IN_TRANSIT"), holds(world.northwind, "PAYABLE")


def approve(client: Client, operation: str) -> str:
    approval = Approval.objects.get(operation=operation, status="pending")
    return press(client, f"/admin/console/approval/{approval.pk}/do/approve/")


def ordered(payout: Payout) -> None:
    """An order that the bank has for the payout, whoever sent it."""
    modern_treasury.client().create_payment_order(
        external_id=payout.external_id, amount=payout.amount, key="an earlier try",
        receiving_account_id=payout.account.provider_id or "",
    )  # fmt: skip


@pytest.fixture
def skipped(parked: OutboxStream, ready: Any, bank: Any, browser: Any) -> Payout:
    """Two people have skipped the sending of Northwind's payout; the bank is well again."""
    press(browser("operator"), f"/admin/outbox/outboxstream/{parked.pk}/do/skip/")
    approve(browser("approver"), "outbox.skip")
    bank.control.delete("/faults")
    drain(groups=EVERYTHING)
    return ready.payout()


@pytest.fixture
def agreed(skipped: Payout, browser: Any) -> Payout:
    """They have agreed to give it up too; the relay has not handled that yet."""
    press(browser("operator"), f"{page(skipped)}do/give-up/")
    approve(browser("approver"), "payouts.give_up")
    return skipped


def test_from_the_parked_payout_to_the_payee_paid_by_another_in_the_console_alone(
    parked: OutboxStream, ready: Any, bank: Any, browser: Any
) -> None:
    operator, approver = browser("operator"), browser("approver")
    payout = ready.payout()
    assert (payout.status, in_transit(ready)) == ("submitted", (AMOUNT, usd("0")))
    assert "Its sending is parked and could go on: request a skip" in text(
        operator.get(f"{page(payout)}change/")
    )

    press(operator, f"/admin/outbox/outboxstream/{parked.pk}/do/skip/")
    assert not ReviewItem.objects.exists()
    approve(approver, "outbox.skip")
    drain(groups=EVERYTHING)
    unsent = ReviewItem.objects.get()
    assert (unsent.kind, unsent.value_minor) == ("payout_unsent", AMOUNT.minor)
    assert in_transit(ready) == (AMOUNT, usd("0")), "a skip has moved money"
    link(operator.get(f"/admin/console/reviewitem/{unsent.pk}/change/"), rf"{page(payout)}change/")

    said = press(operator, f"{page(payout)}do/give-up/")
    assert "Nothing happens until a second person approves it" in said
    assert f"{AMOUNT} is payable to Northwind again" in said
    assert "with the next payout by policy, when more is released to them" in said
    drain(groups=EVERYTHING)
    assert (ready.payout().status, in_transit(ready)) == ("submitted", (AMOUNT, usd("0")))
    approval = Approval.objects.get(operation="payouts.give_up")
    assert operator.get(f"/admin/console/approval/{approval.pk}/do/approve/").status_code == 403

    bank.control.delete("/faults")
    assert f"The bank is asked for {payout.external_id}" in approve(approver, "payouts.give_up")
    assert (ready.payout().status, in_transit(ready)) == ("submitted", (AMOUNT, usd("0"))), (
        "the request of an approver has asked the bank"
    )
    drain(groups=EVERYTHING)
    payout = ready.payout()
    assert (payout.status, payout.failure_code, payout.failure_reason) == (
        "failed", "given_up", "As agreed with the bank.",
    )  # fmt: skip
    assert in_transit(ready) == (usd("0"), AMOUNT)
    assert orders(bank) == []
    unsent.refresh_from_db()
    assert unsent.status == "resolved"
    assert [item.kind for item in ReviewItem.objects.exclude(status="resolved")] == ["payout_failed"]
    assert "Give up a payout" in text(operator.get(f"{page(payout)}change/"))

    policy = f"/admin/payouts/payeepolicy/{ready.northwind.payee_policy.pk}/"
    press(operator, f"{policy}do/request/", currency="USD", amount="")
    again = ready.payout()
    assert again != payout
    press(approver, f"{page(again)}do/approve/")
    drain(groups=EVERYTHING)
    assert ready.payout().status == "in_transit"
    assert [order["external_id"] for order in orders(bank)] == [again.external_id]
    assert in_transit(ready) == (AMOUNT, usd("0"))


def test_an_order_that_the_bank_has_is_followed_and_nothing_is_given_up(
    agreed: Payout, ready: Any, bank: Any
) -> None:
    ordered(agreed)
    drain(groups=EVERYTHING)
    payout = ready.payout()
    assert payout.status == "in_transit"
    assert in_transit(ready) == (AMOUNT, usd("0")), "money that the bank pays was given back"
    refused = ReviewItem.objects.exclude(status="resolved").get()
    assert refused.kind == "payout_not_given_up"
    assert payout.provider_id in refused.detail
    bank.settle()
    Payout.objects.filter(pk=payout.pk).update(next_poll_at=timezone.now())
    services.poll_payouts(at=SEASONED, actor=SYSTEM)
    assert ready.payout().status == "paid"
    assert in_transit(ready) == (usd("0"), usd("0"))


def test_an_order_that_is_told_of_after_the_bank_was_asked_is_followed(agreed: Payout, ready: Any) -> None:
    """The look-up found none; before that is written down a webhook tells of the order."""
    tell(agreed, "processing")
    assert not _fail(agreed.pk, "x", SYSTEM, SEASONED)
    assert ready.payout().status == "in_transit"
    drain(groups=EVERYTHING)
    assert ready.payout().status == "in_transit"
    assert in_transit(ready) == (AMOUNT, usd("0"))
    assert ReviewItem.objects.filter(kind="payout_not_given_up").exists()


def test_while_the_bank_is_away_nothing_is_decided_and_it_is_asked_again(
    agreed: Payout, ready: Any, bank: Any
) -> None:
    fault(bank, "error", method="GET", status=503, count=1)
    drain(groups=EVERYTHING)
    stream = OutboxStream.objects.get(group="payouts.modern_treasury", aggregate_id=str(agreed.pk))
    assert (stream.attempts, stream.parked_at) == (1, None)
    assert (ready.payout().status, in_transit(ready)) == ("submitted", (AMOUNT, usd("0")))
    OutboxStream.objects.filter(pk=stream.pk).update(due_at=timezone.now() - timedelta(hours=1))
    drain(groups=EVERYTHING)
    assert (ready.payout().status, in_transit(ready)) == ("failed", (usd("0"), AMOUNT))


def test_a_payout_that_was_given_up_is_not_sent_by_a_replay_of_its_sending(
    agreed: Payout, ready: Any, bank: Any
) -> None:
    sending = OutboxEvent.objects.get(type="payout.approved", aggregate_id=str(agreed.pk))
    replay.replay_event(event=sending, actor=SYSTEM, at=SEASONED, reason="x")
    drain(groups=EVERYTHING)
    assert ready.payout().status == "failed"
    assert orders(bank) == []
    assert in_transit(ready) == (usd("0"), AMOUNT)
    assert not OutboxStream.objects.filter(parked_at__isnull=False).exists()


def test_what_may_still_be_sent_can_neither_be_asked_for_nor_agreed_to(
    skipped: Payout, ready: Any, bank: Any, browser: Any, person: Any
) -> None:
    """Between asking and agreeing somebody replays the sending: it stands before the giving up again."""
    press(browser("operator"), f"{page(skipped)}do/give-up/")
    sending = OutboxEvent.objects.get(type="payout.approved", aggregate_id=str(skipped.pk))
    replay.replay_event(event=sending, actor=SYSTEM, at=SEASONED, reason="x")
    approval = Approval.objects.get(operation="payouts.give_up")
    with pytest.raises(StateConflict, match="still sending it"):
        approvals.approve(approval=approval, actor=person("a", "approve_giving_up"), at=approval.requested_at)
    with pytest.raises(StateConflict, match="still sending it"):
        services.request_giving_up(payout=skipped, actor=SYSTEM, at=SEASONED, reason="x")
    assert not OutboxEvent.objects.filter(type="payout.give_up_approved").exists()
    drain(groups=EVERYTHING)
    assert ready.payout().status == "in_transit"
    assert approvals.overtaken(approval) == "The payout is in transit by now."
    assert not ReviewItem.objects.exclude(status="resolved").exists(), "the replay has answered the review"


@pytest.mark.parametrize("status", ["in_transit", "paid", "failed", "approved"])
def test_only_a_payout_without_an_order_is_given_up(ready: Any, bank: Any, status: str) -> None:
    if status != "approved":
        ready.paid_through(
            "processing", *[{"paid": "completed"}.get(status, status)] * (status != "in_transit")
        )
    payout = ready.payout()
    assert payout.status == status
    with pytest.raises(StateConflict):
        services.request_giving_up(payout=payout, actor=SYSTEM, at=SEASONED, reason="x")
    assert not Approval.objects.exists()


def test_who_asked_does_not_agree_and_the_others_may_not(skipped: Payout, ready: Any, person: Any) -> None:
    both = person("both", "request_giving_up", "approve_giving_up")
    with pytest.raises(PermissionDenied):
        services.request_giving_up(
            payout=skipped, actor=person("payer", "cancel_payout", "approve_payout"), at=SEASONED, reason="x"
        )
    approval = services.request_giving_up(payout=skipped, actor=both, at=SEASONED, reason="x")
    for actor in (both, person("other", "request_giving_up", "approve_payout"), Actor.system("relay")):
        with pytest.raises(PermissionDenied):
            approvals.approve(approval=approval, actor=actor, at=SEASONED)
    drain(groups=EVERYTHING)
    assert ready.payout().status == "submitted"
    assert in_transit(ready) == (AMOUNT, usd("0"))


def test_a_key_of_the_platform_asks_and_the_payees_own_may_not(skipped: Payout, ready: Any) -> None:
    place = f"/api/v1/payouts/{skipped.pk}/giving-up-requests/"
    api = APIClient()
    for organization, status in ((ready.northwind, 403), (ready.platform, 201)):
        _, secret = issue_key(
            organization=organization, label="k", scopes=["payouts:write"], actor=SYSTEM, at=SEASONED
        )
        api.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
        answer = api.post(
            place, {"reason": "The bank lost it."}, HTTP_IDEMPOTENCY_KEY=str(status), format="json"
        )
        assert answer.status_code == status, answer.content
    assert answer.json()["operation"] == "payouts.give_up"
    assert answer.json()["status"] == "pending"
    assert Approval.objects.filter(operation="payouts.give_up").count() == 1
    assert ready.payout().status == "submitted"


def test_a_submitted_payout_of_which_nothing_is_heard_for_an_hour_is_on_the_home_page(
    skipped: Payout, browser: Any
) -> None:
    operator = browser("operator")
    assert "The bank has answered for every payout." in text(operator.get("/admin/"))
    late = timezone.now() - timedelta(minutes=61)
    Payout.objects.filter(pk=skipped.pk).update(watched_since=late)
    home = operator.get("/admin/")
    assert "The bank has answered for every payout." not in text(home)
    answer = link(home, r"/admin/payouts/payout/\?answer=missing")
    link(operator.get(answer), rf"{page(skipped)}change/[^\"]*")
    Payout.objects.filter(pk=skipped.pk).update(watched_since=timezone.now())
    assert str(skipped.pk) not in operator.get(answer).content.decode(), "lists what the card does not count"


def test_a_skip_before_it_was_submitted_says_that_it_can_be_cancelled(ready: Any, bank: Any) -> None:
    """A stream that a person parks in time has sent nothing."""
    from commerce.console import outbox_skip

    payout = ready.payout()
    assert payout.status == "approved"
    event = OutboxEvent.objects.get(type="payout.approved", aggregate_id=str(payout.pk))
    with transaction.atomic():
        outbox_skip._after["payout.approved", "payouts.modern_treasury"](
            event=event, actor=SYSTEM, at=SEASONED
        )
    assert "Cancel it on its page" in ReviewItem.objects.get().detail
    services.cancel_payout(payout=payout, actor=SYSTEM, at=SEASONED)
    assert not ReviewItem.objects.filter(kind="payout_unsent").exclude(status="resolved").exists()
    assert in_transit(ready) == (usd("0"), AMOUNT)


def test_a_second_delivery_of_the_agreement_changes_nothing(agreed: Payout, ready: Any) -> None:
    drain(groups=EVERYTHING)
    before = OutboxEvent.objects.count()
    services.give_up_payout(payout_id=agreed.pk, reason="x", actor=SYSTEM, at=SEASONED)
    assert OutboxEvent.objects.count() == before
    assert in_transit(ready) == (usd("0"), AMOUNT)


def test_an_order_that_the_bank_gets_after_all_is_told_to_a_person_at_once(
    agreed: Payout, ready: Any
) -> None:
    """Somebody may have been paid anew: nothing moves, and it is not waited for until the order is paid."""
    drain(groups=EVERYTHING)
    assert tell(ready.payout(), "processing").status == "failed"
    late = ReviewItem.objects.get(kind="payout_contradiction")
    assert "It was given up, and the bank has the order" in late.detail
    assert in_transit(ready) == (usd("0"), AMOUNT)


def look(at: datetime) -> Payout:
    """Let the poller come by, when the payout's next look has come."""
    Payout.objects.filter(next_poll_at__isnull=False).update(next_poll_at=timezone.now())
    services.poll_payouts(at=at, actor=SYSTEM)
    return Payout.objects.get(failure_code="given_up")


def test_an_order_that_a_process_which_stood_still_posts_afterwards_is_looked_for(
    agreed: Payout, ready: Any, bank: Any
) -> None:
    """No webhook tells of it."""
    drain(groups=EVERYTHING)
    failed_at = Payout.objects.get(pk=agreed.pk).failed_at
    assert failed_at
    assert look(failed_at + timedelta(days=1)).next_poll_at is not None
    assert not ReviewItem.objects.filter(kind="payout_contradiction").exists()
    ordered(agreed)
    payout = look(failed_at + timedelta(days=2))
    assert (payout.status, payout.next_poll_at) == ("failed", None), "is looked for though it is found"
    late = ReviewItem.objects.get(kind="payout_contradiction")
    assert "It was given up, and the bank has the order" in late.detail
    assert in_transit(ready) == (usd("0"), AMOUNT), "money was moved before anybody looked"


def test_an_order_that_does_not_turn_up_is_looked_for_a_week(agreed: Payout, bank: Any) -> None:
    drain(groups=EVERYTHING)
    failed_at = Payout.objects.get(pk=agreed.pk).failed_at
    assert failed_at
    assert look(failed_at + timedelta(days=7)).next_poll_at is not None
    payout = look(failed_at + timedelta(days=7, seconds=1))
    assert (payout.status, payout.next_poll_at) == ("failed", None)
    polls = payout.polls
    assert look(failed_at + timedelta(days=8)).polls == polls


def test_an_order_of_another_amount_is_put_before_a_person_once_and_not_followed(
    agreed: Payout, ready: Any, bank: Any
) -> None:
    modern_treasury.client().create_payment_order(
        external_id=agreed.external_id, amount=usd("1.00"), key="an earlier try",
        receiving_account_id=agreed.account.provider_id or "",
    )  # fmt: skip
    drain(groups=EVERYTHING)
    assert (ready.payout().status, in_transit(ready)) == ("submitted", (AMOUNT, usd("0")))
    found = ReviewItem.objects.exclude(status="resolved").values_list("kind", flat=True)
    assert sorted(found) == ["payout_contradiction", "payout_unsent"]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"mode": "automatic"}, "by policy, on 12 Mar 2027"),
        ({"mode": "scheduled", "cadence": "monthly", "day": 20}, "by policy, on 20 Mar 2027"),
        ({"mode": "on_request"}, "leaves with a new payout that somebody requests."),
    ],
)
def test_who_gives_a_payout_up_reads_when_its_money_leaves_again(
    skipped: Payout, ready: Any, policy: dict[str, Any], said: str
) -> None:
    at = datetime(2027, 3, 12, tzinfo=UTC)
    services.set_policy(organization=ready.northwind, actor=SYSTEM, at=at, **policy)
    text = services.giving_up_means(skipped)
    assert said in text
    assert ("change the policy to on request first" in text) == (policy["mode"] != "on_request")


def test_a_late_order_that_came_to_nothing_is_no_contradiction(agreed: Payout, ready: Any) -> None:
    drain(groups=EVERYTHING)
    assert tell(ready.payout(), "cancelled").status == "failed"
    assert not ReviewItem.objects.filter(kind="payout_contradiction").exists()
