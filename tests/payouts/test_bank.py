"""Against the simulator over HTTP: one payment order per payout, whatever gets lost on the way."""

import json
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.utils import timezone

from billing.services.pay_ins import poll_incoming_payments
from commerce.console.models import ReviewItem
from commerce.errors import Retryable, Unknown
from commerce.outbox import append, drain
from commerce.outbox.models import Circuit, OutboxStream
from commerce.outbox.services import park_stream, pause_lane
from commerce.providers import modern_treasury
from payouts import services, tasks
from payouts.models import Payout
from payouts.services.bank import _send
from tests.payouts.conftest import SEASONED, SYSTEM, World, fault, holds, open_account, orders, tell, usd

pytestmark = pytest.mark.django_db
EVERYTHING = ["payouts.settlement", "payouts.policy", "payouts.modern_treasury", "payouts.poll"]


def submit(world: World) -> Payout:
    services.submit_payout(payout_id=world.payout().pk, actor=SYSTEM, at=SEASONED)
    return world.payout()


def poll(world: World) -> Payout:
    Payout.objects.filter(next_poll_at__isnull=False).update(next_poll_at=timezone.now())
    services.poll_payouts(at=SEASONED, actor=SYSTEM)
    return world.payout()


def test_an_approved_payout_becomes_one_payment_order(ready, bank):
    drain(groups=EVERYTHING)
    payout = ready.payout()
    assert payout.status == "in_transit"
    assert [(o["external_id"], o["amount"], o["direction"]) for o in orders(bank)] == [
        (payout.external_id, 3_167_500, "credit")
    ]
    for _ in range(2):
        submit(ready)
    assert len(orders(bank)) == 1


def test_polling_alone_finds_that_it_was_paid(ready, bank):
    submit(ready)
    bank.settle()
    payout = poll(ready)
    assert (payout.status, payout.provider_status) == ("paid", "completed")
    assert holds(ready.northwind, "PAYOUT_IN_TRANSIT") == usd("0")
    assert payout.items.get().leg.status == "paid_out"


def test_a_lost_answer_is_looked_up_and_never_paid_twice(ready, bank):
    fault(bank, "timeout_after_effect", method="POST")
    with pytest.raises(Unknown):
        submit(ready)
    assert ready.payout().status == "unknown"
    assert holds(ready.northwind, "PAYOUT_IN_TRANSIT") == usd("31,675.00")
    payout = submit(ready)
    assert payout.status == "in_transit"
    assert [o["external_id"] for o in orders(bank)] == [payout.external_id]


def test_the_poller_finds_an_order_whose_answer_was_lost(ready, bank):
    fault(bank, "timeout_after_effect", method="POST")
    with pytest.raises(Unknown):
        submit(ready)
    bank.settle()
    assert poll(ready).status == "paid"
    assert len(orders(bank)) == 1


def test_a_lost_answer_that_a_webhook_has_made_up_for_leaves_no_doubt(ready, bank):
    stale = ready.submitted()
    fault(bank, "timeout_after_effect", method="POST")
    tell(stale, "processing")
    with pytest.raises(Unknown):
        _send(stale, modern_treasury.client(), SYSTEM, SEASONED)
    assert ready.payout().status == "in_transit"


def order_from_before(payout):
    """An order that the bank has for the payout although our database does not know of it."""
    modern_treasury.client().create_payment_order(
        external_id=payout.external_id, amount=payout.amount, key="an earlier try",
        receiving_account_id=payout.account.provider_id,
    )  # fmt: skip


def test_an_order_sent_before_the_database_was_restored_is_found_and_not_sent_again(ready, bank):
    order_from_before(ready.payout())
    assert submit(ready).status == "in_transit"
    assert len(orders(bank)) == 1


