"""What OpenMeter is to bill of a contract at one instant, and what it cannot bill and we therefore do.

OpenMeter knows a price for each item, a percentage off it, free units, and a minimum and a maximum in
each period. Whatever else a contract says (fixed discounts, ramps, discounts that the platform bears,
commitments over several lines or longer windows) stays ours, and the reason is named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import prod
from typing import Literal
from uuid import UUID

from commerce.money import exponent
from contracts.rules.charges import charge, within_bounds
from contracts.rules.periods import MONTHS
from contracts.rules.state import Commitment, ContractState, Discount, LineState, Price

RUNNING = ("active", "suspended")
MOST_DIGITS = 15  # of a percentage, the one number that travels as a floating-point one


@dataclass(frozen=True)
class Item:
    """One line as OpenMeter bills it; amounts in major units, `percentage` from 0 to 100.

    flat: `amount` for a whole period; once: `amount`, one time; metered: `price` for what is used.
    """

    line_id: UUID
    name: str
    kind: Literal["flat", "once", "metered"]
    price: Price
    amount: Decimal = Decimal(0)
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    percentage: Decimal = Decimal(0)
    free_units: Decimal = Decimal(0)


@dataclass(frozen=True)
class Apart:
    """What we bill ourselves: of one line, or of several when `line_id` is None."""

    line_id: UUID | None
    reason: str


def items(state: ContractState, in_service: Mapping[UUID, int]) -> list[Item]:
    """An item for each line that earns now; none while a trial runs or a hold has stopped billing.

    `in_service` counts the units that serve now, for the lines that bill from then on.
    """
    if state.status not in RUNNING:
        return []
    found = []
    for line in state.lines.values():
        quantity = line.billable
        if line.bill_from == "in_service":
            quantity = min(quantity, in_service.get(line.line_id, 0))
        if quantity and state.bills(line):
            found.append(_item(state, line, quantity))
    return found


def apart(state: ContractState) -> list[Apart]:
    """What of the contract is not on the items, and why."""
    found = [
        Apart(line.line_id, reason)
        for discount in state.discounts.values()
        if (reason := _not_carried(discount))
        for line in state.live_lines
        if discount.covers(line.line_id)
    ]
    for commitment in state.commitments.values():
        if reason := _not_on_a_card(state, commitment):
            found.append(Apart(None, reason))
            found += [
                Apart(line.line_id, reason) for line in state.live_lines if commitment.covers(line.line_id)
            ]
    for line in state.live_lines:
        if line.kind == "usage" and _bounded(line.price) and _left(state, line) != 1:
            found.append(Apart(line.line_id, "a minimum or maximum of a price that is discounted"))
        if not _writable(_left(state, line)):
            found.append(Apart(line.line_id, "a discount with more digits than OpenMeter takes"))
    return found


def _item(state: ContractState, line: LineState, quantity: int) -> Item:
    left, free = _left(state, line), _free_units(state, line)
    percentage = ((1 - left) * 100).normalize() if _writable(left) else Decimal(0)
    if line.kind == "usage" and line.price.model != "flat":
        # OpenMeter bounds what is left after a discount, and we what it is before: then they stay ours.
        minimum, maximum = line.price.min_minor, line.price.max_minor
        committed = _committed(state, line)
        if left != 1:
            minimum = maximum = committed = None
        return Item(
            line.line_id,
            line.product_code,
            "metered",
            line.price,
            minimum=_major(line.price, minimum if committed is None else committed),
            maximum=_major(line.price, maximum),
            percentage=percentage,
            free_units=line.price.included + free,
        )
    once = line.kind == "one_off" or line.price.model == "one_off"
    months = 1 if once else MONTHS[state.billing.cadence]
    exact = charge(line.price, max(Fraction(0), Fraction(quantity) - Fraction(free)))
    minor = within_bounds(line.price, exact * months)
    return Item(
        line.line_id,
        line.product_code,
        "once" if once else "flat",
        line.price,
        amount=_decimal(minor).scaleb(-exponent(line.price.currency)).normalize(),
        percentage=percentage,
    )


def _left(state: ContractState, line: LineState) -> Decimal:
    """The part of the line's price that is left after what OpenMeter takes off."""
    off = [d.percent for d in _discounts(state, line) if d.kind == "percent" and not _not_carried(d)]
    return state.billing_share(line) * prod((1 - percent for percent in off), start=Decimal(1))


def _free_units(state: ContractState, line: LineState) -> Decimal:
    kept = [d.units for d in _discounts(state, line) if d.kind == "free_units" and not _not_carried(d)]
    return sum(kept, Decimal(0))


def _discounts(state: ContractState, line: LineState) -> Sequence[Discount]:
    return [discount for discount in state.discounts.values() if discount.covers(line.line_id)]


def _not_carried(discount: Discount) -> str:
    """Why OpenMeter does not give this discount; empty when it does."""
    if discount.seller_share != 1:
        return "a discount that the platform bears, or a part of it"
    return {"fixed_per_period": "a fixed discount", "ramp": "a discount that changes with time"}.get(
        discount.kind, ""
    )


def _committed(state: ContractState, line: LineState) -> int | None:
    """The minimum spend of this line alone in each period, in minor units."""
    found = [
        commitment.amount_minor
        for commitment in state.commitments.values()
        if commitment.covers(line.line_id) and not _not_on_a_card(state, commitment)
    ]
    return max(found, default=None)


def _not_on_a_card(state: ContractState, commitment: Commitment) -> str:
    """Why a commitment is no rate card's minimum; empty when it is."""
    if commitment.kind != "minimum_spend":
        return "a commitment to a quantity"
    if commitment.window != "period" or commitment.true_up != "window":
        return f"a commitment over a {commitment.window}"
    if commitment.overage_factor != 1:
        return "a surcharge beyond a commitment"
    lines = [line for line in state.live_lines if commitment.covers(line.line_id)]
    if len(lines) != 1:
        return "a commitment of several lines"
    [line] = lines
    if line.kind != "usage" or line.price.model == "flat":
        return "a commitment of a line that is not metered"
    if _bounded(line.price) or _left(state, line) != 1:
        return "a commitment beside bounds or discounts of the line"
    return ""


def _bounded(price: Price) -> bool:
    return price.min_minor is not None or price.max_minor is not None


def _writable(left: Decimal) -> bool:
    return len(((1 - left) * 100).normalize().as_tuple().digits) <= MOST_DIGITS


def _major(price: Price, minor: int | None) -> Decimal | None:
    return None if minor is None else Decimal(minor).scaleb(-exponent(price.currency)).normalize()


def _decimal(value: Fraction) -> Decimal:
    """A fraction of decimals, exactly: its denominator divides a power of ten."""
    digits = 0
    while value.denominator != 1:
        value, digits = value * 10, digits + 1
    return Decimal(value.numerator).scaleb(-digits)
