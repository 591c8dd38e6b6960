"""Money leaves once, with the agreement it needs, and whatever comes back is payable again."""

from datetime import timedelta
from itertools import permutations

import pytest
from django.db import IntegrityError, transaction

from commerce.console.models import ReviewItem
from commerce.errors import Conflict, InsufficientFunds, PermissionDenied, StateConflict
from commerce.outbox import drain
from commerce.outbox.models import OutboxEvent
from ledger.models import LedgerTransaction
from payouts import services
from payouts.models import Payout, PayoutItem, Settlement
from tests.payouts.conftest import (
    LOCAL_GROUPS,
    PAID,
    SEASONED,
    SYSTEM,
    add_account,
    holds,
    make_world,
    order,
    returned,
    tell,
    usd,
)

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


@pytest.fixture
def released(world):
    """The worked example after seasoning: two payouts are approved by policy."""
    world.settle()
    world.release()
    return world


def balances(world):
    kinds = ("PAY_IN_HOLDING", "PAYABLE", "PAYOUT_IN_TRANSIT")
    return {kind: holds(world.northwind, kind) for kind in kinds} | {
        "CASH_BANK": holds(world.platform, "CASH_BANK")
    }


def approved_events():
    return OutboxEvent.objects.filter(type="payout.approved").count()


def test_released_money_leaves_at_once_to_each_payee(released):
    northwind, bridge = released.payout(), released.payout(released.bridge)
    assert (northwind.amount, northwind.status) == (usd("31,675.00"), "approved")
    assert (bridge.amount, bridge.status) == (usd("226.25"), "approved")
    assert northwind.approval_reason == northwind.approved_by == ""
    assert balances(released)["PAYABLE"] == usd("0")
    assert balances(released)["PAYOUT_IN_TRANSIT"] == usd("31,675.00")
    assert approved_events() == 2


def test_a_paid_payout_takes_the_cash_and_completes_its_leg(released):
    payout = released.paid_through("sent", "completed")
    leg = payout.items.get().leg
    assert (payout.status, leg.status, leg.settlement.status) == ("paid", "paid_out", "released")
    assert balances(released) == {
        "PAY_IN_HOLDING": usd("0"), "PAYABLE": usd("0"), "PAYOUT_IN_TRANSIT": usd("0"),
        "CASH_BANK": usd("7,511.50"),
    }  # fmt: skip


def test_the_settlement_is_complete_when_every_payee_is_paid(released):
    released.paid_through("completed")
    assert Settlement.objects.get().status == "released"
    released.paid_through("completed", payee=released.bridge)
    assert Settlement.objects.get().status == "completed"
    assert balances(released)["CASH_BANK"] == usd("7,285.25")


def test_a_failed_payout_puts_the_money_back_and_is_tried_anew_a_day_later(released):
    payout = released.paid_through("sent", "failed")
    assert payout.status == "failed"
    assert balances(released)["PAYABLE"] == usd("31,675.00")
    assert balances(released)["PAYOUT_IN_TRANSIT"] == usd("0")
    assert services.pay_due(at=SEASONED + DAY - timedelta(seconds=1), actor=SYSTEM) == 0
    services.pay_due(at=SEASONED + DAY, actor=SYSTEM)
    again = released.payout()
    assert (again.attempt, again.status, again.amount) == (2, "approved", payout.amount)
    assert (again.external_id, again.idempotency_key) != (payout.external_id, payout.idempotency_key)
    payout.refresh_from_db()
    assert payout.status == "failed"
    assert again.items.get().leg == payout.items.get().leg


def test_the_third_failure_waits_for_a_person(released):
    at = SEASONED
    for _ in range(3):
        released.paid_through("failed")
        at += 4 * DAY
        services.pay_due(at=at, actor=SYSTEM)
    assert Payout.objects.filter(payee=released.northwind).count() == 3
    assert ReviewItem.objects.get(kind="payout_failed").value == usd("31,675.00")
    assert balances(released)["PAYABLE"] == usd("31,675.00")


