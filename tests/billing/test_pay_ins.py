"""Money in: credited once whatever the bank's messages do, and what is strange becomes a question."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from billing import services
from billing.models import PayIn
from billing.services import pay_ins
from commerce.clock import set_test_clock
from commerce.console.services import resolve_review
from commerce.outbox import append
from commerce.parties.models import ProviderReference
from ledger.services import balance
from tests.billing.conftest import (
    MARCH,
    SYSTEM,
    OpenMeter,
    World,
    findings,
    happened,
    holds,
    make_world,
    now,
    parked,
    posted,
    reviews,
    together,
    usd,
    wallet,
    work,
)
from tests.sandbox.conftest import INTERNAL_ACCOUNT

pytestmark = pytest.mark.django_db


@pytest.fixture
def wire(openmeter: OpenMeter, world: World) -> Callable[..., str]:
    """A wire to Acme's virtual account at the simulated bank; its id there."""
    mt = openmeter.sandbox.mt
    counterparty = mt.post("/counterparties", json={"name": "Acme"}, headers={"Idempotency-Key": "c"}).json()
    account = mt.post(
        "/virtual_accounts",
        json={"name": "Acme", "internal_account_id": INTERNAL_ACCOUNT, "counterparty_id": counterparty["id"]},
        headers={"Idempotency-Key": "v"},
    ).json()
    world.virtual_account = account["id"]
    ProviderReference.objects.filter(organization=world.acme).update(provider_id=account["id"])

    def send(amount: int, *, settle: bool = True, **more: Any) -> str:
        body = {"type": "wire", "amount": amount, "currency": "USD", "virtual_account_id": account["id"]}
        made = mt.post(
            "/simulations/incoming_payment_details/create_async",
            json={**body, **more},
            headers={"Idempotency-Key": f"w{amount}{more}"},
        )
        assert made.status_code == 202, made.text
        if settle:
            openmeter.sandbox.settle()
        return str(made.json()["id"])

    return send


def tell(id_: str) -> None:
    kind = "modern_treasury.incoming_payment"
    hint = {"provider": "modern_treasury", "object_id": id_, "delivery_id": "d", "event": "created"}
    append(kind, id_, f"{kind}_changed", hint, at=now())


def pull_back(openmeter: OpenMeter, id_: str) -> None:
    """The sender's bank takes a payment back; its webhook is lost."""
    made = openmeter.sandbox.mt.post(
        "/returns",
        json={"returnable_type": "incoming_payment_detail", "returnable_id": id_, "code": "R01"},
        headers={"Idempotency-Key": f"return-{id_}"},
    )
    assert made.status_code == 201, made.text
    openmeter.sandbox.settle()


def poll() -> int:
    return services.poll_incoming_payments(actor=SYSTEM, at=now())


def test_a_wire_is_credited_once_under_webhooks_and_polls(world: World, wire: Callable[..., str]) -> None:
    id_ = wire(5_000_000)
    for _ in range(3):
        tell(id_)
        poll()
        work()
    assert wallet(world.acme)[0] == 5_000_000
    assert (posted("fund_wallet"), happened("pay_in.completed"), PayIn.objects.count()) == (1, 1, 1)
    assert poll() == 0, "nothing has changed since"


def test_a_pending_wire_is_seen_and_not_credited_before_the_bank_has_it(
    openmeter: OpenMeter, world: World, wire: Callable[..., str]
) -> None:
    pending = world.payment("100.00", status="pending")
    row = world.tell(pending)
    assert row
    assert (row.status, row.transaction_id, wallet(world.acme)[0]) == ("pending", None, 0)
    assert happened("pay_in.completed") == 0


def test_a_payment_pending_for_longer_than_the_poll_looks_back_is_still_asked_about(
    openmeter: OpenMeter, world: World, wire: Callable[..., str]
) -> None:
    id_ = wire(700)
    world.tell(world.payment("7.00", id=id_, status="pending"))
    openmeter.at(MARCH.replace(day=20))
    assert poll() == 1
    assert (PayIn.objects.get().status, wallet(world.acme)[0]) == ("completed", 700)


