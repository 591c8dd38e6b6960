"""Rating a billing period for invoices: what a contract's own lines come to, discounts taken off.

What the contract should bill is one rule for previews, invoices and corrections; an invoice shows each
charge as the buyer pays it. What is lent on a contract is on no invoice of a provider.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from contracts.rules.desired import desired_lines
from contracts.rules.fold import Edit
from contracts.rules.line_service import LineService
from contracts.rules.rating import Usage

_CHARGES = frozenset({"recurring", "usage", "one_off"})


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


def rate_period(
    edits: Sequence[Edit],
    *,
    owner_epoch: int,
    start: datetime,
    end: datetime,
    usage: Usage,
    service: LineService | None = None,
) -> list[RatedLine]:
    """Every line that one owner owes for [start, end), given `usage(line_id, from, to)` in the line's unit.

    Each billing period that lies in it, or partly, is rated by itself: a month is not all of a stub.
    Lines that come to nothing for want of use are left out, as they are on the provider's invoice.
    """
    found: dict[tuple[UUID, UUID, str, datetime], RatedLine] = {}
    for line in desired_lines(edits, start=start, end=end, usage=usage, service=service):
        if line.owner_epoch != owner_epoch or line.line_id is None or line.seller_id is None:
            continue
        what = "" if line.kind in _CHARGES or line.kind == "discount" else line.kind
        key = (line.line_id, line.seller_id, what, line.start)
        if key in found:
            before = found[key]
            found[key] = replace(
                before,
                net_minor=before.net_minor + line.net_minor,
                tax_minor=before.tax_minor + line.tax_minor,
            )
        else:
            found[key] = RatedLine(
                line_id=line.line_id,
                product=line.product,
                kind=line.kind,
                seller_id=line.seller_id,
                quantity=line.quantity,
                rate=line.rate,
                start=line.start,
                end=line.end,
                net_minor=line.net_minor,
                tax_minor=line.tax_minor,
            )
    return list(found.values())
