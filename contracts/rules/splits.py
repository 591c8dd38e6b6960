"""The split of a collected invoice: tax, our fee, the partner's share of it, and the sellers.

The fee is taken of the whole net and rounded once, shared over the sellers by largest remainder;
the parts always add up to what was collected.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from uuid import UUID

from commerce.errors import InvalidInput
from commerce.money import allocate, round_half_up
from contracts.rules.terms import SettlementTerms


@dataclass(frozen=True)
class Split:
    """Minor units. `fee_minor` is what the platform keeps after the partner's share."""

    tax_minor: int
    fee_minor: int
    partner: tuple[UUID, int] | None
    sellers: dict[UUID, int]

    @property
    def total_minor(self) -> int:
        partner = self.partner[1] if self.partner else 0
        return self.tax_minor + self.fee_minor + partner + sum(self.sellers.values())


def split_invoice(lines: Iterable[tuple[UUID, int, int]], terms: SettlementTerms) -> Split:
    """Split lines of (seller_id, net_minor, tax_minor). InvalidInput when a seller's net is below zero."""
    nets: dict[UUID, int] = {}
    tax = 0
    for seller_id, net_minor, tax_minor in lines:
        nets[seller_id] = nets.get(seller_id, 0) + net_minor
        tax += tax_minor
    if any(net < 0 for net in nets.values()):
        raise InvalidInput("A seller's net may not be below zero.", code="amount_negative")
    fee = round_half_up(Fraction(sum(nets.values())) * Fraction(terms.fee_rate))
    fees = allocate(fee, list(nets.values())) if fee else [0] * len(nets)
    share = round_half_up(Fraction(fee) * Fraction(terms.partner_share)) if terms.partner_id else 0
    return Split(
        tax_minor=tax,
        fee_minor=fee - share,
        partner=(terms.partner_id, share) if terms.partner_id and share else None,
        sellers={seller: net - part for (seller, net), part in zip(nets.items(), fees, strict=True)},
    )
