"""Collecting from the wallet: in full or not at all, oldest first, once, and shared out to the cent."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from billing import services
from billing.models import BillingAccount, Invoice
from billing.services.invoices import PROVIDER
from commerce.clock import set_test_clock
from commerce.errors import Retryable
from commerce.ids import uuid7
from commerce.money import Money
from commerce.outbox.models import OutboxEvent
from commerce.states import transition
from ledger.rules import recipes
from ledger.services import post
from tests.billing.conftest import (
    APRIL,
    MARCH,
    SYSTEM,
    Deal,
    World,
    findings,
    happened,
    holds,
    make_world,
    now,
    parked,
    posted,
    together,
    usd,
    wallet,
    work,
)

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


def owe(deal: Deal, *, net: int = 3_600_000, days: int = 0) -> Invoice:
    """An issued invoice of one line, as verification leaves it; tax at the contract's 8.25 %."""
    tax = net * 825 // 10_000
    start = APRIL + days * DAY
    invoice = Invoice.objects.create(
        account=deal.account, contract=deal.contract, buyer=deal.contract.buyer, currency="USD",
        period_start=start - 31 * DAY, period_end=start, net_minor=net, tax_minor=tax, total_minor=net + tax,
        provider=PROVIDER, provider_id=f"om-{uuid7()}", provider_status="payment_processing.pending",
        provider_updated_at=start, number=f"INV-{uuid7()}"[:32], verified_at=start,
    )  # fmt: skip
    if net:
        invoice.lines.create(
            line_id=deal.servers, product="h100-server", kind="recurring",
            seller_id=deal.contract.seller_ids[0], quantity=2, rate=18_000, start=start - 31 * DAY,
            end=start, net_minor=net, tax_minor=tax,
        )  # fmt: skip
    BillingAccount.objects.filter(pk=invoice.account_id).update(invoiced_through=start)
    return transition(invoice, "issue", actor=SYSTEM, at=start, issued_at=start, due_at=start + 14 * DAY)


def legs() -> list[dict[str, Any]]:
    return list(OutboxEvent.objects.filter(type="invoice.paid").latest("id").payload["legs"])


def test_a_short_wallet_is_not_touched(world: World) -> None:
    deal = world.live(fund="30,000.00")
    before = wallet(world.acme)
    invoice = owe(deal)
    work()
    invoice.refresh_from_db()
    assert (invoice.status, invoice.paid_minor, posted("collect")) == ("issued", 0, 0)
    assert wallet(world.acme) == before
    assert deal.account.billing_status == "invoiced"
    world.pay_in("8,969.99")
    assert posted("collect") == 0
    world.pay_in("0.01")
    invoice.refresh_from_db()
    assert invoice.status == "paid"
    assert wallet(world.acme) == (0, 0, 0)
    assert findings("I7") == []


def test_money_that_comes_pays_the_oldest_first(world: World) -> None:
    deal = world.live(fund="0", downpayment="0")
    newest, oldest = owe(deal, days=60), owe(deal)
    work()
    world.pay_in("38,970.00")
    newest.refresh_from_db()
    oldest.refresh_from_db()
    assert (oldest.status, newest.status) == ("paid", "issued")
    assert wallet(world.acme) == (0, 0, 0)


def test_invoices_come_before_what_contracts_want_set_aside(world: World) -> None:
    deal, other = world.live(fund="0", downpayment="0"), world.signed()
    owe(deal)
    work()
    world.pay_in("40,000.00")
    assert posted("collect") == 1
    assert wallet(world.acme) == (0, usd("1,030.00"), 0)
    assert other.account.downpayment_wanted_minor == usd("8,970.00")
    assert deal.account.committed_wanted_minor == 0, "it was wanted for what is paid now"


def test_collecting_again_does_nothing(world: World) -> None:
    deal = world.live()
    invoice = owe(deal)
    work()
    for _ in range(3):
        services.collect_invoice(invoice_id=invoice.pk, actor=SYSTEM, at=now())
        services.collect_for_buyer(buyer_id=world.acme.pk, source="again", actor=SYSTEM, at=now())
    assert (posted("collect"), happened("invoice.paid")) == (1, 1)
    assert findings("I7") == []


@pytest.mark.parametrize("net", [1, 2, 3, 7, 99, 101, 3_620_001, 123_456_789])
def test_the_legs_always_sum_to_the_total(world: World, net: int) -> None:
    deal = world.live(fund="9,000,000.00")
    invoice = owe(deal, net=net)
    work()
    invoice.refresh_from_db()
    assert invoice.status == "paid"
    assert sum(leg["amount_minor"] for leg in legs()) == invoice.total_minor
    assert all(leg["amount_minor"] > 0 for leg in legs())
    held = holds(world.northwind, "PAY_IN_HOLDING") + holds(world.bridge, "PAY_IN_HOLDING")
    fees = holds(world.platform, "PLATFORM_FEES") + holds(world.platform, "TAX_PAYABLE")
    assert held + fees == invoice.total_minor


