"""Rating a billing period from the contract's edit log and the metered usage.

One engine serves verification of a provider's invoice and preview. A line is one segment of a
contract line (unbroken quantity and price) inside the period; it is rounded once, half up, and
taxed on its rounded net.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from contracts.rules.fold import Edit, fold
from contracts.rules.periods import Period, billing_period
from contracts.rules.pricing import rate_recurring, rate_usage, tax_on
from contracts.rules.segments import Segment, billable_segments

Usage = Callable[[UUID, datetime, datetime], Decimal]


@dataclass(frozen=True)
class RatedLine:
    """One line of what is owed; amounts in minor units, quantity in the product's unit."""

    line_id: UUID
    product: str
    kind: str
    seller_id: UUID
    quantity: Decimal
    rate: Decimal
    start: datetime
    end: datetime
    net_minor: int
    tax_minor: int


def rate_period(edits: Sequence[Edit], *, start: datetime, end: datetime, usage: Usage) -> list[RatedLine]:
    """Every line owed for [start, end), given `usage(line_id, from, to)` in the line's unit.

    Each billing period that lies in it, or partly, is rated by itself: a month is not all of a stub.
    Usage lines without usage are left out, as they are on the provider's invoice.
    """
    lines = []
    while start < end:
        state = fold(edits, valid_at=start)
        period = billing_period(state.billing.anchor_day, state.start_at or start, start)
        until = min(period.end, end)
        for segment in billable_segments(edits, start=start, end=until):
            terms = fold(edits, valid_at=segment.valid_from).terms
            line = _rate(segment, period, terms.tax.rate, usage)
            if line is not None:
                lines.append(line)
        start = until
    return lines


def _rate(segment: Segment, period: Period, tax_rate: Decimal, usage: Usage) -> RatedLine | None:
    if segment.kind == "usage":
        quantity = usage(segment.line_id, segment.valid_from, segment.valid_to)
        if not quantity:
            return None
        net = rate_usage(segment.price, quantity)
    else:
        quantity = Decimal(segment.quantity)
        net = rate_recurring(segment, period)
    return RatedLine(
        line_id=segment.line_id,
        product=segment.product_code,
        kind=segment.kind,
        seller_id=segment.seller_id,
        quantity=quantity,
        rate=segment.price.rate,
        start=segment.valid_from,
        end=segment.valid_to,
        net_minor=net,
        tax_minor=tax_on(net, tax_rate),
    )
