"""The billing status: every rung once and in order, and a payment that clears the debt clears it all."""

from datetime import timedelta
from typing import Any

import pytest

from billing import services
from billing.services import dunning
from commerce.models import TransitionLog
from contracts.models import ContractEdit
from contracts.services import take_effect_due
from tests.billing.conftest import (
    APRIL,
    MARCH,
    SYSTEM,
    Deal,
    World,
    findings,
    happened,
    now,
    reviews,
    usd,
    wallet,
    work,
)
from tests.billing.test_collection import owe

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
DUE = APRIL + 14 * DAY


def rungs(deal: Deal) -> list[str]:
    log = TransitionLog.objects.filter(model="billing.billingaccount", object_id=str(deal.account.pk))
    return list(log.order_by("id").values_list("target", flat=True))


def holds_of(deal: Deal) -> set[str]:
    deal.contract.refresh_from_db()
    return {hold.reason for hold in deal.contract.current.holds}


def edits(operation: str) -> int:
    return ContractEdit.objects.filter(operation=operation).count()


def check(at: Any = None) -> int:
    return services.check_due_accounts(actor=SYSTEM, at=at or now())


@pytest.fixture
def deal(world: World, clock: Any) -> Deal:
    """A contract whose invoice of 38,970.00 nobody has paid; due on 15 April."""
    deal = world.live(fund="0", downpayment="0")
    owe(deal)
    clock(APRIL)
    work()
    return deal


def test_each_rung_comes_when_the_clock_says(deal: Deal, clock: Any) -> None:
    expected = {0: "in_grace", 3: "past_due", 13: "delinquent", 24: "collections"}
    for days in range(30):
        clock(DUE + days * DAY)
        check()
        status = expected[max(day for day in expected if day <= days)]
        assert deal.account.billing_status == status, days
    assert rungs(deal) == ["invoiced", "in_grace", "past_due", "delinquent", "collections"]
    assert deal.account.next_check_at is None


def test_nothing_happens_a_moment_before(deal: Deal, clock: Any) -> None:
    clock(DUE - timedelta(microseconds=1))
    assert check() == 0
    assert deal.account.next_check_at == DUE


def test_after_downtime_every_rung_is_entered_once_and_in_order(deal: Deal, clock: Any) -> None:
    clock(DUE + 60 * DAY)
    assert check() == 1
    assert check() == 0
    assert rungs(deal) == ["invoiced", "in_grace", "past_due", "delinquent", "collections"]
    assert (edits("suspend"), happened("invoice.overdue")) == (1, 1)
    assert deal.invoice.status == "overdue"


def test_entering_delinquent_suspends_for_non_payment_exactly_once(deal: Deal, clock: Any) -> None:
    for days in (13, 14, 15):
        clock(DUE + days * DAY)
        services.refresh_status(account_id=deal.account.pk, actor=SYSTEM, at=now())
    assert (deal.status, holds_of(deal), edits("suspend")) == ("suspended", {"non_payment"}, 1)


def test_a_payment_clears_debt_status_and_suspension_in_one_transaction(
    world: World, deal: Deal, clock: Any
) -> None:
    clock(DUE + 20 * DAY)
    check()
    assert deal.status == "suspended"
    world.tell(world.payment("38,970.00"))
    services.collect_invoice(invoice_id=deal.invoice.pk, actor=SYSTEM, at=now())
    assert deal.invoice.status == "paid"
    assert (deal.account.billing_status, deal.status, holds_of(deal)) == ("current", "active", set())
    assert edits("resume") == 1


def test_only_its_own_hold_is_lifted(world: World, deal: Deal, clock: Any) -> None:
    clock(DUE + 20 * DAY)
    deal.edit("suspend", {"reason": "legal"})
    check()
    assert holds_of(deal) == {"legal", "non_payment"}, "each hold stands by itself"
    world.pay_in("38,970.00")
    assert (deal.status, holds_of(deal)) == ("suspended", {"legal"})
    deal.edit("resume", {"reason": "legal"})
    assert deal.status == "active"


def test_a_hold_of_another_reason_is_not_lifted_by_paying(world: World, deal: Deal, clock: Any) -> None:
    clock(DUE)
    deal.edit("suspend", {"reason": "buyer"})
    world.pay_in("38,970.00")
    assert (deal.status, holds_of(deal), edits("resume")) == ("suspended", {"buyer"}, 0)


