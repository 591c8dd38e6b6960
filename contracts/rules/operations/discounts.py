"""apply_discount: less to pay for a while, borne by the seller, by the platform, or by both.

A discount that is agreed before the contract starts begins with it. What it takes off a line, and in which
order, is for the rules of pricing; here it begins, ends, or gives way to another.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Literal
from uuid import UUID

from commerce.errors import Conflict, FieldError, InvalidInput, NotFound
from contracts.rules import schema
from contracts.rules.operations.agreed import AgreedOperation, begins, check_currency, lines_of
from contracts.rules.operations.base import operation
from contracts.rules.schema import Between, Length, Pattern, Quantity, Share
from contracts.rules.state import Amount, ContractState, Discount, Percent, RampStep, Scope, evolve

KindOfDiscount = Literal["percent", "fixed_per_period", "free_units", "ramp"]
# The field that says how much, by kind.
_VALUES = {"percent": "percent", "fixed_per_period": "amount", "free_units": "units", "ramp": "ramp"}


@dataclass(frozen=True)
class Duration:
    """`once`: the billing period in which it begins; `periods`: that one and the next ones."""

    kind: Literal["once", "periods", "until", "forever"] = "forever"
    periods: Annotated[int, Between(1, 120)] | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Funding:
    """Who bears the discount; of a `split` the seller bears `seller_share`, the platform the rest."""

    kind: Literal["seller", "platform", "split"] = "seller"
    seller_share: Share | None = None

    @property
    def share(self) -> Decimal:
        """The seller's share."""
        if self.kind == "split":
            return self.seller_share if self.seller_share is not None else Decimal(1)
        return Decimal(self.kind == "seller")


@dataclass(frozen=True)
class ApplyDiscount:
    """`apply` a new discount, `replace` the one of that id by another, or `end` it, which takes its id only.

    How much is said by `percent` (a share: 0.1 is ten off), by `amount` per period, by `units` that are free
    in each period, or by a `ramp` of shares by month. Lower `stack_order` comes off first.
    """

    discount_id: UUID
    mode: Literal["apply", "end", "replace"] = "apply"
    scope: Scope = "all"
    kind: KindOfDiscount | None = None
    percent: Percent | None = None
    amount: Amount | None = None
    units: Quantity | None = None
    ramp: Annotated[tuple[RampStep, ...], Length(120)] = ()
    duration: Duration = field(default_factory=Duration)
    stack_order: Annotated[int, Between(0, 100)] = 0
    funded_by: Funding = field(default_factory=Funding)
    coupon_code: Annotated[str, Pattern("[A-Z0-9-]{0,40}", "at most 40 of A-Z, 0-9 and -")] = ""


@operation
class ApplyDiscountOperation(AgreedOperation[ApplyDiscount]):
    name, label = "apply_discount", "Apply a discount"
    payload = ApplyDiscount

    def needs_approval(self, state: ContractState, payload: ApplyDiscount, at: datetime) -> str:
        if payload.mode == "end" or payload.funded_by.share == 1:
            return ""
        return "The platform pays for this discount."

    def check(self, state: ContractState, payload: ApplyDiscount, at: datetime) -> None:
        known = payload.discount_id in state.discounts
        if known and payload.mode == "apply":
            raise Conflict(
                f"There is a discount {payload.discount_id} already.",
                pointer="/discount_id",
                code="discount_id_taken",
            )
        if not known and payload.mode != "apply":
            raise NotFound(
                f"No discount {payload.discount_id} is in force.",
                pointer="/discount_id",
                code="discount_not_found",
            )
        if payload.mode == "end":
            if payload != ApplyDiscount(payload.discount_id, mode="end"):
                raise InvalidInput(
                    "To end a discount, give its id only.", pointer="/mode", code="field_misplaced"
                )
            return
        if faults := list(_faults(payload, begins(state, at))):
            raise schema.invalid(faults)
        if payload.amount:
            check_currency(state, payload.amount.currency, "/amount/currency")
        self._check_stack(state, payload)

    def _check_stack(self, state: ContractState, payload: ApplyDiscount) -> None:
        others = [one for id_, one in state.discounts.items() if id_ != payload.discount_id]
        if payload.coupon_code and any(one.coupon_code == payload.coupon_code for one in others):
            raise Conflict(
                f"{payload.coupon_code} is in force on this contract already.",
                pointer="/coupon_code",
                code="coupon_exhausted",
            )
        for line in lines_of(state, payload.scope):
            together = _most(payload.percent, payload.ramp) + sum(
                _most(one.percent, one.ramp) for one in others if one.covers(line.line_id)
            )
            if together > 1:
                raise InvalidInput(
                    f"With the discounts in force {line.product_code} would be {together:%} off.",
                    pointer="/ramp" if payload.kind == "ramp" else "/percent",
                    code="stacked_over_100",
                )

    def apply(self, state: ContractState, payload: ApplyDiscount, at: datetime) -> ContractState:
        known = payload.discount_id in state.discounts
        if known == (payload.mode == "apply") or (payload.mode != "end" and payload.kind is None):
            return state
        discounts = {id_: one for id_, one in state.discounts.items() if id_ != payload.discount_id}
        if payload.mode != "end":
            discounts[payload.discount_id] = _discount(state, payload, begins(state, at))
        return self.resigned(evolve(state, discounts=discounts))

    def event(self, payload: ApplyDiscount, before: ContractState) -> str:
        return "contract.discount_ended" if payload.mode == "end" else "contract.discount_applied"