@pytest.mark.parametrize("days", [6, 30, 59])
def test_a_return_whose_webhook_was_lost_is_found_by_polling(
    openmeter: OpenMeter, world: World, wire: Callable[..., str], days: int
) -> None:
    id_ = wire(700)
    assert poll() == 1
    assert wallet(world.acme)[0] == 700
    openmeter.at(MARCH + timedelta(days=days))
    pull_back(openmeter, id_)
    assert poll() == 1
    assert (PayIn.objects.get().status, wallet(world.acme)[0]) == ("returned", 0)
    assert (posted("return_pay_in"), happened("pay_in.returned")) == (1, 1)
    assert poll() == 0, "what came back is not asked about again"
    assert findings() == []


def test_money_that_stays_is_asked_about_a_few_times_in_sixty_days_and_then_no_more(
    openmeter: OpenMeter, world: World, wire: Callable[..., str]
) -> None:
    wire(700)
    assert poll() == 1
    asked = 0
    for day in range(1, 75):
        openmeter.at(MARCH + timedelta(days=day))
        asked += poll()
    assert 8 <= asked <= 20
    assert PayIn.objects.get().next_look_at is None
    assert (wallet(world.acme)[0], posted("fund_wallet")) == (700, 1)


def test_a_look_without_an_answer_is_not_a_look(
    openmeter: OpenMeter, world: World, wire: Callable[..., str]
) -> None:
    id_ = wire(700)
    poll()
    openmeter.at(MARCH + timedelta(days=59))
    pull_back(openmeter, id_)
    fault = {"provider": "modern_treasury", "path": id_, "kind": "error", "status": 503}
    openmeter.sandbox.control.post("/faults", json=fault)
    assert poll() == 0
    assert PayIn.objects.get().status == "completed"
    assert poll() == 1
    assert PayIn.objects.get().status == "returned"


def test_a_deposit_nobody_can_place_is_kept_apart_and_asked_about(world: World) -> None:
    row = world.tell(world.payment("12.34", virtual_account_id="va-unknown"))
    other = world.tell(world.payment("1.00", virtual_account_id=""))
    assert row
    assert other
    assert (row.buyer, row.status) == (None, "completed")
    assert holds(world.platform, "UNAPPLIED_CASH") == 1_334
    assert wallet(world.acme) == (0, 0, 0)
    assert {item.value_minor for item in reviews("unidentified_deposit")} == {1_234, 100}
    work()
    assert posted("fund_wallet") == 0


def test_an_unplaced_deposit_that_is_returned_leaves_no_trace_of_cash(world: World) -> None:
    wire = world.payment("12.34", virtual_account_id="va-unknown")
    world.tell(wire)
    row = world.tell(world.payment("12.34", id=wire.id, virtual_account_id="va-unknown", status="returned"))
    assert row
    assert row.status == "returned"
    assert (holds(world.platform, "UNAPPLIED_CASH"), holds(world.platform, "CASH_BANK")) == (0, 0)
    assert reviews("unidentified_deposit") == []


def test_a_returned_pay_in_leaves_the_wallet_once(world: World) -> None:
    wire = world.payment("100.00")
    world.tell(wire)
    for _ in range(3):
        row = world.tell(world.payment("100.00", id=wire.id, status="returned"))
        assert row
        assert row.status == "returned"
    world.tell(wire)
    assert (wallet(world.acme)[0], holds(world.platform, "CASH_BANK")) == (0, 0)
    assert (posted("return_pay_in"), happened("pay_in.returned")) == (1, 1)
    assert reviews("returned_after_spent") == []


def test_returned_before_we_heard_of_it_it_came_and_went(world: World) -> None:
    row = world.tell(world.payment("100.00", status="returned"))
    work()
    assert row
    assert (row.status, wallet(world.acme)[0], holds(world.platform, "CASH_BANK")) == ("returned", 0, 0)
    assert parked() == []


def test_a_return_of_money_that_is_spent_is_a_receivable_and_a_question(world: World) -> None:
    """The bank's word stands: cash is right, the wallet is not below zero, nothing is parked."""
    wire = world.payment("50,000.00")
    world.tell(wire)
    world.signed()
    assert wallet(world.acme) == (usd("11,030.00"), usd("10,000.00"), usd("28,970.00"))
    row = world.tell(world.payment("50,000.00", id=wire.id, status="returned"))
    assert row
    assert row.status == "returned"
    assert wallet(world.acme) == (0, usd("10,000.00"), usd("28,970.00"))
    assert balance(owner=world.acme.pk, kind="BUYER_RECEIVABLE", currency="USD") == usd("38,970.00")
    assert holds(world.platform, "CASH_BANK") == 0
    [item] = reviews("returned_after_spent")
    assert (item.subject_id, item.value_minor) == (str(row.pk), usd("38,970.00"))
    assert findings() == []


