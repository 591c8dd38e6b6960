"""Operations on lines: add a product, remove it, change how many."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from commerce.errors import Conflict, InvalidInput, NotFound
from commerce.money import MAX_MINOR
from contracts.rules.operations.base import Operation, operation
from contracts.rules.periods import billing_period
from contracts.rules.schema import Between, Count, Server, Text
from contracts.rules.state import NOBODY, ContractState, Kind, LineState, Price, evolve

MAX_LINES = 200


@dataclass(frozen=True)
class AddProduct:
    """A line; product, seller and price are the offer's, where one is named, and only said again if equal.

    `kind`, `unit` and `meter` are the product's, copied when the edit is recorded, as is what an offer says.
    """

    line_id: UUID
    product: Text = ""
    seller_id: UUID = NOBODY
    price: Price | None = None
    quantity: Count = 1
    offer_id: UUID | None = None
    kind: Annotated[Kind, Server()] = "recurring"
    unit: Annotated[str, Server()] = ""
    meter: Annotated[str, Server()] = ""


@dataclass(frozen=True)
class RemoveProduct:
    line_id: UUID
    when: Literal["immediate", "end_of_period", "date"] = "immediate"


@dataclass(frozen=True)
class ChangeQuantity:
    """Exactly one: `quantity` pins the value, `delta` carries through edits that come later."""

    line_id: UUID
    quantity: Annotated[int, Between(0, 1_000_000, below="quantity_negative")] | None = None
    delta: Annotated[int, Between(-1_000_000, 1_000_000)] | None = None

    def of(self, line: LineState) -> int:
        return self.quantity if self.quantity is not None else line.quantity + (self.delta or 0)


def check_lines(state: ContractState, lines: Iterable[AddProduct], pointer: str = "/lines/{}") -> None:
    """Currency, size and identity of new lines. Raises on the first line that does not fit."""
    taken = set(state.lines)
    for i, line in enumerate(lines):
        at = pointer.format(i)
        if line.line_id in taken:
            raise Conflict(
                f"Line {line.line_id} exists already.", pointer=f"{at}/line_id", code="line_id_taken"
            )
        taken.add(line.line_id)
        if line.price is None:
            continue
        if line.price.currency and line.price.currency != state.currency:
            raise InvalidInput(
                f"The contract is in {state.currency}, the price in {line.price.currency}.",
                pointer=f"{at}/price/currency",
                code="currency_mismatch",
            )
        _check_amount(replace(line.price, currency=state.currency), line.quantity, f"{at}/price/rate")
    if len(taken) > MAX_LINES:
        raise InvalidInput(
            f"A contract has at most {MAX_LINES} lines.", pointer=pointer.format(0), code="limit_exceeded"
        )


def add_lines(state: ContractState, lines: Iterable[AddProduct]) -> ContractState:
    added = {
        line.line_id: LineState(
            line_id=line.line_id,
            product_code=line.product,
            kind=line.kind,
            unit=line.unit,
            meter=line.meter,
            seller_id=line.seller_id,
            quantity=line.quantity,
            price=replace(line.price, currency=state.currency),
            offer_id=line.offer_id,
        )
        for line in lines
        if line.line_id not in state.lines and line.price is not None
    }
    return evolve(state, lines={**state.lines, **added})


class _ProductOperation(Operation):
    """Product edits after signature ask the parties to sign again before the contract goes live."""

    def _resign(self, state: ContractState) -> ContractState:
        return evolve(state, needs_resign=True) if state.status == "pending_activation" else state

    def _live(self, state: ContractState, line_id: UUID) -> LineState:
        line = state.lines.get(line_id)
        if line is None:
            raise NotFound(f"The contract has no line {line_id}.", pointer="/line_id", code="line_not_found")
        if not line.live:
            raise Conflict(f"Line {line_id} was removed.", pointer="/line_id", code="line_not_live")
        return line


@operation
class AddProductOperation(_ProductOperation):
    name, label = "add_product", "Add a product"
    payload = AddProduct

    def check(self, state: ContractState, payload: AddProduct, at: datetime) -> None:
        check_lines(state, [payload], pointer="")

    def apply(self, state: ContractState, payload: AddProduct, at: datetime) -> ContractState:
        return self._resign(add_lines(state, [payload]))

    def event(self, payload: AddProduct, before: ContractState) -> str:
        return "contract.product_added"

    def buyer_may(self, payload: AddProduct, state: ContractState) -> bool:
        return state.status == "draft"


@operation
class RemoveProductOperation(_ProductOperation):
    name, label = "remove_product", "Remove a product"
    payload = RemoveProduct

    def effective_at(self, payload: RemoveProduct, state: ContractState, at: datetime) -> datetime | None:
        if payload.when != "end_of_period" or state.start_at is None:
            return None
        return billing_period(state.billing.anchor_day, state.start_at, at).end

    def check(self, state: ContractState, payload: RemoveProduct, at: datetime) -> None:
        self._live(state, payload.line_id)
        if state.status != "draft" and len(state.live_lines) == 1:
            raise Conflict(
                "This is the last line; terminate the contract instead.", pointer="/line_id", code="last_line"
            )

    def apply(self, state: ContractState, payload: RemoveProduct, at: datetime) -> ContractState:
        line = state.lines.get(payload.line_id)
        return self._resign(state.with_line(evolve(line, live=False))) if line else state

    def event(self, payload: RemoveProduct, before: ContractState) -> str:
        return "contract.product_removed"

    def buyer_may(self, payload: RemoveProduct, state: ContractState) -> bool:
        return True


@operation
class ChangeQuantityOperation(_ProductOperation):
    name, label = "change_quantity", "Change a quantity"
    payload = ChangeQuantity

    def check(self, state: ContractState, payload: ChangeQuantity, at: datetime) -> None:
        if (payload.quantity is None) == (payload.delta is None):
            raise InvalidInput(
                "Give either quantity or delta.", pointer="/quantity", code="quantity_or_delta"
            )
        line = self._live(state, payload.line_id)
        if line.kind == "usage":
            raise Conflict(
                f"{line.product_code} is metered; its quantity is what is used.",
                pointer="/line_id",
                code="line_is_metered",
            )
        quantity = payload.of(line)
        if quantity < 0:
            raise InvalidInput(
                f"{line.quantity} would become {quantity}.", pointer="/delta", code="quantity_negative"
            )
        _check_amount(line.price, quantity, "/quantity" if payload.delta is None else "/delta")

    def apply(self, state: ContractState, payload: ChangeQuantity, at: datetime) -> ContractState:
        line = state.lines.get(payload.line_id)
        if line is None:
            return state
        return self._resign(state.with_line(evolve(line, quantity=max(0, payload.of(line)))))

    def event(self, payload: ChangeQuantity, before: ContractState) -> str:
        return "contract.quantity_changed"

    def buyer_may(self, payload: ChangeQuantity, state: ContractState) -> bool:
        return True


def _check_amount(price: Price, quantity: int, pointer: str) -> None:
    if price.minor_rate * quantity > MAX_MINOR:
        raise InvalidInput(
            "The line's amount is larger than 2^53 - 1 minor units.", pointer=pointer, code="amount_overflow"
        )
