"""At the same time: racing requests never overdraw, and racing words of the bank change things once."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from commerce.errors import Conflict
from ledger.models import LedgerTransaction
from payouts import services
from payouts.models import Payout, Settlement
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