@pytest.mark.parametrize("status", [400, 422])
def test_a_refusal_of_an_order_that_the_bank_has_gives_no_money_back(ready, bank, status):
    """Two workers send at once: both looked too early, and the bank refuses the slower one."""
    payout = ready.submitted()
    client = modern_treasury.client()
    client.create_payment_order(
        external_id=payout.external_id, amount=payout.amount, key=payout.idempotency_key,
        receiving_account_id=payout.account.provider_id,
    )  # fmt: skip
    fault(bank, "error", method="POST", status=status)
    order = _send(payout, client, SYSTEM, SEASONED)
    assert order is not None
    assert order.external_id == payout.external_id
    assert ready.payout().status == "submitted"
    assert holds(ready.northwind, "PAYABLE") == usd("0")


def test_what_never_arrived_is_sent_again_under_the_same_key(ready, bank):
    fault(bank, "timeout_before", method="POST")
    with pytest.raises(Unknown):
        submit(ready)
    assert orders(bank) == []
    assert poll(ready).status == "unknown"
    assert submit(ready).status == "in_transit"
    assert len(orders(bank)) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_refusal_that_may_pass_leaves_the_money_in_transit_and_is_repeated(ready, bank, status):
    fault(bank, "error", method="POST", status=status)
    with pytest.raises(Retryable):
        submit(ready)
    assert ready.payout().status == "submitted"
    assert holds(ready.northwind, "PAYOUT_IN_TRANSIT") == usd("31,675.00")
    assert submit(ready).status == "in_transit"
    assert len(orders(bank)) == 1


def test_after_a_crash_between_call_and_commit_the_order_is_found(ready, bank):
    fault(bank, "error", method="POST", status=503)
    with pytest.raises(Retryable):
        submit(ready)
    payout = ready.payout()
    modern_treasury.client().create_payment_order(
        external_id=payout.external_id,
        amount=payout.amount,
        receiving_account_id=payout.account.provider_id,
        key=payout.idempotency_key,
    )
    assert submit(ready).status == "in_transit"
    assert len(orders(bank)) == 1


def test_an_order_that_the_bank_refuses_fails_and_waits_for_a_person(ready, bank):
    ready.northwind.references.update(provider_id="no-such-account")
    payout = submit(ready)
    assert payout.status == "failed"
    assert holds(ready.northwind, "PAYABLE") == usd("31,675.00")
    assert ReviewItem.objects.get().kind == "payout_failed"
    assert orders(bank) == []


def deliver(rounds: int) -> OutboxStream:
    """Deliver a payout's event so often, whatever pause the relay or the circuit would make."""
    for _ in range(rounds):
        Circuit.objects.filter(open_until__isnull=False).update(open_until=timezone.now() - timedelta(days=1))
        OutboxStream.objects.filter(due_at__isnull=False).update(due_at=timezone.now() - timedelta(days=1))
        drain(groups=EVERYTHING)
    return OutboxStream.objects.get(aggregate_type="payout", group="payouts.modern_treasury")


def test_a_wrong_key_of_ours_parks_and_fails_no_payout_and_goes_on_when_it_is_right(ready, bank, settings):
    settings.MODERN_TREASURY_API_KEY = "wrong"
    assert deliver(rounds=20).parked_at is None
    circuit = Circuit.objects.get()
    assert circuit.opened_at is not None
    assert "set MODERN_TREASURY_API_KEY right" in circuit.last_error
    assert ready.payout().status == "submitted"
    assert holds(ready.northwind, "PAYOUT_IN_TRANSIT") == usd("31,675.00")
    settings.MODERN_TREASURY_API_KEY = "key"
    deliver(rounds=1)
    assert ready.payout().status == "in_transit"
    assert Circuit.objects.get().opened_at is None
    assert len(orders(bank)) == 1


def test_a_circuit_that_a_parked_payout_has_left_open_is_closed_by_a_poller(ready, bank, settings):
    settings.MODERN_TREASURY_API_KEY = "wrong"
    stream = deliver(rounds=6)
    park_stream(stream=stream, actor=SYSTEM, at=SEASONED, reason="looked at by hand")
    settings.MODERN_TREASURY_API_KEY = "key"
    deliver(rounds=2)
    assert Circuit.objects.get().opened_at, "nothing in the lane asks"
    poll_incoming_payments(actor=SYSTEM, at=SEASONED)
    assert Circuit.objects.get().opened_at is None
    assert (ready.payout().status, orders(bank)) == ("submitted", [])


