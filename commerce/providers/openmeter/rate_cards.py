"""Rate cards: what one item of a subscription costs, in OpenMeter's words.

A flat fee is for the whole line: OpenMeter has no quantity there. Metered usage has a unit, a tiered
or a package price. `bills_as` tells whether an item that was read back is billed exactly as a card.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from commerce.providers.openmeter.wire import NUMERIC, Json, decimal

ZERO = Decimal(0)
PaymentTerm = Literal["in_advance", "in_arrears"]


@dataclass(frozen=True)
class UnitPrice:
    """A price per metered unit."""

    amount: Decimal

    def as_json(self) -> Json:
        return {"type": "unit", "amount": decimal(self.amount)}


@dataclass(frozen=True)
class Tier:
    """Up to and including `up_to` units, None for the open last one: `unit` each, and `flat` once."""

    up_to: Decimal | None
    unit: Decimal
    flat: Decimal = ZERO

    def as_json(self) -> Json:
        # One component must be there, so a tier that is free says that a unit costs nothing.
        unit = {"type": "unit", "amount": decimal(self.unit)} if self.unit or not self.flat else None
        flat = {"type": "flat", "amount": decimal(self.flat)} if self.flat else None
        top = {} if self.up_to is None else {"upToAmount": decimal(self.up_to)}
        return {**top, "flatPrice": flat, "unitPrice": unit}


@dataclass(frozen=True)
class TieredPrice:
    """Graduated: each tier prices the units that fall into it. Volume: the tier reached prices all."""

    mode: Literal["graduated", "volume"]
    tiers: tuple[Tier, ...]

    def as_json(self) -> Json:
        return {"type": "tiered", "mode": self.mode, "tiers": [tier.as_json() for tier in self.tiers]}


@dataclass(frozen=True)
class PackagePrice:
    """A price per started package of `size` units."""

    amount: Decimal
    size: Decimal

    def as_json(self) -> Json:
        return {"type": "package", "amount": decimal(self.amount), "quantityPerPackage": decimal(self.size)}


@dataclass(frozen=True)
class FlatFee:
    """A fee per period, or once when `cadence` is None. `amount` None is free; `percentage` is off it."""

    key: str
    name: str
    amount: Decimal | None
    payment_term: PaymentTerm = "in_arrears"
    cadence: str | None = "P1M"
    feature_key: str = ""
    percentage: Decimal = ZERO

    def as_json(self) -> Json:
        price: Json | None = None
        if self.amount is not None:
            price = {"type": "flat", "amount": decimal(self.amount), "paymentTerm": self.payment_term}
        card: Json = {"type": "flat_fee", "key": self.key, "name": self.name, "billingCadence": self.cadence}
        if self.feature_key:
            card["featureKey"] = self.feature_key
        return {**card, "price": price, **_discounts(self.percentage, ZERO)}


@dataclass(frozen=True)
class UsageFee:
    """A price for metered units, billed in arrears. The key is the feature's key.

    First `free_units` are taken off the quantity, then `percentage` off the price, then what is
    above `maximum`; what is missing to `minimum` is added last.
    """

    key: str
    name: str
    price: UnitPrice | TieredPrice | PackagePrice
    cadence: str = "P1M"
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    percentage: Decimal = ZERO
    free_units: Decimal = ZERO

    def as_json(self) -> Json:
        price = self.price.as_json()
        if self.minimum is not None:
            price["minimumAmount"] = decimal(self.minimum)
        if self.maximum is not None:
            price["maximumAmount"] = decimal(self.maximum)
        return {
            "type": "usage_based",
            "key": self.key,
            "featureKey": self.key,
            "name": self.name,
            "billingCadence": self.cadence,
            "price": price,
            **_discounts(self.percentage, self.free_units),
        }


RateCard = FlatFee | UsageFee


def carries(percentage: Decimal) -> bool:
    """Whether a percentage survives the wire: there, and only there, a number is a JSON number."""
    return 0 <= percentage <= 100 and Decimal(repr(float(percentage))) == percentage


def bills_as(item: Json, card: RateCard) -> bool:
    """Whether an item as OpenMeter shows it costs exactly what `card` says; its name may differ."""
    wanted = card.as_json()
    return all(
        _canonical(item.get(name)) == _canonical(wanted.get(name))
        for name in ("billingCadence", "featureKey", "price", "discounts")
    )


def _discounts(percentage: Decimal, free_units: Decimal) -> Json:
    found: Json = {}
    if percentage:
        if not carries(percentage):
            raise ValueError(f"{percentage} % has more digits than the wire carries.")
        found["percentage"] = {"percentage": float(percentage)}
    if free_units:
        found["usage"] = {"quantity": decimal(free_units)}
    return {"discounts": found} if found else {}


def _canonical(value: Any) -> Any:
    """Numbers by value, whatever their digits; what is absent, null or the default is the same."""
    if isinstance(value, dict):
        named = {name: _canonical(one) for name, one in value.items()}
        if named.get("type") == "flat" and named.get("paymentTerm") == "in_advance":
            del named["paymentTerm"]
        return {name: one for name, one in named.items() if one is not None} or None
    if isinstance(value, list):
        return [_canonical(one) for one in value]
    if isinstance(value, float):
        return Decimal(repr(value))
    return Decimal(value) if isinstance(value, str) and NUMERIC.fullmatch(value) else value
