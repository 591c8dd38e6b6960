"""What money says about an edit: a prepayment that was drawn, a minimum that was used, a debt that is due."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from billing import services
from commerce.actor import Actor
from commerce.errors import Conflict
from contracts.models import ContractEdit
from contracts.services import take_effect_due
from contracts.services.admission import FINANCE
from tests.billing.conftest import APRIL, MARCH, SYSTEM, Deal, World, findings, now, usd, wallet, work
from tests.billing.test_collection import owe

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
ID = str(UUID(int=60))


def prepay(deal: Deal, amount: str, **given: Any) -> None:
    payload = {"commitment_id": ID, "kind": "prepaid", "amount_minor": usd(amount)}
    deal.edit("set_commitment", payload, **given)


def refused(deal: Deal, operation: str, payload: dict[str, Any], **given: Any) -> Conflict:
    before = ContractEdit.objects.count()
    with pytest.raises(Conflict) as raised:
        deal.edit(operation, payload, **given)
    assert ContractEdit.objects.count() == before
    return raised.value


@pytest.mark.parametrize(("amount", "available"), [("12,000.00", "109,030.00"), ("4,000.00", "117,030.00")])
def test_the_wallet_follows_a_prepayment_that_changes_while_the_contract_runs(
    world: World, amount: str, available: str
) -> None:
    deal = world.live()
    prepay(deal, amount)
    work()
    assert wallet(world.acme) == (usd(available), usd(amount), usd("28,970.00"))
    assert findings() == []


def test_a_prepayment_that_ends_goes_back(world: World) -> None:
    deal = world.live()
    deal.edit("set_commitment", {"commitment_id": ID, "mode": "end", "kind": "prepaid"})
    work()
    assert wallet(world.acme) == (usd("121,030.00"), 0, usd("28,970.00"))
    assert findings() == []


def test_a_prepayment_of_later_is_set_aside_when_its_day_comes(world: World, clock: Any) -> None:
    deal = world.live()
    prepay(deal, "12,000.00", effective_at=MARCH + 5 * DAY)
    work()
    assert wallet(world.acme)[1] == usd("10,000.00")
    clock(MARCH + 5 * DAY)
    take_effect_due(at=now())
    work()
    assert wallet(world.acme)[1] == usd("12,000.00")


def test_a_minimum_leaves_a_drawn_prepayment_alone(world: World) -> None:
    deal = world.live()
    owe(deal)
    work()
    assert wallet(world.acme)[1] == 0
    minimum = {"commitment_id": ID, "kind": "minimum_spend", "amount_minor": usd("30,000.00")}
    deal.edit("set_commitment", minimum)
    work()
    assert wallet(world.acme)[1] == 0


def test_a_prepayment_that_was_drawn_stays_what_it_was(world: World) -> None:
    deal = world.live()
    owe(deal)
    work()
    payload = {"commitment_id": ID, "kind": "prepaid", "amount_minor": usd("12,000.00")}
    error = refused(deal, "set_commitment", payload)
    assert error.code == "downpayment_already_drawn"
    assert [fault.pointer for fault in error.errors] == ["/payload/commitment_id"]


def test_a_minimum_of_units_is_not_lowered_below_what_was_used(world: World, clock: Any) -> None:
    deal = world.live()
    minimum = {"commitment_id": ID, "kind": "minimum_quantity", "units": "500", "scope": [str(deal.burst)]}
    deal.edit("set_commitment", minimum)
    clock(MARCH + 10 * DAY)
    deal.use("120", days=3)
    later = {"effective_at": MARCH + 10 * DAY}
    error = refused(deal, "set_commitment", {**minimum, "units": "119"}, **later)
    assert error.code == "reduction_below_used"
    assert [fault.pointer for fault in error.errors] == ["/payload/units"]
    deal.edit("set_commitment", {**minimum, "units": "120"}, **later)


def test_a_minimum_of_money_is_not_lowered_below_what_was_spent(world: World) -> None:
    """Ten of 31 days of two servers at 18,000.00 come to 11,612.90."""
    deal = world.live()
    minimum = {"commitment_id": ID, "kind": "minimum_spend", "amount_minor": usd("40,000.00")}
    deal.edit("set_commitment", minimum)
    later = {"effective_at": MARCH + 10 * DAY}
    error = refused(deal, "set_commitment", {**minimum, "amount_minor": usd("11,612.89")}, **later)
    assert (error.code, error.extra["used"]) == ("reduction_below_used", str(usd("11,612.90")))
    deal.edit("set_commitment", {**minimum, "amount_minor": usd("11,612.90")}, **later)


def test_a_hold_for_non_payment_is_lifted_by_payment_or_by_finance(world: World, clock: Any) -> None:
    deal = world.live(fund="0", downpayment="0")
    owe(deal)
    clock(APRIL)
    work()
    clock(APRIL + 40 * DAY)
    services.check_due_accounts(actor=SYSTEM, at=now())
    assert deal.account.billing_status == "collections"
    resume = {"reason": "non_payment"}
    suspend = frozenset({"contracts.suspend_contract"})
    clerk = Actor("user", "7", permissions=suspend)
    error = refused(deal, "resume", resume, actor=clerk)
    assert error.code == "still_past_due"
    assert [fault.pointer for fault in error.errors] == ["/payload/reason"]
    deal.edit("resume", resume, actor=Actor("user", "8", permissions=suspend | {FINANCE}))
    assert deal.status == "active"