@pytest.mark.parametrize("status", [429, 503])
def test_a_bank_that_answers_looks_and_takes_no_orders_parks_not_even_a_payout_alone(ready, bank, status):
    fault(bank, "error", method="POST", status=status, count=20)
    stream = deliver(rounds=20)
    assert (stream.parked_at, stream.attempts) == (None, 4)
    assert Circuit.objects.get().opened_at is not None
    assert (ready.payout().status, orders(bank)) == ("submitted", [])
    deliver(rounds=1)
    assert ready.payout().status == "in_transit"
    assert Circuit.objects.get().opened_at is None
    assert len(orders(bank)) == 1


def test_a_bank_that_is_away_parks_not_even_a_payout_alone(ready, bank, settings):
    there = settings.MODERN_TREASURY_BASE_URL
    settings.MODERN_TREASURY_BASE_URL = "http://127.0.0.1:9/modern-treasury"
    stream = deliver(rounds=20)
    assert (stream.parked_at, stream.attempts) == (None, 4)
    settings.MODERN_TREASURY_BASE_URL = there
    deliver(rounds=1)
    assert ready.payout().status == "in_transit"
    assert len(orders(bank)) == 1


def test_a_cancelled_payout_is_never_sent(ready, bank):
    services.cancel_payout(payout=ready.payout(), actor=SYSTEM, at=SEASONED)
    drain(groups=EVERYTHING)
    assert orders(bank) == []
    assert holds(ready.northwind, "PAYABLE") == usd("31,675.00")
    assert not OutboxStream.objects.filter(parked_at__isnull=False).exists()


def test_a_payment_that_fails_at_the_bank_puts_the_money_back(ready, bank):
    open_account(bank, ready, "111111110")
    submit(ready)
    bank.settle()
    payout = poll(ready)
    assert (payout.status, payout.failure_code) == ("failed", "failed")
    assert holds(ready.northwind, "PAYABLE") == usd("31,675.00")


def test_a_return_days_later_is_found_by_polling(ready, bank):
    open_account(bank, ready, "10003")
    submit(ready)
    bank.settle()
    assert poll(ready).status == "paid"
    bank.at("2027-04-30T00:00:00Z")
    bank.settle()
    payout = poll(ready)
    assert (payout.status, payout.failure_code) == ("returned", "R03")
    assert holds(ready.northwind, "PAYABLE") == usd("31,675.00")


def webhook(bank, kind: str, id_: str, copies: int = 3) -> None:
    name = f"modern_treasury.{kind}"
    for n in range(copies):
        hint = {"provider": "modern_treasury", "object_id": id_, "delivery_id": str(n), "event": "updated"}
        append(name, id_, f"{name}_changed", hint, at=SEASONED, actor=SYSTEM)


def test_webhooks_told_three_times_change_things_once(ready, bank):
    payout = submit(ready)
    bank.settle()
    returned = bank.control.post(
        f"/modern-treasury/payment-orders/{payout.provider_id}/return", json={"code": "R03"}
    )
    assert returned.status_code == 200, returned.text
    webhook(bank, "return", bank.effects()["modern_treasury"]["return"][0]["id"])
    webhook(bank, "payment_order", payout.provider_id)
    drain(groups=EVERYTHING)
    assert ready.payout().status == "returned"
    assert holds(ready.northwind, "PAYABLE") == usd("31,675.00")
    assert ReviewItem.objects.filter(kind="payout_returned").count() == 1


def test_an_order_that_we_did_not_make_is_shown_to_a_person(ready, bank):
    order = modern_treasury.client().create_payment_order(
        external_id="by-hand",
        amount=usd("5.00"),
        receiving_account_id=ready.payout().account.provider_id,
        key="by-hand",
    )
    services.read_order(order_id=order.id, actor=SYSTEM, at=SEASONED)
    assert ReviewItem.objects.get().kind == "unknown_payment_order"