def test_a_return_days_later_brings_cash_and_debt_back_and_blocks_the_account(released):
    payout = released.paid_through("completed")
    payout = tell(payout, "returned", code="R03", at=SEASONED + 3 * DAY)
    assert (payout.status, payout.failure_code) == ("returned", "R03")
    assert balances(released)["PAYABLE"] == usd("31,675.00")
    assert balances(released)["CASH_BANK"] == usd("39,186.50")
    leg = payout.items.get().leg
    assert (leg.status, leg.settlement.status) == ("released", "released")
    assert ReviewItem.objects.get(kind="payout_returned").subject_id == str(payout.pk)
    services.pay_due(at=SEASONED + 30 * DAY, actor=SYSTEM)
    with pytest.raises(Conflict, match="is blocked: R03"):
        services.request_payout(payee=released.northwind, currency="USD", actor=SYSTEM, at=SEASONED)
    assert Payout.objects.filter(payee=released.northwind).count() == 1


def test_a_new_bank_account_ends_the_block_but_needs_a_second_person(released):
    released.paid_through("completed", "returned", code="R03")
    add_account(released.northwind, at=SEASONED + DAY)
    services.pay_due(at=SEASONED + DAY, actor=SYSTEM)
    payout = released.payout()
    assert payout.status == "needs_approval"
    assert payout.approval_reason == "first payout to a bank account added after onboarding"


def test_an_operator_can_unblock_an_account(released, person):
    released.paid_through("completed", "returned", code="R03")
    policy = services.policy_of(released.northwind.pk)
    with pytest.raises(PermissionDenied):
        services.unblock_account(policy=policy, actor=person("viewer"), at=SEASONED, reason="x")
    operator = person("operator", "operate_payeepolicy")
    services.unblock_account(policy=policy, actor=operator, at=SEASONED, reason="bank confirmed")
    services.pay_due(at=SEASONED, actor=SYSTEM)
    assert (released.payout().attempt, released.payout().status) == (2, "approved")


def test_a_notification_of_change_moves_no_money(released):
    payout = released.paid_through("completed")
    before = LedgerTransaction.objects.count()
    payout = tell(payout, "completed", current_return=returned(payout, "C01", amount=usd("0")))
    assert payout.status == "paid"
    assert LedgerTransaction.objects.count() == before
    assert not ReviewItem.objects.exists()


def test_a_return_counts_before_the_order_tells_of_it(released):
    payout = released.submitted()
    word = order(payout, "sent")
    back = returned(payout, "R04", status="pending")
    payout = services.record_order(payout_id=payout.pk, order=word, returned=back, actor=SYSTEM, at=SEASONED)
    assert payout.status == "returned"
    assert balances(released)["PAYABLE"] == usd("31,675.00")
    assert balances(released)["CASH_BANK"] == usd("39,186.50")


HISTORY = [("sent", ""), ("completed", ""), ("returned", "R03"), ("returned", "R03")]


@pytest.mark.parametrize("told", sorted(set(permutations(HISTORY))))
def test_every_order_of_arrival_ends_in_the_same_ledger(released, told):
    payout = released.submitted()
    for status, code in told:
        tell(payout, status, code=code)
    payout.refresh_from_db()
    keys = LedgerTransaction.objects.filter(source=f"payout:{payout.pk}").values_list("key", flat=True)
    assert payout.status == "returned"
    assert sorted(key.rpartition(":")[2] for key in keys) == ["paid", "request", "returned"]
    assert balances(released)["PAYABLE"] == usd("31,675.00")
    assert balances(released)["CASH_BANK"] == usd("39,186.50")


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (["completed"], {"status": "failed"}),
        (["failed"], {"status": "completed"}),
        (["sent"], {"status": "stopped"}),
        (["sent"], {"status": "completed", "amount": usd("1.00")}),
        (["sent"], {"status": "completed", "external_id": "somebody-else"}),
        (["sent"], {"status": "completed", "id": "po-second"}),
    ],
)
def test_what_contradicts_us_moves_nothing_and_asks_a_person(released, state, word):
    payout = released.paid_through(*state)
    before = (payout.status, balances(released))
    payout = tell(payout, **word)
    assert (payout.status, balances(released)) == before
    assert ReviewItem.objects.filter(kind="payout_contradiction", subject_id=str(payout.pk)).count() == 1


