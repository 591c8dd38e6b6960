"""What verify finds: nothing in any honest state, and each planted fault by name."""

import pytest
from django.db import connection

from commerce.invariants import REGISTRY
from commerce.outbox.models import OutboxStream
from payouts import services
from payouts.models import PayeePolicy
from tests.payouts.conftest import PAID, SEASONED, SYSTEM

pytestmark = pytest.mark.django_db


def findings() -> list[str]:
    checks = [entry for entry in REGISTRY if entry.check.__module__ == "payouts.invariants"]
    assert {entry.code for entry in checks} == {"I5", "I7"}
    return [finding.detail for entry in checks for finding in entry.check()]


def plant(sql: str) -> None:
    """Change a row behind the guards' back."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table in ("settlement", "settlementleg", "payout"):
            cursor.execute(f"ALTER TABLE payouts_{table} DISABLE TRIGGER USER")
        cursor.execute(sql)


@pytest.mark.parametrize(
    "told", [[], ["sent"], ["completed"], ["failed"], ["completed", "returned"], ["sent", "failed"]]
)
def test_no_honest_state_is_reported(world, told):
    assert findings() == []
    world.settle()
    assert findings() == []
    world.release()
    assert findings() == []
    world.paid_through(*told, code="R03")
    assert findings() == []


def test_waiting_on_purpose_is_not_reported(world, settings):
    settings.PAYOUT_APPROVAL_LIMIT_MINOR = 0
    services.set_policy(organization=world.bridge, mode="on_request", actor=SYSTEM, at=PAID)
    settlement = world.settle()
    services.hold_leg(leg=settlement.legs.get(kind="partner"), actor=SYSTEM, at=PAID, reason="x")
    world.release()
    services.reject_payout(payout=world.payout(), actor=SYSTEM, at=SEASONED, reason="x")
    assert findings() == []


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("UPDATE payouts_settlement SET total_minor = total_minor + 1", "the invoice is"),
        ("UPDATE payouts_settlement SET status = 'completed'", "its legs make it released"),
        ("UPDATE payouts_payout SET status = 'cancelled'", "is in transit in the ledger"),
        ("UPDATE payouts_payout SET amount_minor = amount_minor - 1", "Its items sum to"),
        ("UPDATE payouts_settlementleg SET amount_minor = amount_minor - 1", "more than it is owed"),
        ("UPDATE payouts_settlementleg SET amount_minor = amount_minor + 1", "of which only 0 is payable"),
        (
            "UPDATE payouts_settlementleg SET status = 'seasoning' WHERE kind = 'seller'",
            "its release is released",
        ),
    ],
)
def test_each_planted_fault_is_found(world, fault, found):
    world.settle()
    world.release()
    plant(fault)
    OutboxStream.objects.filter(aggregate_type="ledger_release").update(due_at=None)
    assert any(found in detail for detail in findings())


def test_an_approved_payout_that_nothing_will_send_is_found(world):
    world.settle()
    world.release()
    OutboxStream.objects.filter(aggregate_type="payout").update(due_at=None)
    assert findings() == ["It is approved and nothing will send it."] * 2


def test_payable_money_that_nobody_will_pay_is_found(world):
    world.settle()
    world.release()
    world.paid_through("failed")
    PayeePolicy.objects.update(due_at=None)
    assert findings() == ["3167500 USD is payable and nothing will pay it."]