def _discount(state: ContractState, payload: ApplyDiscount, since: datetime) -> Discount:
    return Discount(
        discount_id=payload.discount_id,
        scope=payload.scope,
        kind=payload.kind or "percent",
        since=since,
        percent=payload.percent or Decimal(0),
        amount_minor=payload.amount.amount_minor if payload.amount else 0,
        units=payload.units or Decimal(0),
        ramp=payload.ramp,
        stack_order=payload.stack_order,
        seller_share=payload.funded_by.share,
        coupon_code=payload.coupon_code,
        ends_at=_ends_at(state, payload.duration, since),
    )


def _ends_at(state: ContractState, duration: Duration, since: datetime) -> datetime | None:
    if duration.kind == "until":
        return duration.until
    if duration.kind == "forever":
        return None
    end = since
    for _ in range(duration.periods or 1):
        end = state.period(end).end
    return end


def _most(percent: Decimal | None, ramp: tuple[RampStep, ...]) -> Decimal:
    return max([percent or Decimal(0), *(step.percent for step in ramp)])


def _faults(payload: ApplyDiscount, since: datetime) -> Iterator[FieldError]:
    if payload.kind is None:
        yield FieldError("/kind", "required", "Say which kind of discount it is.")
    for kind, name in _VALUES.items():
        if bool(getattr(payload, name)) != (kind == payload.kind) and payload.kind:
            yield FieldError(
                f"/{name}",
                "required" if kind == payload.kind else "field_misplaced",
                f"A discount of kind {payload.kind} says how much by {_VALUES[payload.kind]} alone.",
            )
    if any(later.from_month <= earlier.from_month for earlier, later in pairwise(payload.ramp)):
        yield FieldError("/ramp", "ramp_invalid", "Each step of a ramp begins after the one before it.")
    duration = payload.duration
    if (duration.kind == "periods") != (duration.periods is not None):
        yield FieldError(
            "/duration/periods", "duration_invalid", "A duration of periods has a count, others none."
        )
    if (duration.kind == "until") != (duration.until is not None):
        yield FieldError("/duration/until", "duration_invalid", "A duration until has an end, others none.")
    elif duration.until and duration.until <= since:
        yield FieldError(
            "/duration/until", "duration_invalid", f"It ends before it begins at {since:%Y-%m-%d %H:%M} UTC."
        )
    funding = payload.funded_by
    if (funding.kind == "split") != (funding.seller_share is not None):
        yield FieldError(
            "/funded_by/seller_share",
            "funding_split_invalid",
            "A split says which share the seller bears, others do not.",
        )
    elif funding.seller_share is not None and funding.seller_share in (0, 1):
        yield FieldError(
            "/funded_by/seller_share", "funding_split_invalid", "A split leaves something for both to bear."
        )
