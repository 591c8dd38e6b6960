"""What verify finds: nothing in any honest state, and each planted fault by name."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from billing.models import NumberSeries
from commerce.invariants import REGISTRY
from tests.billing.conftest import APRIL, MARCH, Deal, World, findings, work
from tests.billing.test_collection import owe

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


def ours() -> list[str]:
    checks = [entry for entry in REGISTRY if entry.check.__module__ == "billing.invariants"]
    assert {entry.code for entry in checks} == {"I5", "I7"}
    return [finding.detail for entry in checks for finding in entry.check()]


def plant(sql: str) -> None:
    """Change rows behind the guards' back."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table in ("billingaccount", "invoice", "invoiceline", "payin"):
            cursor.execute(f"ALTER TABLE billing_{table} DISABLE TRIGGER USER")
        cursor.execute(sql)


@pytest.fixture
def deal(world: World, clock: Any) -> Deal:
    """One invoice is paid, the next is unpaid."""
    deal = world.live()
    owe(deal)
    work()
    owe(deal, net=10**9, days=30)
    NumberSeries.objects.create(name="INV-2000", last=0)
    clock(APRIL)
    work()
    return deal


def test_honest_states_are_not_reported(world: World, deal: Deal) -> None:
    assert findings() == []
    world.tell(world.payment("1.00", virtual_account_id="unknown"))
    world.tell(world.payment("1.00", status="returned"))
    world.tell(world.payment("1.00", status="pending"))
    world.pay_in("1.00")
    assert findings() == []


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("UPDATE billing_billingaccount SET committed_minor = committed_minor + 1", "COMMITTED holds 0"),
        ("UPDATE billing_billingaccount SET downpayment_minor = 5", "the contracts have set aside 5"),
        ("UPDATE billing_invoiceline SET net_minor = net_minor - 1", "its lines"),
        ("DELETE FROM billing_invoiceline", "its lines 0 and 0"),
        (
            "UPDATE billing_invoice SET transaction_id = NULL WHERE status = 'paid'",
            "but its posting took 0 from the wallet",
        ),
        (
            "UPDATE billing_invoice SET status = 'paid', paid_minor = total_minor, paid_at = now() "
            "WHERE status = 'issued'",
            "but its posting took 0 from the wallet",
        ),
        ("UPDATE billing_payin SET amount_minor = amount_minor + 1", "its posting credited 15000000"),
        ("UPDATE billing_payin SET transaction_id = gen_random_uuid()", "its posting credited 0"),
        ("UPDATE billing_numberseries SET last = 3", "The last number is 3"),
        ("UPDATE billing_billingaccount SET next_check_at = NULL", "nothing will look at it again"),
        (
            "UPDATE billing_invoice SET status = 'draft', verified_at = NULL, differences = '[1]' "
            "WHERE status = 'issued'",
            "nobody is asked about it",
        ),
    ],
)
def test_a_planted_fault_is_found(deal: Deal, fault: str, found: str) -> None:
    assert ours() == []
    plant(fault)
    assert any(found in detail for detail in ours()), ours()


def test_money_set_aside_without_any_ledger_account_is_found(world: World) -> None:
    world.signed()
    plant("UPDATE billing_billingaccount SET committed_minor = 7")
    assert [detail for detail in ours() if "COMMITTED holds 0" in detail]


def test_a_contract_that_ended_and_never_got_its_last_invoice_is_found(world: World, clock: Any) -> None:
    deal = world.live()
    clock(MARCH + 10 * DAY)
    deal.edit("terminate", {"cause": "mutual"})
    work()
    assert ours() == []
    clock(MARCH + 14 * DAY)
    assert [detail for detail in ours() if "neither settled nor on an invoice" in detail]