def owes(world: World) -> int:
    return balance(owner=world.acme.pk, kind="BUYER_RECEIVABLE", currency="USD")


def owing(world: World) -> None:
    """Acme's 50,000.00 came back after 38,970.00 of it was set aside."""
    wire = world.payment("50,000.00")
    world.tell(wire)
    world.signed()
    world.tell(world.payment("50,000.00", id=wire.id, status="returned"))
    assert owes(world) == usd("38,970.00")


def test_money_from_a_buyer_who_owes_us_repays_that_before_it_reaches_the_wallet(world: World) -> None:
    owing(world)
    world.tell(world.payment("30,000.00"))
    assert (owes(world), wallet(world.acme)[0]) == (usd("8,970.00"), 0)
    world.tell(world.payment("10,000.00"))
    assert (owes(world), wallet(world.acme)[0]) == (0, usd("1,030.00"))
    world.tell(world.payment("5.00"))
    assert (owes(world), wallet(world.acme)[0]) == (0, usd("1,035.00"))
    assert (posted("fund_owing_wallet"), posted("fund_wallet")) == (2, 2)
    assert holds(world.platform, "CASH_BANK") == usd("40,005.00")
    assert findings() == []


def test_money_that_repaid_a_debt_and_is_pulled_back_is_owed_again(world: World) -> None:
    owing(world)
    wire = world.payment("40,000.00")
    world.tell(wire)
    assert (owes(world), wallet(world.acme)[0]) == (0, usd("1,030.00"))
    world.tell(world.payment("40,000.00", id=wire.id, status="returned"))
    assert (owes(world), wallet(world.acme)[0]) == (usd("38,970.00"), 0)
    assert holds(world.platform, "CASH_BANK") == 0


@pytest.mark.django_db(transaction=True)
def test_two_payments_at_once_repay_a_debt_once(clock: Any) -> None:
    world = make_world()
    owing(world)
    wires = [world.payment("30,000.00"), world.payment("30,000.00")]
    together(*[lambda wire=wire: world.tell(wire) for wire in wires])
    assert owes(world) == 0, "not below zero: nobody repays what is repaid"
    assert wallet(world.acme)[0] == usd("21,030.00")


def test_somebody_who_pulls_money_is_asked_about_once_and_credited_never(world: World) -> None:
    debit = world.payment("100.00", direction="debit")
    assert world.tell(debit) is None
    assert world.tell(debit) is None
    [item] = reviews("unexpected_debit")
    assert not PayIn.objects.exists()
    assert posted("fund_wallet") == 0
    resolve_review(item=item, code="fixed", actor=SYSTEM, at=now(), reason="the bank returned it")
    world.tell(debit)
    assert reviews("unexpected_debit") == []


def test_one_payment_that_cannot_be_applied_holds_up_no_other(
    world: World, wire: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = wire(100), wire(200)
    real = pay_ins.apply_incoming_payment

    def broken(*, payment: Any, **rest: Any) -> Any:
        if payment.id == first:
            raise RuntimeError("no")
        return real(payment=payment, **rest)

    monkeypatch.setattr(pay_ins, "apply_incoming_payment", broken)
    assert poll() == 1
    assert PayIn.objects.get().provider_id == second


@pytest.mark.django_db(transaction=True)
def test_five_deliveries_at_once_credit_once(clock: Any) -> None:
    world = make_world()
    set_test_clock(MARCH)
    wire = world.payment("100.00")
    results = together(*[lambda: world.tell(wire)] * 5)
    assert {row.pk for row in results} == {PayIn.objects.get().pk}
    work()
    assert (wallet(world.acme)[0], posted("fund_wallet"), happened("pay_in.completed")) == (10_000, 1, 1)


@pytest.mark.django_db(transaction=True)
def test_completed_and_returned_at_once_end_returned_with_nothing_in_the_wallet(clock: Any) -> None:
    world = make_world()
    wire = world.payment("100.00")
    back = world.payment("100.00", id=wire.id, status="returned")
    together(*[lambda: world.tell(wire), lambda: world.tell(back)] * 2)
    world.tell(back)
    assert PayIn.objects.get().status == "returned"
    assert (wallet(world.acme)[0], holds(world.platform, "CASH_BANK")) == (0, 0)
    assert (posted("fund_wallet"), posted("return_pay_in")) == (1, 1)