def test_a_partial_return_is_left_to_a_person(released):
    payout = released.paid_through("completed")
    payout = tell(payout, "returned", current_return=returned(payout, "R03", amount=usd("5.00")))
    assert payout.status == "paid"
    assert "5.00 USD came back of 31,675.00 USD" in ReviewItem.objects.get().detail


# Two people


def test_above_the_limit_a_second_person_must_agree(world, person, settings):
    settings.PAYOUT_APPROVAL_LIMIT_MINOR = usd("31,674.99").minor
    world.settle()
    world.release()
    payout = world.payout()
    assert (payout.status, payout.approval_reason) == ("needs_approval", "above the approval limit")
    assert world.payout(world.bridge).status == "approved"
    assert approved_events() == 1
    with pytest.raises(PermissionDenied):
        services.approve_payout(payout=payout, actor=person("operator", "request_payout"), at=SEASONED)
    checker = person("checker", "approve_payout")
    payout = services.approve_payout(payout=payout, actor=checker, at=SEASONED)
    assert (payout.status, payout.approved_by) == ("approved", str(checker))
    assert approved_events() == 2


def test_a_maker_cannot_approve_their_own_payout(released, person):
    released.paid_through("completed", "returned")
    maker = person("maker", "request_payout", "approve_payout")
    payout = services.request_payout(payee=released.northwind, currency="USD", actor=maker, at=SEASONED)
    assert (payout.status, payout.approval_reason) == ("needs_approval", "requested by hand")
    with pytest.raises(PermissionDenied, match="Neither who requested"):
        services.approve_payout(payout=payout, actor=maker, at=SEASONED)
    payout.refresh_from_db()
    assert payout.status == "needs_approval"


@pytest.mark.parametrize(
    "changes",
    [
        {"approved_by": "system:payout-policy"},
        {"status": "approved", "approved_at": SEASONED, "approval_reason": "by hand"},
    ],
)
def test_the_database_itself_refuses_a_payout_without_its_second_person(world, settings, changes):
    settings.PAYOUT_APPROVAL_LIMIT_MINOR = 0
    world.settle()
    world.release()
    payout = world.payout()
    with pytest.raises(IntegrityError), transaction.atomic():
        Payout.objects.filter(pk=payout.pk).update(**changes)


def test_a_rejected_payout_is_payable_again(world, person, settings):
    settings.PAYOUT_APPROVAL_LIMIT_MINOR = 0
    world.settle()
    world.release()
    checker = person("checker", "approve_payout")
    payout = services.reject_payout(payout=world.payout(), actor=checker, at=SEASONED, reason="wrong")
    assert payout.status == "cancelled"
    assert balances(world)["PAYABLE"] == usd("31,675.00")
    assert ReviewItem.objects.filter(kind="payout_cancelled").exists()
    assert not OutboxEvent.objects.filter(type="payout.approved", aggregate_id=str(payout.pk)).exists()


def test_what_was_sent_cannot_be_cancelled(released):
    payout = released.submitted()
    with pytest.raises(StateConflict):
        services.cancel_payout(payout=payout, actor=SYSTEM, at=SEASONED)
    assert balances(released)["PAYOUT_IN_TRANSIT"] == usd("31,675.00")


# Policies


