"""OpenMeter's items after each operation of a contract, and what stays ours because it has no word for it."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from billing import services
from billing.models import BillingAccount, Invoice, SubscriptionSync
from billing.services.rate_cards import item_key
from billing.services.subscriptions import customer_key
from commerce.ids import uuid7
from commerce.parties.models import Organization
from contracts import services as contracts
from contracts.services import take_effect_due
from tests.billing.conftest import (
    APRIL,
    CUT,
    MARCH,
    SYSTEM,
    Deal,
    OpenMeter,
    World,
    line_keys,
    now,
    parked,
    waiting,
    work,
)

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


@pytest.fixture
def to(openmeter: OpenMeter) -> Callable[[datetime], None]:
    """Move everybody's clock, let what is due take effect, and deliver everything."""

    def move(at: datetime) -> None:
        openmeter.at(at)
        take_effect_due(at=now())
        openmeter.tell()

    return move


def items(openmeter: OpenMeter, sync: SubscriptionSync) -> dict[str, dict[str, Any]]:
    """The priced items that a subscription serves now, by key."""
    found = openmeter.sandbox.om.get(f"/subscriptions/{sync.subscription_id}").json()
    current = (item for phase in found["phases"] for item in phase["items"] if not item.get("activeTo"))
    return {item["key"]: item for item in current if item.get("price")}


def subscriptions(openmeter: OpenMeter, sync: SubscriptionSync) -> list[dict[str, Any]]:
    found = openmeter.sandbox.om.get(f"/customers/{sync.customer_key}/subscriptions").json()["items"]
    return sorted(found, key=lambda one: (one["activeFrom"], one["status"] != "inactive"))


def add(deal: Deal, world: World, product: str, price: dict[str, Any], **more: Any) -> str:
    """A line of Northwind's more; the key of its item."""
    line_id = uuid7()
    payload = {"line_id": str(line_id), "product": product, "seller_id": str(world.northwind.pk)}
    deal.edit("add_product", {**payload, "price": price, **more})
    work()
    return item_key(line_id)


TIERS = [
    {"up_to": "100", "rate": "0"},
    {"up_to": "1000", "rate": "2", "flat_minor": 5000},
    {"up_to": None, "rate": "1.5"},
]


