"""Discounts on a period's lines: what each takes off, how long it lasts, and who pays for it.

On a line free units come off the quantity first, then percents in stack order, each of what the ones
before it left, then fixed amounts, shared over the lines by largest remainder. No line goes below zero.
Amounts are minor units; every part is rounded once.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

from commerce.money import allocate, round_half_up
from contracts.rules.charges import charge
from contracts.rules.periods import add_months
from contracts.rules.state import Discount, Price


def share_off(discount: Discount, at: datetime) -> Decimal:
    """The share that a percent discount or a ramp takes off at `at`; 0 for the other kinds."""
    if discount.kind == "percent":
        return discount.percent
    reached = [step for step in discount.ramp if _step_at(discount, step.from_month) <= at]
    return max(reached, key=lambda step: step.from_month).percent if reached else Decimal(0)


def steps(discount: Discount) -> list[datetime]:
    """The instants at which a ramp changes."""
    return [_step_at(discount, step.from_month) for step in discount.ramp]


def free_share(price: Price, quantity: Fraction, units: Fraction) -> Fraction:
    """The part of a line's charge that `units` of its `quantity` make up when they cost nothing.

    None where fewer cost more, as they may by volume.
    """
    whole, rest = charge(price, quantity), charge(price, max(Fraction(0), quantity - units))
    return 1 - rest / whole if rest < whole else Fraction(0)


def percents_off(net_minor: int, slices: Sequence[tuple[Fraction, Sequence[Fraction]]]) -> list[int]:
    """What each discount takes off `net_minor`, in stack order.

    A slice is a part of the line (parts add up to one) with the share that each discount takes off it.
    """
    count = len(slices[0][1]) if slices else 0
    left, off = net_minor, []
    remaining = [net_minor * part for part, _ in slices]
    for discount in range(count):
        exact = Fraction(0)
        for i, (_, shares) in enumerate(slices):
            taken = remaining[i] * Fraction(shares[discount])
            remaining[i] -= taken
            exact += taken
        off.append(min(round_half_up(exact), left))
        left -= off[-1]
    return off


def fixed_off(amount_minor: int, nets: Sequence[int]) -> list[int]:
    """A fixed amount shared over lines by what is left of them; never more than that.

    By volume a later charge of a count may be below zero: it bears nothing.
    """
    amount = min(amount_minor, sum(nets))
    return allocate(amount, [max(0, net) for net in nets]) if amount > 0 else [0] * len(nets)


def funded(minor: int, seller_share: Decimal) -> tuple[int, int]:
    """(the seller's part, the platform's part) of a discount."""
    seller, platform = allocate(minor, [seller_share, 1 - seller_share])
    return seller, platform


def _step_at(discount: Discount, month: int) -> datetime:
    return add_months(discount.since, month - 1)
