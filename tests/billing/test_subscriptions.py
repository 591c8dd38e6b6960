"""OpenMeter follows the contract: one subscription, in step with it, whatever gets lost on the way."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connections

from billing import services
from billing.models import SubscriptionChange, SubscriptionSync
from billing.services.rate_cards import item_key
from billing.services.subscriptions import _prepare, _record, lag, line_of
from commerce.errors import Rejected, Unknown
from commerce.providers import openmeter as provider
from contracts.services import take_effect_due
from tests.billing.conftest import (
    CUT,
    MARCH,
    SYSTEM,
    OpenMeter,
    World,
    line_keys,
    now,
    parked,
    reviews,
    together,
    waiting,
    work,
)  # fmt: skip

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


def test_going_live_creates_one_customer_and_one_subscription(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    assert openmeter.counts("subscription") == {str(deal.contract.pk): 1}
    assert openmeter.counts("customer") == {f"contract-{deal.contract.pk}": 1}
    assert openmeter.items(deal) == {"contract", *line_keys(deal)}
    assert deal.sync.applied_version == deal.sync.desired_version == 4
    assert parked() == waiting() == []


def test_nothing_reaches_openmeter_before_the_contract_runs(openmeter: OpenMeter, world: World) -> None:
    world.pay_in("150,000.00")
    deal = world.signed()
    deal.edit("terminate", {"cause": "mutual"})
    work()
    assert not SubscriptionSync.objects.exists()
    assert openmeter.requests() == 0


@pytest.mark.parametrize("path", ["customers$", "subscriptions$", "features$", "meters$"])
def test_an_answer_that_was_lost_is_looked_up_and_not_sent_again(
    openmeter: OpenMeter, world: World, path: str
) -> None:
    openmeter.fault("POST", path, "timeout_after_effect", count=1)
    deal = world.live()
    assert openmeter.counts("customer") == {f"contract-{deal.contract.pk}": 1}
    assert openmeter.counts("subscription") == {str(deal.contract.pk): 1}
    assert deal.sync.applied_version == 4
    assert parked() == []


def test_a_subscription_whose_creation_was_not_answered_ends_with_the_contract(
    openmeter: OpenMeter, world: World
) -> None:
    """The worker died before it could note it, and the contract was terminated before another looked."""
    deal = world.live()
    SubscriptionSync.objects.update(subscription_id="", applied_version=0)
    deal.edit("terminate", {"cause": "mutual"})
    work()
    assert [row["status"] for row in openmeter.effects("subscription")] == ["inactive"]
    assert deal.sync.ended_at == MARCH


@pytest.mark.parametrize(("lease", "looks"), [(120, 3), (0.4, 1)], ids=["enough time", "a short lease"])
def test_a_slow_provider_is_looked_at_three_times_in_all_and_never_beyond_the_lease(
    openmeter: OpenMeter, world: World, settings: Any, lease: float, looks: int
) -> None:
    """The customer is looked for within a look at the subscription: three times, not nine."""
    world.pay_in("150,000.00")
    deal = world.signed()
    deal.edit("activate", {"stage": "live"})
    settings.PROVIDER_TIMEOUT_SECONDS = 5
    _prepare(settings.OPENMETER_BASE_URL, settings.PUBLIC_URL)
    settings.PROVIDER_TIMEOUT_SECONDS, settings.OUTBOX_LEASE_SECONDS = 0.25, lease
    openmeter.fault("POST", "customers$", "slow", delay_ms=1500, count=0)
    with pytest.raises(Unknown):
        services.sync_subscription(contract_id=deal.contract.pk, actor=SYSTEM, at=now())
    [fault] = openmeter.sandbox.control.get("/faults").json()
    assert fault["hits"] == looks
    openmeter.sandbox.control.delete("/faults")
    time.sleep(1.6)
    settings.PROVIDER_TIMEOUT_SECONDS = 5
    services.sync_subscription(contract_id=deal.contract.pk, actor=SYSTEM, at=now())
    assert openmeter.counts("customer") == {f"contract-{deal.contract.pk}": 1}
    assert openmeter.counts("subscription") == {str(deal.contract.pk): 1}


def test_a_server_error_is_tried_again(openmeter: OpenMeter, world: World) -> None:
    openmeter.fault("", "customers", "error", status=503, count=1)
    deal = world.live()
    assert openmeter.counts("subscription") == {str(deal.contract.pk): 1}
    assert parked() == []


def test_a_refusal_parks_the_stream_for_a_person(openmeter: OpenMeter, world: World) -> None:
    openmeter.fault("POST", "subscriptions$", "error", status=400, count=1)
    deal = world.live()
    assert len(parked()) == 1
    assert "contract.activated" in parked()[0]
    assert openmeter.counts("subscription") == {}
    assert deal.sync.applied_version == 0


def test_an_older_event_finds_nothing_to_do(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    changes = openmeter.effects("subscription_change")
    services.sync_subscription(contract_id=deal.contract.pk, actor=SYSTEM, at=now())
    assert openmeter.effects("subscription_change") == changes
    assert SubscriptionChange.objects.filter(contract=deal.contract).count() == 4


def test_a_quantity_changes_the_price_of_the_item(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    openmeter.at(MARCH + 10 * DAY)
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 3})
    work()
    found = openmeter.sandbox.om.get(f"/subscriptions/{deal.sync.subscription_id}").json()
    prices = {
        item["key"]: item["price"]["amount"]
        for phase in found["phases"]
        for item in phase["items"]
        if not item.get("activeTo") and item.get("price")
    }
    assert prices == {item_key(deal.servers): "54000", item_key(deal.burst): "2"}


def test_a_hold_that_stops_billing_takes_the_items_out_and_resuming_brings_them_back(
    openmeter: OpenMeter, world: World
) -> None:
    deal = world.live()
    openmeter.at(MARCH + 10 * DAY)
    deal.edit("suspend", {"reason": "maintenance", "billing": "stop"})
    work()
    assert openmeter.items(deal) == {"contract"}
    openmeter.at(MARCH + 20 * DAY)
    deal.edit("resume", {"reason": "maintenance"})
    work()
    assert openmeter.items(deal) == {"contract", *line_keys(deal)}
    assert openmeter.counts("subscription") == {str(deal.contract.pk): 1}


def test_a_hold_that_goes_on_billing_changes_nothing_there(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    changes = openmeter.effects("subscription_change")
    deal.edit("suspend", {"reason": "non_payment"})
    work()
    assert openmeter.effects("subscription_change") == changes
    assert deal.sync.applied_version == 5


def test_termination_cancels_the_subscription(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    openmeter.at(MARCH + 10 * DAY)
    deal.edit("terminate", {"cause": "mutual"})
    work()
    assert [row["status"] for row in openmeter.effects("subscription")] == ["inactive"]
    assert deal.sync.ended_at == MARCH + 10 * DAY


def test_an_edit_of_the_future_reaches_openmeter_when_it_takes_effect(
    openmeter: OpenMeter, world: World
) -> None:
    deal = world.live()
    deal.edit("terminate", {"when": "date", "cause": "mutual"}, effective_at=MARCH + 10 * DAY)
    work()
    assert [row["status"] for row in openmeter.effects("subscription")] == ["active"]
    assert not SubscriptionChange.objects.filter(version=5).exists()
    openmeter.at(MARCH + 10 * DAY)
    take_effect_due(at=now())
    work()
    assert [row["status"] for row in openmeter.effects("subscription")] == ["inactive"]
    assert SubscriptionChange.objects.get(version=5).applied_at == MARCH + 10 * DAY


def test_a_contract_whose_term_runs_out_is_cancelled_there(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    end = deal.contract.end_at
    assert end
    openmeter.at(end)
    take_effect_due(at=now())
    work()
    assert [row["status"] for row in openmeter.effects("subscription")] == ["inactive"]
    assert deal.status == "expired"


def test_two_contracts_of_one_buyer_are_two_customers(openmeter: OpenMeter, world: World) -> None:
    first, second = world.live(), world.live()
    assert openmeter.counts("subscription") == {str(first.contract.pk): 1, str(second.contract.pk): 1}


def test_a_subscription_of_another_contract_is_refused(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    other = world.live()
    found = provider.client().subscription(other.sync.subscription_id)
    with pytest.raises(Rejected, match="is not one of contract"):
        _record(deal.sync, found, 4, at=now())


@pytest.mark.parametrize(
    "key", ["", "contract", "line_", "line_" + "z" * 32, "line_" + "0" * 31, "x_" + "0" * 32]
)
def test_an_item_that_is_not_ours_has_no_line(key: str) -> None:
    assert line_of(key) is None


@pytest.mark.django_db(transaction=True)
def test_two_workers_that_start_at_once_prepare_openmeter_once(openmeter: OpenMeter) -> None:
    def prepare(number: int) -> None:
        try:
            _prepare.__wrapped__(f"{openmeter.sandbox.url}/openmeter", "http://127.0.0.1:8000")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(prepare, range(4)))
    om = openmeter.sandbox.om
    apps = [row for row in om.get("/apps").json()["items"] if row["type"] == "custom_invoicing"]
    assert len(apps) == 1
    channels = om.get("/notification/channels").json()["items"]
    assert [row["name"] for row in channels] == ["commerce"]


def test_a_delay_explains_a_difference_up_to_a_quarter_of_an_hour_and_no_more(world: World) -> None:
    """An edit that took longer was back-dated, or OpenMeter was away: a person should see what it did."""
    deal = world.draft(downpayment="0")
    end = MARCH + 31 * DAY

    def reached_after(version: int, delay: timedelta, *, effective_at: datetime = MARCH + DAY) -> timedelta:
        SubscriptionChange.objects.create(
            contract=deal.contract,
            version=version,
            effective_at=effective_at,
            applied_at=effective_at + delay,
        )
        return lag(deal.contract.pk, start=MARCH, end=end)

    longest, second = timedelta(minutes=15), timedelta(seconds=1)
    assert lag(deal.contract.pk, start=MARCH, end=end) == timedelta(0)
    assert reached_after(10, longest + second) == timedelta(0), "beyond the cap it explains nothing at all"
    assert reached_after(11, 20 * DAY) == timedelta(0)
    assert reached_after(12, -second) == timedelta(0), "planned ahead, it was there in time"
    assert reached_after(13, 5 * second) == 5 * second
    assert reached_after(14, longest) == longest
    assert reached_after(15, longest + second) == longest
    assert reached_after(16, 2 * second, effective_at=end) == longest, "the next period's is not this one's"


def test_a_change_that_openmeter_heard_of_too_late_is_for_a_person(
    openmeter: OpenMeter, world: World
) -> None:
    """Sixteen minutes without a server more: within the quarter of an hour it would go its way."""
    deal = world.live()
    openmeter.at(MARCH + 10 * DAY)
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 3})
    openmeter.at(now() + timedelta(minutes=16))
    work()
    openmeter.at(CUT)
    openmeter.tell()
    assert (deal.invoice.status, deal.invoice.verified_at) == ("draft", None)
    assert len(reviews("invoice_difference")) == 1


def test_a_change_that_openmeter_heard_of_in_time_is_not(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    openmeter.at(MARCH + 10 * DAY)
    deal.edit("change_quantity", {"line_id": str(deal.servers), "quantity": 3})
    openmeter.at(now() + timedelta(minutes=14))
    work()
    openmeter.at(CUT)
    openmeter.tell()
    assert deal.invoice.verified_at is not None
    assert reviews("invoice_difference") == []


@pytest.mark.django_db(transaction=True)
def test_syncs_of_one_contract_wait_for_each_other(openmeter: OpenMeter, world: World) -> None:
    """A change of the items, then a new cycle: each is made once, and no worker is refused for it."""
    deal = world.live()

    def sync() -> object:
        return services.sync_subscription(contract_id=deal.contract.pk, actor=SYSTEM, at=now())

    edited = len(openmeter.effects("subscription_change"))
    deal.edit("change_quantity", {"line_id": str(deal.servers), "delta": 1})
    assert [type(one) for one in together(sync, sync, sync)] == [SubscriptionSync] * 3
    assert len(openmeter.effects("subscription_change")) == edited + 1
    deal.edit("change_terms", {"billing": {"anchor_day": 15}})
    assert [type(one) for one in together(sync, sync, sync)] == [SubscriptionSync] * 3
    client = provider.client()
    running = [one for one in client.subscriptions(deal.sync.customer_key) if one.status == "active"]
    assert [one.metadata["anchor_day"] for one in running] == ["15"]
