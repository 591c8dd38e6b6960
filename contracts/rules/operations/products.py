"""Operations on lines: add a product, remove it, change how many."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from commerce.errors import Conflict, FieldError, InvalidInput
from contracts.rules import schema
from contracts.rules.operations.agreed import AgreedOperation, begins, check_currency, live_line
from contracts.rules.operations.base import RUNNING, operation
from contracts.rules.operations.fees import EarlyFee, check_due, fee_faults, unused_faults
from contracts.rules.operations.prices import check_amount
from contracts.rules.periods import MONTHS, add_months
from contracts.rules.schema import Between, Count, Length, Server, Text
from contracts.rules.state import (
    MAX_LINES,
    NOBODY,
    BillFrom,
    Charge,
    ContractState,
    Forfeited,
    Kind,
    LineSettlement,
    LineState,
    Price,
    evolve,
)

MAX_UNITS = 2000
_TICK = timedelta(microseconds=1)

Units = Annotated[tuple[Text, ...], Length(MAX_UNITS)]


@dataclass(frozen=True)
class AddProduct:
    """A line; product, seller and price are the offer's, where one is named, and only said again if equal.

    Billed from its instant, or from when its units are in service; not to be removed within its minimum term
    without a fee; ends by itself at `end_at`. A `settlement` of its own is refused: the contract's holds.
    `kind`, `unit` and `meter` are the product's, copied when the edit is recorded, as is what an offer says.
    """

    line_id: UUID
    product: Text = ""
    seller_id: UUID = NOBODY
    price: Price | None = None
    quantity: Count = 1
    offer_id: UUID | None = None
    unit_ids: Units = ()
    bill_from: BillFrom = "effective"
    min_term_months: Annotated[int, Between(1, 120)] | None = None
    end_at: datetime | None = None
    sla_policy: Text = ""
    tax_code: Text = ""
    settlement: LineSettlement | None = None
    kind: Annotated[Kind, Server()] = "recurring"
    unit: Annotated[str, Server()] = ""
    meter: Annotated[str, Server()] = ""


@dataclass(frozen=True)
class RemoveProduct:
    """`date` means the edit's own `effective_at`. Before the minimum term is over a fee is named, if of none.

    What of the period is paid and unused is credited, or forfeited: then the line is billed to the period's
    end; a refund is refused. `release_units` gives up the units that it names.
    """

    line_id: UUID
    when: Literal["immediate", "end_of_period", "end_of_min_term", "date"] = "immediate"
    unused: Literal["credit", "refund", "forfeit"] = "credit"
    early_fee: EarlyFee | None = None
    release_units: bool = True


@dataclass(frozen=True)
class ChangeQuantity:
    """Exactly one: `quantity` pins the value, `delta` carries through edits that come later.

    `prorate` takes effect now, `next_period` when the next billing period begins, `none` now, but for the
    bill of the period, which stays what it was.
    """

    line_id: UUID
    quantity: Annotated[int, Between(0, 1_000_000, below="quantity_negative")] | None = None
    delta: Annotated[int, Between(-1_000_000, 1_000_000)] | None = None
    add_units: Units = ()
    release_units: Units = ()
    proration: Literal["prorate", "next_period", "none"] = "prorate"

    def of(self, line: LineState) -> int:
        return self.quantity if self.quantity is not None else line.quantity + (self.delta or 0)

    def units_of(self, line: LineState) -> Units:
        """The units that the line then names."""
        kept = [unit for unit in line.unit_ids if unit not in self.release_units]
        return (*kept, *(unit for unit in self.add_units if unit not in kept))


def check_lines(
    state: ContractState, lines: Iterable[AddProduct], at: datetime, pointer: str = "/lines/{}"
) -> None:
    """Currency, size, identity, units and dates of new lines. Raises on the first line that does not fit."""
    taken = set(state.lines)
    units = {unit for line in state.live_lines for unit in line.unit_ids}
    for i, line in enumerate(lines):
        place = pointer.format(i)
        if line.line_id in taken:
            raise Conflict(
                f"Line {line.line_id} exists already.", pointer=f"{place}/line_id", code="line_id_taken"
            )
        taken.add(line.line_id)
        _check_units(line.unit_ids, units, line.quantity, f"{place}/unit_ids")
        units.update(line.unit_ids)
        if faults := list(_faults(state, line, begins(state, at), place)):
            raise schema.invalid(faults)
        if line.price is not None:
            check_currency(state, line.price.currency, f"{place}/price/currency")
            check_amount(replace(line.price, currency=state.currency), line.quantity, f"{place}/price/rate")
    if len(taken) > MAX_LINES:
        raise InvalidInput(
            f"A contract has at most {MAX_LINES} lines.", pointer=pointer.format(0), code="limit_exceeded"
        )


def _check_units(new: Units, taken: Collection[str], quantity: int, pointer: str) -> None:
    for i, unit in enumerate(new):
        if unit in taken or unit in new[:i]:
            raise Conflict(
                f"{unit} is on the contract already.", pointer=f"{pointer}/{i}", code="unit_unavailable"
            )
    if new and len(taken) + len(new) > MAX_UNITS:
        raise InvalidInput(
            f"A contract names at most {MAX_UNITS} units.", pointer=pointer, code="limit_exceeded"
        )
    if len(new) > quantity:
        raise InvalidInput(
            f"{len(new)} units are named, {quantity} ordered.", pointer=pointer, code="units_exceed_quantity"
        )


def _faults(state: ContractState, line: AddProduct, since: datetime, pointer: str) -> Iterator[FieldError]:
    bound = add_months(since, line.min_term_months) if line.min_term_months else since
    if state.end_at and bound > state.end_at and not state.renews:
        yield FieldError(
            f"{pointer}/min_term_months",
            "min_term_beyond_contract_end",
            f"The contract ends at {state.end_at:%Y-%m-%d %H:%M} UTC, before the minimum term does.",
        )
    if line.end_at and line.end_at < max(bound, since + _TICK):
        yield FieldError(
            f"{pointer}/end_at",
            "line_end_invalid",
            "The line ends after it begins, and not within its minimum term.",
        )
    if line.settlement is not None:
        yield FieldError(
            f"{pointer}/settlement",
            "not_supported",
            "The money of every line is divided by the contract's terms of settlement: say it there, or give "
            "this seller a contract of its own.",
        )


def add_lines(state: ContractState, lines: Iterable[AddProduct], at: datetime) -> ContractState:
    since = begins(state, at)
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
            unit_ids=line.unit_ids,
            bill_from=line.bill_from,
            added_at=since,
            end_at=line.end_at,
            min_term_until=add_months(since, line.min_term_months) if line.min_term_months else None,
            sla_policy=line.sla_policy,
            tax_code=line.tax_code,
            settlement=line.settlement,
        )
        for line in lines
        if line.line_id not in state.lines and line.price is not None
    }
    return evolve(state, lines={**state.lines, **added})


@operation
class AddProductOperation(AgreedOperation[AddProduct]):
    name, label = "add_product", "Add a product"
    payload = AddProduct

    def check(self, state: ContractState, payload: AddProduct, at: datetime) -> None:
        check_lines(state, [payload], at, pointer="")

    def apply(self, state: ContractState, payload: AddProduct, at: datetime) -> ContractState:
        after = add_lines(state, [payload], at)
        return self.resigned(after) if after != state else state

    def event(self, payload: AddProduct, before: ContractState) -> str:
        return "contract.product_added"

    def buyer_may(self, payload: AddProduct, state: ContractState) -> bool:
        return state.status == "draft"


@operation
class RemoveProductOperation(AgreedOperation[RemoveProduct]):
    name, label = "remove_product", "Remove a product"
    payload = RemoveProduct

    def effective_at(self, payload: RemoveProduct, state: ContractState, at: datetime) -> datetime | None:
        if payload.when == "end_of_period":
            return state.period(at).end
        if payload.when != "end_of_min_term":
            return None
        line = live_line(state, payload.line_id)
        if line.min_term_until is None:
            raise Conflict("The line has no minimum term.", pointer="/when", code="min_term_required")
        return max(line.min_term_until, at)

    def needs_approval(self, state: ContractState, payload: RemoveProduct, at: datetime) -> str:
        line = state.lines.get(payload.line_id)
        waived = payload.early_fee is not None and payload.early_fee.kind == "none"
        return "The fee for leaving early is waived." if waived and _is_early(state, line, at) else ""

    def check(self, state: ContractState, payload: RemoveProduct, at: datetime) -> None:
        if faults := [*fee_faults(payload.early_fee), *unused_faults(payload.unused)]:
            raise schema.invalid(faults)
        line = live_line(state, payload.line_id)
        if state.status != "draft" and len(state.live_lines) == 1:
            raise Conflict(
                "This is the last line; terminate the contract instead.", pointer="/line_id", code="last_line"
            )
        if payload.early_fee is None and line.min_term_until and _is_early(state, line, at):
            raise Conflict(
                f"The minimum term of the line ends at {line.min_term_until:%Y-%m-%d %H:%M} UTC; name a fee.",
                pointer="/early_fee",
                code="min_term_not_met",
            )
        check_due(payload.early_fee, _is_early(state, line, at))
        for commitment in state.commitments.values():
            rest = [one for one in state.live_lines if one != line and commitment.covers(one.line_id)]
            if commitment.covers(line.line_id) and not rest:
                raise Conflict(
                    f"Commitment {commitment.commitment_id} is counted by this line alone.",
                    pointer="/line_id",
                    code="commitment_depends_on_line",
                )

    def apply(self, state: ContractState, payload: RemoveProduct, at: datetime) -> ContractState:
        line = state.lines.get(payload.line_id)
        if line is None or not line.live:
            return state
        removed = evolve(line, live=False, unit_ids=() if payload.release_units else line.unit_ids)
        if payload.unused == "forfeit":
            removed = evolve(removed, forfeited=forfeited(state, line, at))
        charges = state.charges
        if payload.early_fee and _is_early(state, line, at):
            months = MONTHS[state.billing.cadence]
            fee = payload.early_fee.of([(line, line.min_term_until or at)], at, months)
            owed = Charge(f"{line.line_id}:early_fee", "early_fee", at, fee, line.line_id, line.seller_id)
            charges = (*charges, owed) if fee else charges
        return self.resigned(evolve(state.with_line(removed), charges=charges))

    def event(self, payload: RemoveProduct, before: ContractState) -> str:
        return "contract.product_removed"

    def buyer_may(self, payload: RemoveProduct, state: ContractState) -> bool:
        return payload.early_fee is None and payload.unused != "refund"


@operation
class ChangeQuantityOperation(AgreedOperation[ChangeQuantity]):
    name, label = "change_quantity", "Change a quantity"
    payload = ChangeQuantity

    def effective_at(self, payload: ChangeQuantity, state: ContractState, at: datetime) -> datetime | None:
        return state.period(at).end if payload.proration == "next_period" else None

    def needs_approval(self, state: ContractState, payload: ChangeQuantity, at: datetime) -> str:
        line = state.lines.get(payload.line_id)
        fewer = line is not None and payload.of(line) < line.quantity
        return "Fewer units are bound than were agreed." if fewer and _is_early(state, line, at) else ""

    def check(self, state: ContractState, payload: ChangeQuantity, at: datetime) -> None:
        if (payload.quantity is None) == (payload.delta is None):
            raise InvalidInput(
                "Give either quantity or delta.", pointer="/quantity", code="quantity_or_delta"
            )
        line = live_line(state, payload.line_id)
        if line.kind == "usage":
            raise Conflict(
                f"{line.product_code} is metered; its quantity is what is used.",
                pointer="/line_id",
                code="line_is_metered",
            )
        quantity, place = payload.of(line), "/quantity" if payload.delta is None else "/delta"
        if quantity < 0:
            raise InvalidInput(
                f"{line.quantity} would become {quantity}.", pointer="/delta", code="quantity_negative"
            )
        check_amount(line.price, quantity, place)
        self._check_units(state, line, payload, quantity)
        _check_committed(state, line, quantity, place)

    def _check_units(
        self, state: ContractState, line: LineState, payload: ChangeQuantity, quantity: int
    ) -> None:
        for i, unit in enumerate(payload.release_units):
            if unit not in line.unit_ids:
                raise InvalidInput(
                    f"The line has no unit {unit}.", pointer=f"/release_units/{i}", code="unit_not_in_line"
                )
        taken = {unit for one in state.live_lines for unit in one.unit_ids} - set(payload.release_units)
        _check_units(payload.add_units, taken, max(quantity, len(payload.add_units)), "/add_units")
        named = len(payload.units_of(line))
        if named > quantity:
            raise InvalidInput(
                f"{named} units would be named for {quantity}; say which are released.",
                pointer="/release_units",
                code="units_exceed_quantity",
            )

    def apply(self, state: ContractState, payload: ChangeQuantity, at: datetime) -> ContractState:
        line = state.lines.get(payload.line_id)
        if line is None or not line.live:
            return state
        changed = evolve(line, quantity=max(0, payload.of(line)), unit_ids=payload.units_of(line))
        if payload.proration == "none" and state.status in RUNNING:
            until = state.period(at).end
            changed = evolve(changed, billed_quantity=line.billable, billed_until=until)
        elif line.billed_quantity is not None:
            more = changed.quantity - line.quantity
            # What is not billed yet goes first; what is billed though it went without proration stays.
            kept = changed.quantity + max(0, line.billed_quantity - line.quantity)
            billed = line.billed_quantity + more if more > 0 else min(line.billed_quantity, kept)
            changed = evolve(changed, billed_quantity=billed)
        return self.resigned(state.with_line(changed)) if changed != line else state

    def event(self, payload: ChangeQuantity, before: ContractState) -> str:
        return "contract.quantity_changed"

    def buyer_may(self, payload: ChangeQuantity, state: ContractState) -> bool:
        return True


def forfeited(state: ContractState, line: LineState, at: datetime) -> Forfeited | None:
    """How a recurring line that ends at `at` is billed on when nothing of the period is given back."""
    end, share = state.period(at - _TICK).end, state.billing_share(line)
    if end <= at or line.kind != "recurring" or not share:
        return None
    return Forfeited(end, state.buyer_id, state.owner_epoch, share)


def _is_early(state: ContractState, line: LineState | None, at: datetime) -> bool:
    """Whether a line that runs would end within its minimum term; in a trial nothing is bound yet."""
    if line is None or line.min_term_until is None or state.trial is not None:
        return False
    return state.status in RUNNING and at < line.min_term_until


def _check_committed(state: ContractState, line: LineState, quantity: int, pointer: str) -> None:
    """What a minimum of units counts must be able to reach it, when all of its lines are recurring."""
    for commitment in state.commitments.values():
        counted = [one for one in state.live_lines if commitment.covers(one.line_id)]
        if commitment.kind != "minimum_quantity" or line not in counted:
            continue
        windows = {"period": MONTHS[state.billing.cadence], "quarter": 3, "term": state.term_months or 0}
        total = sum(one.quantity for one in counted) - line.quantity + quantity
        reached = total * windows[commitment.window] >= commitment.units
        if quantity < line.quantity and not reached and all(one.kind == "recurring" for one in counted):
            raise Conflict(
                f"Commitment {commitment.commitment_id} is for {commitment.units} units.",
                pointer=pointer,
                code="quantity_below_commitment",
            )