def test_a_debt_paid_in_two_steps_resumes_with_the_last(world: World, deal: Deal, clock: Any) -> None:
    """The old invoice is paid while a newer one is in grace: the hold goes when that is paid too."""
    owe(deal, days=15)
    clock(DUE + 15 * DAY)
    work()
    check()
    assert deal.status == "suspended"
    world.pay_in("38,970.00")
    assert (deal.account.billing_status, deal.status) == ("in_grace", "suspended")
    world.pay_in("38,970.00")
    assert (deal.account.billing_status, deal.status, holds_of(deal)) == ("current", "active", set())


def test_collections_ask_a_person_and_paying_answers(world: World, deal: Deal, clock: Any) -> None:
    clock(DUE + 24 * DAY)
    check()
    check()
    [item] = reviews("collections")
    assert item.value_minor == 3_897_000
    world.pay_in("38,970.00")
    assert reviews("collections") == []
    assert (deal.account.billing_status, deal.status) == ("current", "active")


def test_one_account_that_cannot_be_checked_holds_up_no_other(
    world: World, deal: Deal, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = world.live(fund="0", downpayment="0")
    owe(other, days=1)
    clock(APRIL + DAY)
    work()
    clock(DUE + 2 * DAY)
    real = dunning.refresh_status

    def broken(*, account_id: Any, **rest: Any) -> Any:
        if account_id == deal.account.pk:
            raise RuntimeError("a log that cannot be folded")
        return real(account_id=account_id, **rest)

    monkeypatch.setattr(dunning, "refresh_status", broken)
    assert check() == 1
    assert (deal.account.billing_status, other.account.billing_status) == ("invoiced", "in_grace")


def test_a_terminated_contract_is_settled_when_all_is_billed_and_paid(
    world: World, deal: Deal, clock: Any
) -> None:
    deal.edit("terminate", {"cause": "mutual"}, effective_at=APRIL)
    work()
    assert deal.account.billing_status == "invoiced"
    world.pay_in("50,000.00")
    assert deal.account.billing_status == "settled"
    assert wallet(world.acme) == (usd("11,030.00"), 0, 0)
    assert findings("I7") == []


def test_a_contract_that_ends_with_time_unbilled_is_not_settled(world: World, clock: Any) -> None:
    deal = world.live()
    clock(MARCH + 10 * DAY)
    deal.edit("terminate", {"cause": "mutual"})
    work()
    assert deal.account.billing_status == "current"
    assert deal.account.committed_minor == usd("28,970.00"), "set aside for the invoice to come"


def test_a_contract_that_ends_owing_nothing_is_settled_at_once(world: World, clock: Any) -> None:
    """Its billing was stopped all the time: no invoice will ever come."""
    deal = world.live()
    deal.edit("suspend", {"reason": "seller_fault", "billing": "stop"})
    clock(MARCH + 10 * DAY)
    deal.edit("terminate", {"cause": "mutual"})
    work()
    assert deal.account.billing_status == "settled"
    assert wallet(world.acme) == (usd("150,000.00"), 0, 0)


def test_a_termination_of_the_future_settles_when_it_takes_effect(world: World, clock: Any) -> None:
    deal = world.live()
    deal.edit("suspend", {"reason": "seller_fault", "billing": "stop"})
    deal.edit("terminate", {"when": "date", "cause": "mutual"}, effective_at=MARCH + 10 * DAY)
    work()
    assert deal.account.billing_status == "not_billing"
    clock(MARCH + 10 * DAY)
    take_effect_due(at=now())
    work()
    assert deal.account.billing_status == "settled"
    assert wallet(world.acme)[0] == usd("150,000.00")


def test_an_invoice_that_comes_after_all_was_settled_starts_over(
    world: World, deal: Deal, clock: Any
) -> None:
    deal.edit("terminate", {"cause": "mutual"}, effective_at=APRIL)
    world.pay_in("38,970.00")
    assert deal.account.billing_status == "settled"
    owe(deal, net=100)
    clock(DUE + DAY)
    services.refresh_status(account_id=deal.account.pk, actor=SYSTEM, at=now())
    assert rungs(deal)[-3:] == ["settled", "invoiced", "in_grace"]


def test_an_event_delivered_late_counts_from_now(world: World, deal: Deal, clock: Any) -> None:
    """A pay-in that is worked off after downtime does not turn the status back to its own day."""
    clock(DUE + 10 * DAY)
    world.tell(world.payment("0.01"))
    clock(DUE + 20 * DAY)
    check()
    assert deal.account.billing_status == "delinquent"
    work()
    assert (deal.account.billing_status, deal.status) == ("delinquent", "suspended")
    assert (edits("suspend"), edits("resume")) == (1, 0)
