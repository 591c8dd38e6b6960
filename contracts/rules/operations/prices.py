"""change_price: another price for a line, in full or by a share of it, of the same price model.

A rise takes the buyer's notice, or a second person who vouches that the buyer agrees. Within its minimum
term a line's price rises by renegotiation only.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from commerce.errors import Conflict, InvalidInput
from commerce.money import MAX_MINOR
from contracts.rules import schema
from contracts.rules.charges import charge, rises_over, uplifted
from contracts.rules.offers import price_faults
from contracts.rules.operations.agreed import AgreedOperation, check_currency, live_line
from contracts.rules.operations.base import RUNNING, operation
from contracts.rules.schema import Between
from contracts.rules.state import ContractState, LineState, Price, evolve


@dataclass(frozen=True)
class ChangePrice:
    """Exactly one: `price` replaces the whole price; `percent` is a share of it (0.035 raises, -0.1 lowers).

    `notice_given_at` is when the buyer was told of a rise; without it two people agree to one. A price of the
    next term (`renewal`) is agreed for it: the uplift of the renewal does not raise it once more.
    """

    line_id: UUID
    price: Price | None = None
    percent: Annotated[Decimal, Between(-1, 10, below="amount_negative")] | None = None
    when: Literal["effective", "next_period", "renewal"] = "effective"
    basis: Literal["renegotiation", "index", "promo_end", "tier_move"] = "renegotiation"
    notice_given_at: datetime | None = None

    def of(self, line: LineState) -> Price:
        """The price that the line then has."""
        if self.price is not None:
            return evolve(self.price, currency=line.price.currency)
        return uplifted(line.price, self.percent or Decimal(0))


@operation
class ChangePriceOperation(AgreedOperation[ChangePrice]):
    name, label = "change_price", "Change a price"
    payload = ChangePrice

    def effective_at(self, payload: ChangePrice, state: ContractState, at: datetime) -> datetime | None:
        if payload.when == "renewal" and state.end_at is None:
            raise Conflict("An evergreen contract is not renewed.", pointer="/when", code="term_required")
        if payload.when == "next_period":
            return state.period(at).end
        return state.end_at if payload.when == "renewal" else None

    def needs_approval(self, state: ContractState, payload: ChangePrice, at: datetime) -> str:
        line = state.lines.get(payload.line_id)
        if state.status not in RUNNING or line is None or payload.notice_given_at:
            return ""
        return "A higher price without notice needs the buyer's consent." if _rises(line, payload) else ""

    def check(self, state: ContractState, payload: ChangePrice, at: datetime) -> None:
        if (payload.price is None) == (payload.percent is None):
            raise InvalidInput("Give either price or percent.", pointer="/price", code="price_or_percent")
        line = live_line(state, payload.line_id)
        if payload.price is not None:
            check_price(state, line, payload.price, "/price")
        else:
            check_amount(payload.of(line), line.quantity, "/percent")
        if state.status in RUNNING and _rises(line, payload):
            _check_rise(state, line, payload, at)

    def apply(self, state: ContractState, payload: ChangePrice, at: datetime) -> ContractState:
        line = state.lines.get(payload.line_id)
        if line is None or not line.live:
            return state
        renewed = at if payload.when == "renewal" else line.renewed_price_at
        return self.resigned(state.with_line(evolve(line, price=payload.of(line), renewed_price_at=renewed)))

    def event(self, payload: ChangePrice, before: ContractState) -> str:
        return "contract.price_changed"


def check_price(state: ContractState, line: LineState, price: Price, pointer: str) -> None:
    """Raise unless the line may cost that: its currency, its model, a whole price, an amount of money."""
    check_currency(state, price.currency, f"{pointer}/currency")
    if price.model != line.price.model:
        raise Conflict(
            f"The line is priced {line.price.model}; another model needs another line.",
            pointer=f"{pointer}/model",
            code="price_model_change_needs_new_line",
        )
    if faults := list(price_faults(price, line.kind, pointer=pointer)):
        raise schema.invalid(faults)
    check_amount(evolve(price, currency=line.price.currency), line.quantity, pointer)


def check_amount(price: Price, quantity: int, pointer: str) -> None:
    """InvalidInput (amount_overflow) for a line that costs more than money can say."""
    if charge(price, max(1, quantity)) > MAX_MINOR:
        raise InvalidInput(
            "The line's amount is larger than 2^53 - 1 minor units.", pointer=pointer, code="amount_overflow"
        )


def rises(old: Price, new: Price) -> bool:
    """Whether there may be a quantity for which `new` asks for more than `old` of the same model."""
    return new.prorate_bounds != old.prorate_bounds or rises_over(old, new, Decimal(0))


def _rises(line: LineState, payload: ChangePrice) -> bool:
    return rises(line.price, payload.of(line))


def _check_rise(state: ContractState, line: LineState, payload: ChangePrice, at: datetime) -> None:
    if line.min_term_until and at < line.min_term_until and payload.basis != "renegotiation":
        raise Conflict(
            f"The price is locked until the minimum term ends at {line.min_term_until:%Y-%m-%d %H:%M} UTC.",
            pointer="/basis",
            code="price_locked",
        )
    days = state.terms.renewal.notice_days
    if payload.notice_given_at and at - payload.notice_given_at < timedelta(days=days):
        raise Conflict(
            f"A rise takes {days} days' notice; this gives {max(0, (at - payload.notice_given_at).days)}.",
            pointer="/notice_given_at",
            code="notice_too_short",
        )
