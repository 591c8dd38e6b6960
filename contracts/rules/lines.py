"""A line of what should be billed, and what differs between two sets of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

LineKind = Literal[
    "recurring", "usage", "one_off", "discount", "sla_credit", "true_up", "overage", "early_fee",
    "principal", "interest", "financing_payoff", "financing_fee",
]  # fmt: skip
Funder = Literal["", "seller", "platform"]


@dataclass(frozen=True)
class Owed:
    """Whose line it is and what it is for: lines that are equal here are compared period by period.

    `source_id` is the line itself, or the discount, commitment, loan or charge that it comes from.
    `line_id` and `seller_id` are None for what a lender is owed. `period_start` is the billing period's.
    """

    kind: LineKind
    line_id: UUID | None
    source_id: UUID | str
    seller_id: UUID | None
    buyer_id: UUID
    owner_epoch: int
    funded_by: Funder
    period_start: datetime


@dataclass(frozen=True)
class DesiredLine:
    """One line of what should be billed for [start, end); amounts in minor units, below zero for discounts
    and credits.

    What is due at an instant has it as `start` and `end`. `quantity` is in the product's unit and `rate`
    in major units; where there is no such quantity it is one, at the line's own amount.
    """

    kind: LineKind
    line_id: UUID | None
    source_id: UUID | str
    product: str
    seller_id: UUID | None
    buyer_id: UUID
    owner_epoch: int
    quantity: Decimal
    rate: Decimal
    start: datetime
    end: datetime
    period_start: datetime
    net_minor: int
    tax_minor: int = 0
    funded_by: Funder = ""

    @property
    def owed(self) -> Owed:
        return Owed(
            self.kind, self.line_id, self.source_id, self.seller_id, self.buyer_id, self.owner_epoch,
            self.funded_by, self.period_start,
        )  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """What one thing owed comes to in one billing period, before and after; minor units."""

    owed: Owed
    product: str
    net_before: int
    net_after: int
    tax_before: int
    tax_after: int

    @property
    def net_minor(self) -> int:
        return self.net_after - self.net_before

    @property
    def tax_minor(self) -> int:
        return self.tax_after - self.tax_before


def differences(before: Iterable[DesiredLine], after: Iterable[DesiredLine]) -> list[Difference]:
    """What changes from `before` to `after`, by period and as the lines stand; equal sums are left out."""
    sums: dict[Owed, list[int]] = {}
    products: dict[Owed, str] = {}
    for side, lines in enumerate((before, after)):
        for line in lines:
            amounts = sums.setdefault(line.owed, [0, 0, 0, 0])
            amounts[side] += line.net_minor
            amounts[2 + side] += line.tax_minor
            products[line.owed] = line.product
    changed = [
        Difference(owed, products[owed], *amounts)
        for owed, amounts in sums.items()
        if (amounts[0], amounts[2]) != (amounts[1], amounts[3])
    ]
    return sorted(changed, key=lambda difference: difference.owed.period_start)
