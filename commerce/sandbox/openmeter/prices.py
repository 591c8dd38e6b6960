"""What a charge comes to: detailed lines of a price, each rounded half up to the minor unit.

The order is OpenMeter's: usage discount on the quantity, the price with a line per tier, percentage
discount on each line, then the maximum, then what is missing to the minimum. A flat price is
prorated and knows only the percentage.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from typing import Any

EXPONENTS = {"JPY": 0, "KRW": 0, "CLP": 0, "VND": 0, "BHD": 3, "KWD": 3, "TND": 3}
ZERO = Decimal(0)
Tier = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One detailed line; `amount` is before what was taken off it."""

    label: str
    quantity: Decimal
    per_unit: Decimal
    amount: Decimal
    percentage: Decimal = ZERO
    over_maximum: Decimal = ZERO
    commitment: bool = False

    @property
    def discount(self) -> Decimal:
        return self.percentage + self.over_maximum

    @property
    def total(self) -> Decimal:
        return self.amount - self.discount


@dataclass(frozen=True)
class Rated:
    """The detailed lines of one line, and how much of its quantity was free."""

    parts: tuple[Part, ...]
    free: Decimal = ZERO

    @property
    def amount(self) -> Decimal:
        """Before discounts and without commitments."""
        return sum((part.amount for part in self.parts if not part.commitment), ZERO)

    @property
    def charges(self) -> Decimal:
        return sum((part.amount for part in self.parts if part.commitment), ZERO)

    @property
    def discount(self) -> Decimal:
        return sum((part.discount for part in self.parts), ZERO)

    @property
    def total(self) -> Decimal:
        return sum((part.total for part in self.parts), ZERO)


def rate(
    price: dict[str, Any], quantity: Decimal, share: Fraction, discounts: dict[str, Any], currency: str
) -> Rated:
    """`quantity` is what was metered, and `share` the part of the period that a flat price is due for."""
    percentage = Fraction(str((discounts.get("percentage") or {}).get("percentage", 0)))
    if price["type"] == "flat":
        amount = round_minor(Fraction(price["amount"]) * share, currency)
        return Rated(tuple(_discounted([Part("", Decimal(1), amount, amount)], percentage, currency)))
    free = min(quantity, Decimal((discounts.get("usage") or {}).get("quantity", "0")))
    with localcontext() as context:
        context.prec = 60
        parts = [
            Part(label, units, per_unit, round_minor(Fraction(units) * Fraction(per_unit), currency))
            for label, units, per_unit in _priced(price, quantity - free)
        ]
    parts = list(_discounted(parts, percentage, currency))
    if price.get("maximumAmount"):
        parts = list(_capped(parts, Decimal(price["maximumAmount"]), currency))
    if price.get("minimumAmount"):
        parts += _missing(parts, Decimal(price["minimumAmount"]), currency)
    return Rated(tuple(parts), free)


def round_minor(value: Fraction, currency: str) -> Decimal:
    exponent = EXPONENTS.get(currency, 2)
    scaled = value * 10**exponent
    with localcontext() as context:
        context.prec = 60
        units = (Decimal(scaled.numerator) / Decimal(scaled.denominator)).quantize(Decimal(1), ROUND_HALF_UP)
        return units.scaleb(-exponent)


def number(value: Decimal) -> str:
    """A decimal string without a fixed scale, as OpenMeter writes them: 36200, 0.5."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _priced(price: dict[str, Any], quantity: Decimal) -> Iterator[tuple[str, Decimal, Decimal]]:
    """(label, units, price of one) of every detailed line."""
    kind = price["type"]
    if kind == "unit":
        yield from [("usage in period", quantity, Decimal(price["amount"]))] if quantity else []
    elif kind == "package":
        packages = -(-Fraction(quantity) // Fraction(price["quantityPerPackage"]))
        yield from [("usage in period", Decimal(packages), Decimal(price["amount"]))] if packages else []
    elif kind == "dynamic":
        yield from [("usage in period", quantity, Decimal(price.get("multiplier", "1")))] if quantity else []
    else:
        for index, tier, units in _tiers(price, quantity):
            if tier.get("unitPrice") and units:
                yield f"usage price for tier {index}", units, Decimal(tier["unitPrice"]["amount"])
            if tier.get("flatPrice"):
                yield f"flat price for tier {index}", Decimal(1), Decimal(tier["flatPrice"]["amount"])


def _tiers(price: dict[str, Any], quantity: Decimal) -> Iterator[tuple[int, Tier, Decimal]]:
    """The tiers that the quantity reaches, with the units that each prices; at zero it is the first."""
    below = ZERO
    for index, tier in enumerate(price["tiers"], start=1):
        top = None if tier.get("upToAmount") is None else Decimal(tier["upToAmount"])
        last = top is None or quantity <= top
        if price["mode"] == "graduated":
            yield index, tier, (quantity if last or top is None else top) - below
        elif last:
            yield index, tier, quantity
        if last:
            return
        below = top or ZERO


def _discounted(parts: list[Part], percentage: Fraction, currency: str) -> Iterator[Part]:
    for part in parts:
        off = round_minor(Fraction(part.amount) * percentage / 100, currency)
        yield replace(part, percentage=off) if off else part


def _capped(parts: list[Part], maximum: Decimal, currency: str) -> Iterator[Part]:
    billed = ZERO
    for part in parts:
        over = min(part.total, max(ZERO, billed + part.total - maximum))
        part = replace(part, over_maximum=round_minor(Fraction(over), currency)) if over else part
        billed += part.total
        yield part


def _missing(parts: list[Part], minimum: Decimal, currency: str) -> Iterator[Part]:
    """The minimum counts what is left after discounts."""
    missing = minimum - sum((part.total for part in parts), ZERO)
    if missing > 0:
        amount = round_minor(Fraction(missing), currency)
        yield Part("minimum spend", Decimal(1), amount, amount, commitment=True)
