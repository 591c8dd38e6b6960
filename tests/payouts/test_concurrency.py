"""At the same time: racing requests never overdraw, and racing words of the bank change things once."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction

from commerce.errors import Conflict
from commerce.parties.models import Organization
from ledger.models import LedgerTransaction
from ledger.services import release_due
from payouts import services
from payouts.models import Payout, Settlement
from payouts.services.payees import lock_payee
from tests.payouts.conftest import PAID, SEASONED, SYSTEM, holds, make_world, tell, usd

pytestmark = pytest.mark.django_db(transaction=True)


def together(*works: Callable[[], Any]) -> list[Any]:
    """Run all at once, each on its own connection; what each returned or raised."""
    barrier, results = threading.Barrier(len(works)), [None] * len(works)

    def run(index: int) -> None:
        barrier.wait()
        try:
            results[index] = works[index]()
        except Conflict as error:
            results[index] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=[index]) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def payable():
    """Northwind has 31,675.00 USD payable and is paid on request."""
    world = make_world()
    services.set_policy(organization=world.northwind, mode="on_request", actor=SYSTEM, at=PAID)
    world.settle()
    world.release()
    return world


@pytest.mark.parametrize("amount", [None, usd("20,000.00")])
def test_two_requests_for_the_same_money_pay_it_once(payable, amount):
    def request() -> Payout:
        return services.request_payout(
            payee=payable.northwind, currency="USD", amount=amount, actor=SYSTEM, at=SEASONED
        )

    results = together(request, request, request)
    assert sorted(type(result).__name__ for result in results)[-1] == "Payout"
    (payout,) = Payout.objects.filter(payee=payable.northwind)
    assert holds(payable.northwind, "PAYOUT_IN_TRANSIT") == payout.amount
    assert holds(payable.northwind, "PAYABLE") == usd("31,675.00") - payout.amount
    assert sum(item.amount_minor for item in payout.items.all()) == payout.amount.minor


def test_a_webhook_and_the_poller_at_once_confirm_once(payable):
    services.request_payout(payee=payable.northwind, currency="USD", actor=SYSTEM, at=SEASONED)
    payout = payable.submitted()
    together(*[lambda: tell(payout, "completed")] * 2, *[lambda: tell(payout, "returned", code="R03")] * 2)
    payout.refresh_from_db()
    keys = LedgerTransaction.objects.filter(source=f"payout:{payout.pk}").values_list("key", flat=True)
    assert payout.status == "returned"
    assert sorted(key.rpartition(":")[2] for key in keys) == ["paid", "request", "returned"]
    assert holds(payable.northwind, "PAYABLE") == usd("31,675.00")


def test_a_request_beside_a_return_finds_all_money_or_leaves_the_rest(payable):
    first = services.request_payout(payee=payable.northwind, currency="USD", actor=SYSTEM, at=SEASONED)
    payable.paid_through("completed")

    def request() -> Payout:
        return services.request_payout(payee=payable.northwind, currency="USD", actor=SYSTEM, at=SEASONED)

    together(lambda: tell(first, "returned", code="R17"), request)
    payable_now, moving = holds(payable.northwind, "PAYABLE"), holds(payable.northwind, "PAYOUT_IN_TRANSIT")
    assert payable_now + moving == usd("31,675.00")


def test_approving_and_rejecting_at_once_does_one_of_the_two(payable, settings):
    settings.PAYOUT_APPROVAL_LIMIT_MINOR = 0
    payout = services.request_payout(payee=payable.northwind, currency="USD", actor=SYSTEM, at=SEASONED)
    checker = type(SYSTEM).system("checker")
    together(
        lambda: services.approve_payout(payout=payout, actor=checker, at=SEASONED),
        lambda: services.reject_payout(payout=payout, actor=checker, at=SEASONED, reason="no"),
    )
    payout.refresh_from_db()
    expected = {"approved": usd("0"), "cancelled": usd("31,675.00")}
    assert holds(payable.northwind, "PAYABLE") == expected[payout.status]


def test_an_invoice_told_twice_at_once_is_settled_once(payable):
    payload = payable.collect()

    def settle() -> Settlement:
        return services.plan_settlement(invoice=payload, actor=SYSTEM, at=PAID)

    first, second = together(settle, settle)
    assert first == second
    assert Settlement.objects.filter(invoice_id=payload["invoice_id"]).count() == 1


def test_payees_of_the_same_settlements_are_paid_beside_each_other_without_a_deadlock():
    world = make_world()
    settlements = [world.settle() for _ in range(12)]
    release_due(at=SEASONED, actor=SYSTEM)

    def release(payee: Organization, settlement: Settlement) -> Callable[[], None]:
        leg = settlement.legs.get(payee=payee)
        return lambda: services.release_leg(leg_id=leg.pk, actor=SYSTEM, at=SEASONED)

    together(release(world.northwind, settlements[0]), release(world.bridge, settlements[-1]))
    assert holds(world.northwind, "PAYOUT_IN_TRANSIT") == usd("380,100.00")
    assert holds(world.bridge, "PAYOUT_IN_TRANSIT") == usd("2,715.00")
    assert not Settlement.objects.exclude(status="released").exists()


def test_a_payee_that_somebody_holds_on_to_keeps_no_other_from_being_paid():
    world = make_world()
    for payee in (world.northwind, world.bridge):
        services.set_policy(organization=payee, mode="on_request", actor=SYSTEM, at=PAID)
    world.settle()
    world.release()
    for payee in (world.northwind, world.bridge):
        services.set_policy(organization=payee, mode="automatic", actor=SYSTEM, at=SEASONED)
    held, done = threading.Event(), threading.Event()

    def hold_northwind() -> None:
        with transaction.atomic():
            lock_payee(world.northwind.pk)
            held.set()
            done.wait(timeout=30)

    def pay() -> int:
        held.wait(timeout=30)
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = 200")
        try:
            return services.pay_due(at=SEASONED, actor=SYSTEM)
        finally:
            done.set()

    assert together(hold_northwind, pay)[1] == 1
    assert holds(world.bridge, "PAYOUT_IN_TRANSIT") == usd("226.25")
    assert services.pay_due(at=SEASONED, actor=SYSTEM) == 1
    assert holds(world.northwind, "PAYOUT_IN_TRANSIT") == usd("31,675.00")
