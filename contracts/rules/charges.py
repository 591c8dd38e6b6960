"""What a quantity costs in one billing period, by price model: exact minor units, not yet rounded.

`share` is the part of the full period that was served. It scales what a recurring line costs by the
caller's hand; here it only scales what bounds a price (tiers, included units, minimum and maximum), and
that only where the price says so. `part` is what one of several prices has of a period that they share:
it scales bounds otherwise, and flat amounts.
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
_FINEST = Decimal("1e-12")


@dataclass(frozen=True)
class TierPart:
    """What one tier contributes: units counted at it, and exact minor units with its flat amount."""

    tier: Tier
    units: Fraction
    minor: Fraction


def charge(
    price: Price, quantity: Decimal | Fraction | int, share: Fraction = WHOLE, part: Fraction = WHOLE
) -> Fraction:
    """What `quantity` units cost, before the period's minimum and maximum."""
    scale = _scale(price, share, part)
    units = max(Fraction(0), Fraction(quantity) - Fraction(price.included) * scale)
    rate = Fraction(price.minor_rate)
    if price.model == "flat":
        return rate * part
    if price.model == "graduated":
        return sum((one.minor for one in graduated(price, units, scale, part)), Fraction(0))
    if price.model == "volume":
        return volume(price, units, scale, part).minor
    if price.model == "package" and price.package_size:
        return rate * ceil(units / Fraction(price.package_size))
    return rate * units


def graduated(
    price: Price, units: Fraction, scale: Fraction = WHOLE, part: Fraction = WHOLE
) -> list[TierPart]:
    """Each tier's part of `units`; a flat amount is owed once its tier is reached, the first one's always."""
    parts: list[TierPart] = []
    below = Fraction(0)
    for tier in price.tiers:
        if parts and units <= below:
            break
        upper = _upper(tier, scale)
        within = units - below if upper is None else min(units, upper) - below
        parts.append(_part(price, tier, within, part))
        below = upper if upper is not None else units
    return parts


def volume(price: Price, units: Fraction, scale: Fraction = WHOLE, part: Fraction = WHOLE) -> TierPart:
    """All of `units` at the tier that they reach; more units may cost less."""
    for tier in price.tiers:
        upper = _upper(tier, scale)
        if upper is None or units <= upper:
            break
    return _part(price, tier, units, part)


def within_bounds(price: Price, minor: Fraction, share: Fraction = WHOLE) -> Fraction:
    """The period's charge, not below the price's minimum nor above its maximum."""
    return at_most(price, at_least(price, minor, share), share)


def at_least(price: Price, minor: Fraction, share: Fraction = WHOLE, part: Fraction = WHOLE) -> Fraction:
    """The period's charge, not below the price's minimum."""
    if price.min_minor is None:
        return minor
    return max(minor, price.min_minor * _scale(price, share, part))


def at_most(price: Price, minor: Fraction, share: Fraction = WHOLE, part: Fraction = WHOLE) -> Fraction:
    """The period's charge, not above the price's maximum."""
    if price.max_minor is None:
        return minor
    return min(minor, price.max_minor * _scale(price, share, part))


def uplifted(price: Price, share: Decimal) -> Price:
    """The price with every amount raised by `share` (0.035 is 3.5 %); included units and tiers' sizes stay.

    Rates have twelve places, for money is rounded on its line; flat amounts and bounds are whole minor units.
    """

    def rate(value: Decimal) -> Decimal:
        raised = _WIDE.multiply(value, 1 + share)
        return raised.quantize(_FINEST, rounding=ROUND_HALF_UP, context=_WIDE).normalize(_WIDE)

    def minor(value: int) -> int:
        return round_half_up(Decimal(value) * (1 + share))

    return evolve(
        price,
        rate=rate(price.rate),
        tiers=tuple(
            evolve(tier, rate=rate(tier.rate), flat_minor=minor(tier.flat_minor)) for tier in price.tiers
        ),
        min_minor=None if price.min_minor is None else minor(price.min_minor),
        max_minor=None if price.max_minor is None else minor(price.max_minor),
    )


def rises_over(old: Price, new: Price, cap: Decimal) -> bool:
    """Whether any amount rises by more than `cap`; a price of another model or shape is never within it."""
    if (old.model, old.package_size, len(old.tiers)) != (new.model, new.package_size, len(new.tiers)):
        return True
    if new.included < old.included or (old.max_minor is not None and new.max_minor is None):
        return True
    pairs = [(old.rate, new.rate)]
    for was, will in zip(old.tiers, new.tiers, strict=True):
        if was.up_to != will.up_to:
            return True
        pairs += [(was.rate, will.rate), (Decimal(was.flat_minor), Decimal(will.flat_minor))]
    pairs.append((Decimal(old.min_minor or 0), Decimal(new.min_minor or 0)))
    pairs.append((Decimal(old.max_minor or 0), Decimal((old.max_minor and new.max_minor) or 0)))
    return any(will > was * (1 + cap) for was, will in pairs)


def early_fee(monthly_minor: int, months: Fraction, share: Decimal) -> int:
    """`share` of what the remaining `months` would have cost, in minor units."""
    return round_half_up(monthly_minor * months * Fraction(share))


def credit(posted_minor: int, retained_minor: int, adjusted_minor: int = 0) -> int:
    """What a posted line gives back when only `retained_minor` of it is owed: zero or less.

    A line never gives back more than is left of it after adjustments (`adjusted_minor`, zero or less).
    """
    left = max(0, posted_minor + adjusted_minor)
    return -min(max(0, posted_minor - retained_minor), left)


def _scale(price: Price, share: Fraction, part: Fraction) -> Fraction:
    return share if price.prorate_bounds else part


def _part(price: Price, tier: Tier, units: Fraction, part: Fraction) -> TierPart:
    rate = Fraction(tier.rate) * 10 ** exponent(price.currency)
    return TierPart(tier, units, rate * units + tier.flat_minor * part)


def _upper(tier: Tier, scale: Fraction) -> Fraction | None:
    return None if tier.up_to is None else Fraction(tier.up_to) * scale
