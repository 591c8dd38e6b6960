"""Terms of a contract in typed sections: how it is paid, renewed, measured, taxed and settled.

What a contract leaves open is filled from the platform's terms when it is created, so that the
defaults here are only what holds where nobody said anything at all.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from commerce.errors import FieldError
from contracts.rules.schema import Between, Length, Minor, Pattern, Share, Text

Currency = Annotated[str, Pattern("[A-Z]{3}", "three capital letters")]
Days = Annotated[int, Between(0, 365)]
AnchorDay = Annotated[int, Between(1, 31, below="anchor_day_invalid", above="anchor_day_invalid")]


@dataclass(frozen=True)
class Amount:
    amount_minor: Minor
    currency: Currency


@dataclass(frozen=True)
class Billing:
    """A billing period is one `cadence` long and starts on `anchor_day`, clamped to the month's end."""

    anchor_day: AnchorDay = 1
    cadence: Literal["P1M", "P3M", "P1Y"] = "P1M"
    when: Literal["in_advance", "in_arrears"] = "in_arrears"


@dataclass(frozen=True)
class Payment:
    net_days: Annotated[int, Between(0, 120)] = 14
    grace_days: Annotated[int, Between(0, 90)] = 3
    collection: Literal["wallet_auto", "card_auto", "bank_invoice"] = "wallet_auto"
    invoice_source: Literal["openmeter", "modern_treasury"] = "openmeter"
    method_ref: Text | None = None
    late_fee_minor: Minor = 0


@dataclass(frozen=True)
class Uplift:
    """What renewal does to prices: `value` is a share (0.035), `cap` the most that nobody is asked for."""

    kind: Literal["none", "percent", "catalog"] = "none"
    value: Share = Decimal(0)
    cap: Share | None = None


@dataclass(frozen=True)
class Renewal:
    """`term_months` None renews for as long as the term before.

    The buyer is told `notice_days` before the term ends and may opt out until `opt_out_days` before it.
    """

    auto: bool = False
    notice_days: Days = 30
    opt_out_days: Days = 0
    term_months: Annotated[int, Between(1, 120)] | None = None
    uplift: Uplift = field(default_factory=Uplift)


@dataclass(frozen=True)
class SlaTier:
    """Below this uptime (a share) the credit is `credit` of the line's monthly charge."""

    below: Share
    credit: Share


@dataclass(frozen=True)
class Sla:
    """Degraded minutes count as down with `degraded_weight`; a credit is at most `cap` of the charge."""

    policy: Text = "standard"
    credit: Literal["tiered", "pro_rata"] = "tiered"
    tiers: Annotated[tuple[SlaTier, ...], Length(100)] = (
        SlaTier(Decimal("0.999"), Decimal("0.05")),
        SlaTier(Decimal("0.99"), Decimal("0.1")),
        SlaTier(Decimal("0.95"), Decimal("0.3")),
    )
    cap: Share = Decimal(1)
    degraded_weight: Share = Decimal("0.5")
    auto_credit: bool = True


@dataclass(frozen=True)
class Tax:
    rate: Share = Decimal(0)
    exempt_certificate: Text | None = None
    place: Text | None = None


@dataclass(frozen=True)
class SettlementTerms:
    """Fee of the net, the partner's share of that fee, days that seller money rests in holding, and the
    share of it that is kept back as a reserve."""

    fee_rate: Share = Decimal(0)
    partner_id: UUID | None = None
    partner_share: Share = Decimal(0)
    seasoning_days: Days | None = None
    reserve_rate: Share = Decimal(0)


@dataclass(frozen=True)
class CommitmentTerms:
    downpayment: Amount | None = None


@dataclass(frozen=True)
class References:
    """What the parties call it: nothing here changes money."""

    po_number: Text | None = None
    labels: Annotated[tuple[Text, ...], Length(50)] = ()
    notes: Text | None = None


@dataclass(frozen=True)
class Terms:
    payment: Payment = field(default_factory=Payment)
    renewal: Renewal = field(default_factory=Renewal)
    sla: Sla = field(default_factory=Sla)
    tax: Tax = field(default_factory=Tax)
    settlement: SettlementTerms = field(default_factory=SettlementTerms)
    commitment: CommitmentTerms = field(default_factory=CommitmentTerms)
    references: References = field(default_factory=References)


def contradictions(terms: Terms, sections: Collection[str] = (), pointer: str = "") -> list[FieldError]:
    """What contradicts itself in these sections, in all of them by default."""
    judged = sections or _JUDGES.keys()
    return [
        fault
        for name, judge in _JUDGES.items()
        if name in judged
        for fault in judge(getattr(terms, name), f"{pointer}/{name}")
    ]


def _payment(payment: Payment, pointer: str) -> Iterator[FieldError]:
    if payment.collection == "card_auto" and not payment.method_ref:
        yield FieldError(
            f"{pointer}/collection",
            "auto_collection_without_method",
            "Say which card is charged: method_ref is empty.",
        )


def _renewal(renewal: Renewal, pointer: str) -> Iterator[FieldError]:
    uplift = renewal.uplift
    if (uplift.kind == "percent") != (uplift.value > 0):
        yield FieldError(
            f"{pointer}/uplift/value",
            "uplift_incomplete",
            "An uplift by percent has a value, and no other has.",
        )
    if uplift.cap is not None and uplift.value > uplift.cap:
        yield FieldError(
            f"{pointer}/uplift/value",
            "uplift_over_cap",
            f"{uplift.value} is more than the cap of {uplift.cap}.",
        )
    if renewal.auto and renewal.opt_out_days > renewal.notice_days:
        yield FieldError(
            f"{pointer}/opt_out_days",
            "notice_after_cutoff",
            f"The buyer is told {renewal.notice_days} days before the end: it cannot have to decide before.",
        )


def _sla(sla: Sla, pointer: str) -> Iterator[FieldError]:
    """Tiers begin with the mildest."""
    if sla.credit == "tiered" and not sla.tiers:
        yield FieldError(f"{pointer}/tiers", "tiers_invalid", "A tiered credit needs a tier.")
    for i, (milder, worse) in enumerate(zip(sla.tiers, sla.tiers[1:], strict=False), start=1):
        if worse.below >= milder.below or worse.credit <= milder.credit:
            yield FieldError(
                f"{pointer}/tiers/{i}", "tiers_invalid", "Uptime falls and credit rises from tier to tier."
            )


def _settlement(settlement: SettlementTerms, pointer: str) -> Iterator[FieldError]:
    if (settlement.partner_share > 0) != (settlement.partner_id is not None):
        yield FieldError(
            f"{pointer}/partner_share",
            "partner_incomplete",
            "A partner needs a share above zero, and a share needs a partner.",
        )


_JUDGES: dict[str, Callable[[Any, str], Iterator[FieldError]]] = {
    "payment": _payment,
    "renewal": _renewal,
    "sla": _sla,
    "settlement": _settlement,
}
