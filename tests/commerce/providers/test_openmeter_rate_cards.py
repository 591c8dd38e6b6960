"""Rate cards on the wire: OpenMeter takes every one, and what it shows is compared exactly."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from commerce.errors import Rejected
from commerce.providers import openmeter
from commerce.providers.openmeter import (
    Feature,
    FlatFee,
    Meter,
    OpenMeter,
    PackagePrice,
    RateCard,
    SubscriptionItem,
    Tier,
    TieredPrice,
    UnitPrice,
    UsageFee,
    carries,
)
from tests.commerce.conftest import Sandbox

START = datetime(2027, 3, 1, tzinfo=UTC)
TIERS = (
    Tier(Decimal("100"), Decimal("0")),
    Tier(Decimal("1000.5"), Decimal("0.0125"), Decimal("5")),
    Tier(None, Decimal("0"), Decimal("40")),
)
GRADUATED = UsageFee("burst", "Graduated", TieredPrice("graduated", TIERS))
CARDS: list[RateCard] = [
    FlatFee("line", "Free", None),
    FlatFee("line", "Arrears", Decimal("36000.00"), feature_key="line"),
    FlatFee("line", "Advance", Decimal("36000"), payment_term="in_advance"),
    FlatFee("line", "Once", Decimal("1500"), payment_term="in_advance", cadence=None),
    FlatFee("line", "A tenth off", Decimal("100"), percentage=Decimal("10")),
    FlatFee("line", "Many digits", Decimal("0.123456789012"), percentage=Decimal("14.5125")),
    UsageFee("burst", "Unit", UnitPrice(Decimal("2.00"))),
    UsageFee("burst", "Package", PackagePrice(Decimal("10"), Decimal("20"))),
    GRADUATED,
    UsageFee("burst", "Volume", TieredPrice("volume", TIERS)),
    UsageFee("burst", "Bounds", UnitPrice(Decimal("2")), minimum=Decimal("50"), maximum=Decimal("99.99")),
    UsageFee("burst", "Off", UnitPrice(Decimal("2")), percentage=Decimal("12.5"), free_units=Decimal("7.5")),
]


@pytest.fixture
def client(sandbox: Sandbox) -> OpenMeter:
    client = openmeter.client()
    client.ensure_customer(key="acme", name="Acme", currency="USD")
    client.ensure_meter(Meter("device_hours", "device_hour", "$.hours"))
    client.ensure_feature(Feature("burst", "Burst hours", "device_hours"))
    client.ensure_feature(Feature("line", "A line"))
    return client


def item(client: OpenMeter, card: RateCard) -> SubscriptionItem:
    """The card, billed and read back."""
    made = client.create_subscription(
        customer_key="acme",
        name="C-1",
        currency="USD",
        rate_cards=[card],
        metadata={},
        timing="immediate",
        billing_anchor=START,
    )
    found = client.subscription(made.id)
    assert found
    [one] = found.current_items
    return one


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_that_is_read_back_is_itself_and_no_other(client: OpenMeter, card: RateCard) -> None:
    shown = item(client, card)
    assert [other.name for other in CARDS if shown.bills_as(other)] == [card.name]


def test_digits_and_names_make_no_difference_and_prices_do(client: OpenMeter) -> None:
    shown = item(client, GRADUATED)
    same = replace(GRADUATED, name="Renamed", price=TieredPrice("graduated", tuple(map(padded, TIERS))))
    assert shown.bills_as(same)
    for index, one in enumerate(TIERS):
        for changed in (
            replace(one, unit=one.unit + Decimal("0.000000000001")),
            replace(one, flat=one.flat + 1),
        ):
            tiers = (*TIERS[:index], changed, *TIERS[index + 1 :])
            assert not shown.bills_as(replace(GRADUATED, price=TieredPrice("graduated", tiers)))
    assert not shown.bills_as(replace(GRADUATED, cadence="P3M"))


def padded(tier: Tier) -> Tier:
    """The same tier with more zeros after the point."""
    return Tier(tier.up_to and tier.up_to + Decimal("0.000"), tier.unit + Decimal("0.000"), tier.flat)


def test_a_percentage_that_the_wire_would_change_is_not_sent(client: OpenMeter) -> None:
    assert carries(Decimal("33.333333333333"))
    assert carries(Decimal("14.50"))
    for wrong in ("-1", "100.01", "33.33333333333333333333"):
        assert not carries(Decimal(wrong))
        with pytest.raises(ValueError, match="digits"):
            item(client, FlatFee("line", "Off", Decimal(1), percentage=Decimal(wrong)))
    assert client.subscriptions("acme") == []


def test_tiers_that_do_not_ascend_are_refused_and_nothing_is_made(client: OpenMeter) -> None:
    with pytest.raises(Rejected):
        item(client, UsageFee("burst", "Wrong", TieredPrice("graduated", TIERS[:2])))
    assert client.subscriptions("acme") == []
