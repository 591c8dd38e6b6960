"""Setting money aside: as far as the wallet goes, topped up, given back, never below zero."""

import pytest

from billing import services
from billing.models import BillingAccount
from commerce.errors import StateConflict
from contracts import services as contracts
from tests.billing.conftest import MARCH, SYSTEM, World, findings, parked, posted, usd, wallet, work

pytestmark = pytest.mark.django_db


def test_a_signature_sets_aside_the_downpayment_and_the_first_period(world: World) -> None:
    world.pay_in("150,000.00")
    deal = world.signed()
    assert wallet(world.acme) == (usd("111,030.00"), usd("10,000.00"), usd("28,970.00"))
    assert (deal.account.downpayment_wanted_minor, deal.account.committed_wanted_minor) == (0, 0)
    assert findings() == []


def test_what_the_wallet_lacks_is_wanted_and_topped_up_by_each_pay_in(world: World) -> None:
    world.pay_in("12,000.00")
    deal = world.signed()
    assert wallet(world.acme) == (0, usd("10,000.00"), usd("2,000.00"))
    assert deal.account.committed_wanted_minor == usd("26,970.00")
    world.pay_in("20,000.00")
    assert wallet(world.acme) == (0, usd("10,000.00"), usd("22,000.00"))
    world.pay_in("20,000.00")
    assert wallet(world.acme) == (usd("13,030.00"), usd("10,000.00"), usd("28,970.00"))
    assert deal.account.committed_wanted_minor == 0
    assert findings() == []


def test_an_empty_wallet_sets_nothing_aside_and_posts_nothing(world: World) -> None:
    deal = world.signed()
    assert deal.account.downpayment_wanted_minor == usd("10,000.00")
    assert posted("commit") == 0
    assert parked() == []


def test_a_contract_goes_live_only_with_its_downpayment(world: World) -> None:
    world.pay_in("9,999.99")
    deal = world.signed()
    with pytest.raises(StateConflict, match=r"0\.01 USD is missing") as refused:
        deal.edit("activate", {"stage": "live"})
    assert refused.value.code == "downpayment_unfunded"
    assert deal.status == "pending_activation"
    world.pay_in("0.01")
    deal.edit("activate", {"stage": "live"})
    assert deal.status == "active"


def test_before_the_wallet_was_looked_at_the_whole_downpayment_is_missing(world: World) -> None:
    world.tell(world.payment("150,000.00"))
    deal = world.draft()
    for stage in ("submit", "signed"):
        deal.edit("activate", {"stage": stage})
    with pytest.raises(StateConflict, match=r"10,000\.00 USD is missing"):
        deal.edit("activate", {"stage": "live"})


def test_a_contract_without_downpayment_needs_no_money_to_go_live(world: World) -> None:
    deal = world.signed(downpayment="0")
    deal.edit("activate", {"stage": "live"})
    assert deal.status == "active"


def test_cancelled_before_it_ran_everything_goes_back_and_nothing_is_wanted(world: World) -> None:
    world.pay_in("12,000.00")
    deal = world.signed()
    deal.edit("terminate", {"cause": "mutual"})
    work()
    assert wallet(world.acme) == (usd("12,000.00"), 0, 0)
    assert deal.account.committed_wanted_minor == 0
    assert deal.account.billing_status == "settled"
    world.pay_in("50,000.00")
    assert wallet(world.acme) == (usd("62,000.00"), 0, 0)
    assert findings() == []


def test_a_contract_cancelled_before_its_signature_was_worked_off_keeps_no_money(world: World) -> None:
    """Both events wait in one stream: the account opens, then settles."""
    world.pay_in("150,000.00")
    deal = world.draft()
    for stage in ("submit", "signed"):
        deal.edit("activate", {"stage": stage})
    deal.edit("terminate", {"cause": "mutual"})
    work()
    assert wallet(world.acme) == (usd("150,000.00"), 0, 0)
    assert deal.account.billing_status == "settled"


def test_a_contract_that_nobody_activates_gives_its_downpayment_back(world: World) -> None:
    world.pay_in("12,000.00")
    deal = world.signed()
    assert wallet(world.acme)[1] == usd("10,000.00")
    command = deal.contract.schedule.get(kind="activation_timeout")
    contracts.run_due(at=command.due_at)
    work()
    assert deal.status == "cancelled"
    assert wallet(world.acme) == (usd("12,000.00"), 0, 0)
    assert (deal.account.downpayment_wanted_minor, deal.account.billing_status) == (0, "settled")


def test_money_given_back_is_set_aside_for_a_contract_that_waits(world: World) -> None:
    world.pay_in("15,000.00")
    first = world.signed()
    second = world.signed(downpayment="12,000.00")
    assert second.account.downpayment_wanted_minor == usd("12,000.00")
    first.edit("terminate", {"cause": "mutual"})
    work()
    assert second.account.downpayment_wanted_minor == 0
    assert wallet(world.acme) == (0, usd("12,000.00"), usd("3,000.00"))
    assert findings() == []


def test_signed_again_with_other_lines_the_new_amounts_are_set_aside(world: World) -> None:
    world.pay_in("150,000.00")
    deal = world.signed()
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 1})
    deal.edit("activate", {"stage": "signed"})
    work()
    assert wallet(world.acme) == (usd("130,515.00"), usd("10,000.00"), usd("9,485.00"))
    assert findings() == []


def test_opening_an_account_again_changes_nothing(world: World) -> None:
    deal = world.live()
    before = wallet(world.acme)
    services.open_account(contract_id=deal.contract.pk, version=3, actor=SYSTEM, at=MARCH)
    assert BillingAccount.objects.count() == 1
    assert wallet(world.acme) == before
    assert posted("commit") == 1