def test_the_worked_examples_legs(world: World) -> None:
    deal = world.live()
    owe(deal, net=3_620_000)
    work()
    shares = {(leg["kind"], UUID(leg["payee_id"])): leg["amount_minor"] for leg in legs()}
    assert shares == {
        ("tax", world.platform.pk): 298_650, ("fee", world.platform.pk): 429_875,
        ("partner", world.bridge.pk): 22_625, ("seller", world.northwind.pk): 3_167_500,
    }  # fmt: skip


def test_an_invoice_of_nothing_is_paid_without_a_posting(world: World) -> None:
    deal = world.live(fund="0", downpayment="0")
    invoice = owe(deal, net=0)
    work()
    invoice.refresh_from_db()
    assert (invoice.status, invoice.transaction_id, posted("collect")) == ("paid", None, 0)
    assert deal.account.billing_status == "current"


def test_a_wallet_emptied_between_look_and_posting_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look is of a moment ago, as when another transaction has just spent the money."""
    deal = world.live(fund="0", downpayment="0")
    invoice = owe(deal)
    work()
    monkeypatch.setattr("billing.services.collection.spendable", lambda *_: 10**9)
    with pytest.raises(Retryable):
        services.collect_invoice(invoice_id=invoice.pk, actor=SYSTEM, at=now())
    assert (posted("collect"), happened("invoice.paid")) == (0, 0)


# Real threads


def racing(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.django_db(transaction=True)(test)


def open_account(deal: Deal) -> Callable[[], Any]:
    return lambda: services.open_account(contract_id=deal.contract.pk, version=3, actor=SYSTEM, at=MARCH)


@racing
def test_two_contracts_that_race_for_one_wallet_share_what_is_there(clock: Any) -> None:
    world = make_world()
    world.tell(world.payment("50,000.00"))
    deals = [world.draft(), world.draft()]
    for deal in deals:
        for stage in ("submit", "signed"):
            deal.edit("activate", {"stage": stage})
    together(*map(open_account, deals))
    work()
    available, downpayment, committed = wallet(world.acme)
    assert available + downpayment + committed == usd("50,000.00")
    assert (available, downpayment) == (0, usd("20,000.00"))
    assert sum(deal.account.committed_minor for deal in deals) == committed
    assert findings("I7") == findings("I1") == []


@racing
def test_a_pay_in_and_an_issue_at_once_collect_once(clock: Any) -> None:
    world = make_world()
    deal = world.live(fund="0", downpayment="0")
    invoice = owe(deal)
    set_test_clock(APRIL)
    wire = world.payment("38,970.00")
    together(work, lambda: world.tell(wire), lambda: world.tell(wire), work)
    work()
    invoice.refresh_from_db()
    assert (invoice.status, posted("collect"), posted("fund_wallet")) == ("paid", 1, 1)
    assert wallet(world.acme) == (0, 0, 0)
    assert deal.account.billing_status == "current"
    assert (parked(), findings("I7")) == ([], [])


@racing
def test_pay_ins_polls_and_collections_at_once_never_deadlock(clock: Any) -> None:
    world = make_world()
    deals = [world.live(fund="0", downpayment="0") for _ in range(3)]
    invoices = [owe(deal, days=30 - 10 * n) for n, deal in enumerate(deals)]
    set_test_clock(APRIL + 40 * DAY)
    for _ in range(3):
        world.tell(world.payment("40,000.00"))

    def for_buyer(n: int) -> Callable[[], Any]:
        return lambda: services.collect_for_buyer(
            buyer_id=world.acme.pk, source=f"race:{n}", actor=SYSTEM, at=now()
        )

    def look(deal: Deal) -> Callable[[], Any]:
        return lambda: services.refresh_status(account_id=deal.account.pk, actor=SYSTEM, at=now())

    def collect(invoice: Invoice) -> Callable[[], Any]:
        return lambda: services.collect_invoice(invoice_id=invoice.pk, actor=SYSTEM, at=now())

    results = together(for_buyer(1), *map(collect, invoices), for_buyer(2), *map(look, deals), for_buyer(3))
    assert not [
        result for result in results if isinstance(result, Exception) and not isinstance(result, Retryable)
    ]
    work()
    for invoice in invoices:
        services.collect_invoice(invoice_id=invoice.pk, actor=SYSTEM, at=now())
    assert set(Invoice.objects.values_list("status", flat=True)) == {"paid"}
    assert posted("collect") == 3
    assert findings("I7") == []


@racing
def test_money_spent_elsewhere_meanwhile_is_never_spent_twice(clock: Any) -> None:
    world = make_world()
    deal = world.live(fund="0", downpayment="0")
    owe(deal)
    world.tell(world.payment("38,970.00"))

    def elsewhere() -> Any:
        amount = Money(usd("38,970.00"), "USD")
        return post(
            entries=recipes.return_pay_in(platform=world.platform.pk, buyer=world.acme.pk, amount=amount),
            key="elsewhere", source="test", recipe="return_pay_in", at=APRIL, actor=SYSTEM,
        )  # fmt: skip

    together(elsewhere, work)
    work()
    assert posted("collect") + posted("return_pay_in") == 1 or wallet(world.acme) == (0, 0, 0)
    assert wallet(world.acme) == (0, 0, 0)
    assert findings("I7") == []