def test_a_tiered_line_is_metered_by_its_tiers(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    price = {"model": "graduated", "tiers": TIERS, "included": "10", "min_minor": 10000, "max_minor": 900000}
    key = add(deal, world, "h100-burst", price)
    item = items(openmeter, deal.sync)[key]
    assert item["price"] == {
        "type": "tiered",
        "mode": "graduated",
        "minimumAmount": "100",
        "maximumAmount": "9000",
        "tiers": [
            {"upToAmount": "100", "flatPrice": None, "unitPrice": {"type": "unit", "amount": "0"}},
            {
                "upToAmount": "1000",
                "flatPrice": {"type": "flat", "amount": "50"},
                "unitPrice": {"type": "unit", "amount": "2"},
            },
            {"flatPrice": None, "unitPrice": {"type": "unit", "amount": "1.5"}},
        ],
    }
    assert item["discounts"] == {"usage": {"quantity": "10"}}
    assert line_keys(deal) < items(openmeter, deal.sync).keys(), "the others are as they were"
    assert openmeter.counts("subscription") == {str(deal.contract.pk): 1}


def test_recurring_lines_are_flat_for_their_quantity_by_every_model(
    openmeter: OpenMeter, world: World
) -> None:
    deal = world.live()
    volume = [{"up_to": "4", "rate": "100"}, {"up_to": None, "rate": "80", "flat_minor": 1000}]
    models: dict[str, tuple[dict[str, Any], str]] = {
        "flat": ({"model": "flat", "rate": "500"}, "500"),
        "volume": ({"model": "volume", "tiers": volume}, "410"),
        "package": ({"model": "package", "rate": "90", "package_size": "4"}, "180"),
        "included": ({"model": "unit", "rate": "100", "included": "2"}, "300"),
        "minimum": ({"model": "unit", "rate": "100", "min_minor": 60000}, "600"),
    }
    for price, amount in models.values():
        key = add(deal, world, "h100-server", price, quantity=5)
        item = items(openmeter, deal.sync)[key]
        assert item["price"] == {"type": "flat", "amount": amount, "paymentTerm": "in_arrears"}


def test_a_percentage_is_openmeters_and_a_fixed_amount_is_ours(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    percent = {"discount_id": str(uuid7()), "kind": "percent", "percent": "0.1"}
    deal.edit("apply_discount", percent)
    deal.edit("apply_discount", {**percent, "discount_id": str(uuid7()), "percent": "0.05", "stack_order": 2})
    work()
    server = items(openmeter, deal.sync)[item_key(deal.servers)]
    assert (server["price"]["amount"], server["discounts"]) == ("36000", {"percentage": {"percentage": 14.5}})
    changes = openmeter.effects("subscription_change")
    for more in (
        {"kind": "fixed_per_period", "amount": {"amount_minor": 5000, "currency": "USD"}},
        {"kind": "percent", "percent": "0.2", "funded_by": {"kind": "platform"}},
        {"kind": "ramp", "ramp": [{"from_month": 1, "percent": "0.2"}]},
    ):
        deal.edit("apply_discount", {"discount_id": str(uuid7()), "stack_order": 3, **more})
    work()
    assert openmeter.effects("subscription_change") == changes
    assert deal.sync.applied_version == deal.sync.desired_version == 9
    deal.edit("apply_discount", {"discount_id": percent["discount_id"], "mode": "end"})
    work()
    assert items(openmeter, deal.sync)[item_key(deal.burst)]["discounts"] == {"percentage": {"percentage": 5}}


def test_a_minimum_of_one_metered_line_in_each_period_is_on_its_card(
    openmeter: OpenMeter, world: World
) -> None:
    deal = world.live()
    commitment = {"commitment_id": str(uuid7()), "kind": "minimum_spend", "amount_minor": 5850000}
    deal.edit("set_commitment", {**commitment, "scope": [str(deal.burst)]})
    work()
    price = items(openmeter, deal.sync)[item_key(deal.burst)]["price"]
    assert price == {"type": "unit", "amount": "2", "minimumAmount": "58500"}
    deal.edit("set_commitment", {"commitment_id": commitment["commitment_id"], "mode": "end"})
    work()
    assert items(openmeter, deal.sync)[item_key(deal.burst)]["price"] == {"type": "unit", "amount": "2"}
    deal.edit("set_commitment", {**commitment, "commitment_id": str(uuid7()), "window": "quarter"})
    work()
    assert "minimumAmount" not in items(openmeter, deal.sync)[item_key(deal.burst)]["price"]


def test_a_hold_that_reduces_the_price_is_a_percentage_off(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    deal.edit("suspend", {"reason": "maintenance", "billing": "reduced", "reduced_to": "0.25"})
    work()
    for item in items(openmeter, deal.sync).values():
        assert item["discounts"] == {"percentage": {"percentage": 75}}
    deal.edit("resume", {"reason": "maintenance"})
    work()
    assert [item.get("discounts") for item in items(openmeter, deal.sync).values()] == [None, None]


def test_a_suspension_of_one_line_takes_out_its_item_alone(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    deal.edit("suspend", {"reason": "maintenance", "billing": "stop", "scope": [str(deal.servers)]})
    work()
    assert items(openmeter, deal.sync).keys() == {item_key(deal.burst)}


def test_what_is_charged_once_is_charged_once(
    openmeter: OpenMeter, world: World, to: Callable[[datetime], None]
) -> None:
    """Not again after a suspension, nor by the subscription of another cycle."""
    contracts.ensure_product(code="setup", name="Set-up", kind="one_off", unit="each", actor=SYSTEM)
    deal = world.live()
    key = add(deal, world, "setup", {"model": "one_off", "rate": "1500"})
    assert items(openmeter, deal.sync)[key]["billingCadence"] is None
    to(MARCH + 10 * DAY)
    deal.edit("suspend", {"reason": "maintenance", "billing": "stop"})
    work()
    deal.edit("resume", {"reason": "maintenance"})
    work()
    deal.edit("change_terms", {"billing": {"anchor_day": 15}})
    work()
    billed = [
        item
        for one in subscriptions(openmeter, deal.sync)
        for phase in openmeter.sandbox.om.get(f"/subscriptions/{one['id']}").json()["phases"]
        for item in phase["itemTimelines"].get(key, [])
    ]
    assert len(billed) == 1
    assert parked() == waiting() == []


def test_nothing_is_billed_before_the_trial_ends(
    openmeter: OpenMeter, world: World, to: Callable[[datetime], None]
) -> None:
    deal = world.live(trial={"days": 14, "on_end": "convert"})
    assert openmeter.items(deal) == {"contract"}
    to(MARCH + 14 * DAY)
    assert openmeter.items(deal) == {"contract", *line_keys(deal)}
    assert len(subscriptions(openmeter, deal.sync)) == 1


def test_another_anchor_is_another_subscription(
    openmeter: OpenMeter, world: World, to: Callable[[datetime], None]
) -> None:
    deal = world.live()
    before = deal.sync.subscription_id
    to(MARCH + 10 * DAY)
    deal.edit("change_terms", {"billing": {"anchor_day": 15}})
    work()
    old, new = subscriptions(openmeter, deal.sync)
    assert (old["id"], old["status"]) == (before, "inactive")
    assert (new["id"], new["status"]) == (deal.sync.subscription_id, "active")
    assert old["activeTo"] == new["activeFrom"] == "2027-03-11T00:00:00Z"
    assert new["alignment"]["currentAlignedBillingPeriod"]["to"] == "2027-03-15T00:00:00Z"
    assert openmeter.items(deal) == {"contract", *line_keys(deal)}
    changes = openmeter.effects("subscription_change")
    deal.edit("change_terms", {"references": {"po_number": "4711"}})
    work()
    assert openmeter.effects("subscription_change") == changes, "other terms are none of OpenMeter's"


def test_another_cadence_is_another_subscription(
    openmeter: OpenMeter, world: World, to: Callable[[datetime], None]
) -> None:
    deal = world.live()
    to(CUT)
    deal.edit("change_terms", {"billing": {"cadence": "P3M"}}, effective_at=APRIL, reason="agreed")
    work()
    new = subscriptions(openmeter, deal.sync)[-1]
    assert (new["billingCadence"], new["status"]) == ("P3M", "active")
    assert items(openmeter, deal.sync)[item_key(deal.servers)]["price"]["amount"] == "108000"


def test_an_anchor_late_in_the_month_comes_back_after_a_short_one(openmeter: OpenMeter, world: World) -> None:
    deal = world.live(billing={"anchor_day": 31, "cadence": "P1M", "when": "in_arrears"})
    [subscription] = subscriptions(openmeter, deal.sync)
    assert subscription["billingAnchor"].endswith("-31T00:00:00Z")
    assert subscription["alignment"]["currentAlignedBillingPeriod"]["to"] == "2027-03-31T00:00:00Z"


def test_a_renewal_with_uplift_changes_the_price_and_nothing_else(
    openmeter: OpenMeter, world: World, to: Callable[[datetime], None]
) -> None:
    deal = world.live()
    end = deal.contract.end_at
    assert end
    deal.edit("renew", {"mode": "new_term", "uplift": {"kind": "percent", "value": "0.035"}})
    work()
    assert items(openmeter, deal.sync)[item_key(deal.servers)]["price"]["amount"] == "36000"
    to(end)
    assert items(openmeter, deal.sync)[item_key(deal.servers)]["price"]["amount"] == "37260"
    assert [one["status"] for one in subscriptions(openmeter, deal.sync)] == ["active"]


def test_a_termination_that_is_voided_gives_a_new_subscription(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    openmeter.at(MARCH + 10 * DAY)
    deal.edit("terminate", {"cause": "mutual"})
    work()
    assert deal.sync.ended_at == MARCH + 10 * DAY
    deal.edit("correct", {"target_seq": 5, "mode": "void"}, reason="typed by mistake")
    work()
    old, new = subscriptions(openmeter, deal.sync)
    assert (old["status"], new["status"]) == ("inactive", "active")
    assert (deal.sync.subscription_id, deal.sync.ended_at) == (new["id"], None)
    assert openmeter.items(deal) == {"contract", *line_keys(deal)}


@pytest.fixture
def globex(db: None) -> Organization:
    row = Organization.objects.create(name="Globex", slug="globex", roles=["buyer"])
    Organization.objects.filter(pk=row.pk).update(onboarding_status="active")
    return row


def transfer(deal: Deal, old: Organization, new: Organization, **given: Any) -> None:
    consents = [{"party": str(one.pk), "name": one.name, "at": "2027-03-01T00:00:00Z"} for one in (old, new)]
    payload = {"party": "buyer", "new_party_id": str(new.pk), "consents": consents}
    deal.edit("transfer_ownership", payload, **given)
    work()


def test_another_owner_is_another_customer_with_the_same_anchor(
    openmeter: OpenMeter, world: World, globex: Organization, to: Callable[[datetime], None]
) -> None:
    deal = world.live()
    first = deal.sync
    to(MARCH + 15 * DAY)
    transfer(deal, world.acme, globex)
    second = deal.sync
    assert second.customer_key == customer_key(deal.contract.pk, 2) == f"contract-{deal.contract.pk}:2"
    [old], [new] = subscriptions(openmeter, first), subscriptions(openmeter, second)
    assert (old["status"], new["status"]) == ("inactive", "active")
    assert old["activeTo"] == new["activeFrom"] == "2027-03-16T00:00:00Z"
    assert old["billingAnchor"] == new["billingAnchor"]
    assert openmeter.items(deal) == {"contract", *line_keys(deal)}
    customer = openmeter.sandbox.om.get(f"/customers/{second.customer_id}").json()
    assert customer["metadata"]["organization_id"] == str(globex.pk)
    first.refresh_from_db()
    assert first.ended_at == MARCH + 15 * DAY
    changes = openmeter.effects("subscription_change")
    deal.edit("change_terms", {"references": {"po_number": "4711"}})
    work()
    assert openmeter.effects("subscription_change") == changes
    assert parked() == waiting() == []


def test_each_owner_is_invoiced_for_its_own_days(
    openmeter: OpenMeter, world: World, globex: Organization, to: Callable[[datetime], None]
) -> None:
    deal = world.live()
    to(MARCH + 15 * DAY)
    transfer(deal, world.acme, globex)
    to(MARCH + 15 * DAY + timedelta(hours=2))
    to(APRIL)
    to(CUT)
    found = list(Invoice.objects.filter(contract=deal.contract).order_by("period_start"))
    assert [(i.buyer_id, i.period_start, i.period_end) for i in found] == [
        (world.acme.pk, MARCH, MARCH + 15 * DAY),
        (globex.pk, MARCH + 15 * DAY, APRIL),
    ]
    assert all(invoice.verified_at for invoice in found)
    assert [invoice.net_minor for invoice in found] == [3600000 * 15 // 31, 3600000 - 3600000 * 15 // 31]
    accounts = BillingAccount.objects.filter(contract=deal.contract).order_by("owner_epoch")
    assert [account.buyer_id for account in accounts] == [world.acme.pk, globex.pk]
    assert accounts[0].billing_status == "settled"
    assert accounts[0].downpayment_minor == accounts[0].committed_minor == 0
    assert accounts[1].billing_status != "settled"


def test_usage_belongs_to_whoever_owned_the_contract_at_its_time(
    openmeter: OpenMeter, world: World, globex: Organization, to: Callable[[datetime], None]
) -> None:
    deal = world.live()
    to(MARCH + 15 * DAY)
    transfer(deal, world.acme, globex)
    to(MARCH + 20 * DAY)
    deal.use("5", days=14, id="late")
    deal.use("7", days=16, id="new")
    work()
    sent = {row["event"]["id"]: row["event"]["subject"] for row in openmeter.sandbox.om.get("/events").json()}
    key = customer_key(deal.contract.pk, 1)
    assert sent == {"late": key, "new": customer_key(deal.contract.pk, 2)}


def test_another_seller_changes_nothing_at_openmeter(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    Organization.objects.filter(pk=world.southwind.pk).update(onboarding_status="active")
    changes = openmeter.effects("subscription_change")
    parties = [world.northwind, world.southwind]
    consents = [{"party": str(one.pk), "name": one.name, "at": "2027-03-01T00:00:00Z"} for one in parties]
    payload = {"party": "seller", "new_party_id": str(world.southwind.pk), "consents": consents}
    deal.edit("transfer_ownership", payload)
    work()
    assert openmeter.effects("subscription_change") == changes
    assert openmeter.counts("customer") == {customer_key(deal.contract.pk, 1): 1}


def test_the_old_owners_debt_does_not_suspend_the_new_ones_contract(
    openmeter: OpenMeter, world: World, globex: Organization, to: Callable[[datetime], None]
) -> None:
    deal = world.live(fund="0", downpayment="0")
    to(MARCH + 15 * DAY)
    transfer(deal, world.acme, globex)
    for at in (MARCH + 15 * DAY + timedelta(hours=2), MARCH + 45 * DAY):
        to(at)
        services.check_due_accounts(actor=SYSTEM, at=now())
        work()
    account = BillingAccount.objects.get(contract=deal.contract, owner_epoch=1)
    assert account.billing_status in ("delinquent", "collections")
    assert deal.status == "active"
