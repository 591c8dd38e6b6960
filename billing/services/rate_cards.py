"""The rate card and the feature of a contract's line at OpenMeter."""

from decimal import Decimal
from uuid import UUID

from billing.rules.items import Item
from commerce.money import exponent
from commerce.providers import openmeter
from commerce.providers.openmeter import (
    Feature,
    FlatFee,
    Meter,
    PackagePrice,
    RateCard,
    Tier,
    TieredPrice,
    UnitPrice,
    UsageFee,
)
from contracts.rules.state import ContractState, Price
from contracts.rules.terms import Billing


def item_key(line_id: UUID) -> str:
    """The key of a line's item: letters and digits only, as OpenMeter wants them."""
    return f"line_{line_id.hex}"


def rate_card(item: Item, billing: Billing) -> RateCard:
    key = item_key(item.line_id)
    if item.kind == "metered":
        return UsageFee(
            key=key,
            name=item.name,
            price=_price(item.price),
            cadence=billing.cadence,
            minimum=item.minimum,
            maximum=item.maximum,
            percentage=item.percentage,
            free_units=item.free_units,
        )
    return FlatFee(
        key=key,
        name=item.name,
        amount=item.amount,
        payment_term="in_advance" if item.kind == "once" else billing.when,
        cadence=None if item.kind == "once" else billing.cadence,
        feature_key=key,
        percentage=item.percentage,
    )


def _price(price: Price) -> UnitPrice | TieredPrice | PackagePrice:
    if price.model in ("graduated", "volume"):
        places = exponent(price.currency)
        tiers = tuple(
            Tier(t.up_to, t.rate, Decimal(t.flat_minor).scaleb(-places).normalize()) for t in price.tiers
        )
        return TieredPrice("graduated" if price.model == "graduated" else "volume", tiers)
    if price.model == "package" and price.package_size:
        return PackagePrice(price.rate, price.package_size)
    return UnitPrice(price.rate)


def ensure_feature(state: ContractState, card: RateCard) -> None:
    """The feature ties an invoice line to ours; a usage price's has a meter that counts this line only."""
    client = openmeter.client()
    line = next(line for line in state.lines.values() if item_key(line.line_id) == card.key)
    if not isinstance(card, UsageFee):
        client.ensure_feature(Feature(key=card.key, name=line.product_code))
        return
    client.ensure_meter(
        Meter(
            slug=line.meter,
            event_type=line.meter,
            value_property="$.quantity",
            group_by={"line_id": "$.line_id"},
        )
    )
    client.ensure_feature(
        Feature(
            key=card.key, name=line.product_code, meter_slug=line.meter, filters={"line_id": line.line_id.hex}
        )
    )