def test_on_request_waits_for_the_payee(world):
    services.set_policy(organization=world.northwind, mode="on_request", actor=SYSTEM, at=PAID)
    world.settle()
    world.release()
    services.pay_due(at=SEASONED + 60 * DAY, actor=SYSTEM)
    assert not Payout.objects.filter(payee=world.northwind).exists()
    payout = services.request_payout(
        payee=world.northwind, currency="USD", amount=usd("31,000.00"), actor=SYSTEM, at=SEASONED
    )
    assert payout.items.get().amount_minor == 3_100_000
    assert balances(world)["PAYABLE"] == usd("675.00")
    rest = services.request_payout(payee=world.northwind, currency="USD", actor=SYSTEM, at=SEASONED)
    assert rest.items.get().leg == payout.items.get().leg
    released = rest.items.get().leg
    world.paid_through("completed")
    released.refresh_from_db()
    assert released.status == "released"


def test_no_more_is_paid_than_is_payable(world):
    services.set_policy(organization=world.northwind, mode="on_request", actor=SYSTEM, at=PAID)
    world.settle()
    world.release()
    with pytest.raises(InsufficientFunds):
        services.request_payout(
            payee=world.northwind, currency="USD", amount=usd("31,675.01"), actor=SYSTEM, at=SEASONED
        )
    assert not Payout.objects.filter(payee=world.northwind).exists()
    assert not PayoutItem.objects.filter(leg__payee=world.northwind).exists()


def test_a_scheduled_payee_is_paid_on_its_day_everything_above_its_minimum(world):
    services.set_policy(
        organization=world.northwind, mode="scheduled", cadence="monthly", day=15,
        minimum_minor=usd("40,000.00").minor, actor=SYSTEM, at=PAID,
    )  # fmt: skip
    world.settle()
    world.release()
    fifteenth = PAID.replace(day=15, hour=0)
    services.pay_due(at=fifteenth, actor=SYSTEM)
    assert not Payout.objects.filter(payee=world.northwind).exists()
    world.settle()
    world.release(at=fifteenth)
    services.pay_due(at=fifteenth + DAY, actor=SYSTEM)
    assert not Payout.objects.filter(payee=world.northwind).exists()
    services.pay_due(at=fifteenth.replace(month=5), actor=SYSTEM)
    assert world.payout().amount == usd("63,350.00")
    assert world.payout().items.count() == 2


def test_a_payee_without_a_bank_account_is_paid_when_it_has_one(world):
    world.northwind.references.all().delete()
    world.settle()
    world.release()
    assert balances(world)["PAYABLE"] == usd("31,675.00")
    add_account(world.northwind, at=SEASONED + DAY)
    drain(groups=LOCAL_GROUPS)
    services.pay_due(at=SEASONED + DAY, actor=SYSTEM)
    assert world.payout().status == "approved"


def test_nothing_is_paid_to_a_suspended_payee(world):
    type(world.northwind).objects.filter(pk=world.northwind.pk).update(onboarding_status="active")
    type(world.northwind).objects.filter(pk=world.northwind.pk).update(onboarding_status="suspended")
    world.settle()
    world.release()
    assert not Payout.objects.filter(payee=world.northwind).exists()
    assert balances(world)["PAYABLE"] == usd("31,675.00")


@pytest.mark.parametrize(
    ("terms", "pointers"),
    [
        ({"mode": "hourly"}, ["/mode"]),
        ({"mode": "scheduled"}, ["/cadence"]),
        ({"mode": "scheduled", "cadence": "weekly", "day": 8}, ["/day"]),
        ({"mode": "automatic", "day": 3}, ["/cadence"]),
        ({"mode": "automatic", "minimum_minor": -1}, ["/minimum_minor"]),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_by_field(terms, pointers):
    world = make_world()
    with pytest.raises(Exception, match="not a payout policy") as refusal:
        services.set_policy(organization=world.northwind, actor=SYSTEM, at=PAID, **terms)
    assert [error.pointer for error in refusal.value.errors] == pointers
    assert services.policy_of(world.northwind.pk).mode == "automatic"