def test_looks_become_rarer_and_end_ninety_days_after_payment(ready, bank):
    submit(ready)
    bank.settle()
    poll(ready)
    services.poll_payouts(at=SEASONED, actor=SYSTEM)
    payout = ready.payout()
    assert payout.status == "paid"
    assert payout.next_poll_at is not None
    Payout.objects.filter(pk=payout.pk).update(
        watched_since=timezone.now() - timedelta(days=4), next_poll_at=timezone.now()
    )
    services.poll_payouts(at=SEASONED, actor=SYSTEM)
    assert ready.payout().next_poll_at > timezone.now() + timedelta(hours=23)
    Payout.objects.filter(pk=payout.pk).update(next_poll_at=timezone.now())
    services.poll_payouts(at=SEASONED + timedelta(days=91), actor=SYSTEM)
    assert ready.payout().next_poll_at is None


def test_poll_now_asks_the_bank_without_waiting(ready, bank):
    payout = submit(ready)
    bank.settle()
    assert services.request_poll(payout=payout, actor=SYSTEM, at=SEASONED)
    assert ready.payout().status == "in_transit"
    drain(groups=EVERYTHING)
    assert ready.payout().status == "paid"


def test_poll_now_on_a_settlement_asks_about_each_of_its_payouts(ready, bank):
    payout = submit(ready)
    bank.settle()
    settlement = payout.items.get().leg.settlement
    services.request_settlement_poll(settlement=settlement, actor=SYSTEM, at=SEASONED)
    drain(groups=EVERYTHING)
    assert ready.payout().status == "paid"


def test_a_silent_bank_is_remembered_and_asked_again(ready, bank):
    submit(ready)
    fault(bank, "error", method="GET", status=503)
    payout = poll(ready)
    assert payout.status == "in_transit"
    assert "503" in payout.last_error
    bank.settle()
    assert poll(ready).status == "paid"


def test_the_command_looks_at_the_bank_now(ready, bank, capsys):
    submit(ready)
    bank.settle()
    Payout.objects.filter(next_poll_at__isnull=False).update(next_poll_at=timezone.now())
    call_command("payouts_advance", "--json")
    assert json.loads(capsys.readouterr().out) == {"policies": 0, "orders": 1}
    assert ready.payout().status == "paid"


def three_at_the_bank(ready):
    """Three payouts that the bank has, whose next look has come."""
    submit(ready)
    for _ in range(2):
        ready.settle()
        ready.release()
        submit(ready)
    due = timezone.now() - timedelta(seconds=1)
    assert Payout.objects.filter(status="in_transit").update(next_poll_at=due, polls=0) == 3


def looks():
    return sum(Payout.objects.values_list("polls", flat=True))


def test_a_paused_line_is_not_polled_nor_an_open_one_that_the_relay_has_something_for(ready, bank):
    three_at_the_bank(ready)
    pause_lane(lane="modern_treasury", actor=SYSTEM, at=SEASONED, reason="does harm")
    assert (tasks.poll(), looks()) == (0, 0), "asked although the line is paused"
    due = timezone.now() - timedelta(seconds=1)
    Circuit.objects.update(paused_at=None, paused_reason="", opened_at=due, open_until=due)
    stream = OutboxStream.objects.filter(lane="modern_treasury").first()
    OutboxStream.objects.filter(pk=stream.pk).update(due_at=due, pending_since=due)
    assert (tasks.poll(), looks()) == (0, 0), "asked although the circuit is open"
    assert Circuit.objects.get().open_until == due, "took the probe"
    OutboxStream.objects.filter(lane="modern_treasury").update(due_at=None, pending_since=None)
    assert (tasks.poll(), looks()) == (3, 3)
    assert Circuit.objects.get().opened_at is None, "nobody else would have asked"


def test_a_poller_stops_at_the_first_look_that_finds_nobody_there(ready, bank):
    three_at_the_bank(ready)
    fault(bank, "error", method="GET", status=503, count=1)
    assert (tasks.poll(), looks()) == (0, 1)
    assert Payout.objects.exclude(last_error="").count() == 1
    Payout.objects.filter(polls=1).update(next_poll_at=timezone.now())
    assert (tasks.poll(), looks()) == (3, 4), "those that were not asked about have lost their look"
