"""What a quantity costs in one billing period, by price model: exact minor units, not yet rounded.

`share` is the part of the full period that was served. It scales what a recurring line costs by the
caller's hand; here it only scales what bounds a price (tiers, included units, minimum and maximum), and
that only where the price says so.
"""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from math import ceil

from commerce.money import exponent, round_half_up
from contracts.rules.state import Price, Tier, evolve

WHOLE = Fraction(1)
# A rate and a share have more digits between them than decimals keep by default.
_WIDE = Context(prec=50)


@dataclass(frozen=True)
class TierPart:
    """What one tier contributes: units counted at it, and exact minor units with its flat amount."""

    tier: Tier
    units: Fraction
    minor: Fraction


def charge(price: Price, quantity: Decimal | Fraction | int, share: Fraction = WHOLE) -> Fraction:
    """What `quantity` units cost, before the period's minimum and maximum."""
    scale = share if price.prorate_bounds else WHOLE
    units = max(Fraction(0), Fraction(quantity) - Fraction(price.included) * scale)
    rate = Fraction(price.minor_rate)
    if price.model == "flat":
        return rate
    if price.model == "graduated":
        return sum((part.minor for part in graduated(price, units, scale)), Fraction(0))
    if price.model == "volume":
        return volume(price, units, scale).minor
    if price.model == "package" and price.package_size:
        return rate * ceil(units / Fraction(price.package_size))
    return rate * units


def graduated(price: Price, units: Fraction, scale: Fraction = WHOLE) -> list[TierPart]:
    """Each tier's part of `units`; a flat amount is owed once its tier is reached, the first one's always."""
    parts: list[TierPart] = []
    below = Fraction(0)
    for tier in price.tiers:
        if parts and units <= below:
            break
        upper = _upper(tier, scale)
        within = units - below if upper is None else min(units, upper) - below
        parts.append(_part(price, tier, within))
        below = upper if upper is not None else units
    return parts


def volume(price: Price, units: Fraction, scale: Fraction = WHOLE) -> TierPart:
    """All of `units` at the tier that they reach; more units may cost less."""
    for tier in price.tiers:
        upper = _upper(tier, scale)
        if upper is None or units <= upper:
            break
    return _part(price, tier, units)


def within_bounds(price: Price, minor: Fraction, share: Fraction = WHOLE) -> Fraction:
    """The period's charge, not below the price's minimum nor above its maximum."""
    return at_most(price, at_least(price, minor, share), share)


def at_least(price: Price, minor: Fraction, share: Fraction = WHOLE) -> Fraction:
    """The period's charge, not below the price's minimum."""
    if price.min_minor is None:
        return minor
    return max(minor, price.min_minor * (share if price.prorate_bounds else WHOLE))


def at_most(price: Price, minor: Fraction, share: Fraction = WHOLE) -> Fraction:
    """The period's charge, not above the price's maximum."""
    if price.max_minor is None:
        return minor
    return min(minor, price.max_minor * (share if price.prorate_bounds else WHOLE))


def uplifted(price: Price, share: Decimal) -> Price:
    """The price raised by `share` (0.035 is 3.5 %), each rate rounded to the digits that it had.

    A rate has at least the digits of its currency; included units and the sizes of tiers stay.
    """

    def rate(value: Decimal) -> Decimal:
        raised = _WIDE.multiply(value, 1 + share)
        return _round_rate(raised, max(exponent(price.currency), _digits(value)))

    def minor(value: int | None) -> int | None:
        return None if value is None else round_half_up(Decimal(value) * (1 + share))

    return evolve(
        price,
        rate=rate(price.rate),
        tiers=tuple(
            Tier(tier.up_to, rate(tier.rate), round_half_up(Decimal(tier.flat_minor) * (1 + share)))
            for tier in price.tiers
        ),
        min_minor=minor(price.min_minor),
        max_minor=minor(price.max_minor),
    )


def early_fee(monthly_minor: int, months: Fraction, share: Decimal) -> int:
    """`share` of what the remaining `months` would have cost, in minor units."""
    return round_half_up(monthly_minor * months * Fraction(share))


def credit(posted_minor: int, retained_minor: int, adjusted_minor: int = 0) -> int:
    """What a posted line gives back when only `retained_minor` of it is owed: zero or less.

    A line never gives back more than is left of it after adjustments (`adjusted_minor`, zero or less).
    """
    left = max(0, posted_minor + adjusted_minor)
    return -min(max(0, posted_minor - retained_minor), left)


def _part(price: Price, tier: Tier, units: Fraction) -> TierPart:
    rate = Fraction(tier.rate) * 10 ** exponent(price.currency)
    return TierPart(tier, units, rate * units + tier.flat_minor)


def _upper(tier: Tier, scale: Fraction) -> Fraction | None:
    return None if tier.up_to is None else Fraction(tier.up_to) * scale


def _digits(rate: Decimal) -> int:
    return max(0, -int(rate.normalize().as_tuple().exponent))


def _round_rate(rate: Decimal, digits: int) -> Decimal:
    return rate.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP, context=_WIDE)
