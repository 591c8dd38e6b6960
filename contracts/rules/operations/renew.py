"""renew: another term where the current one ends, at prices that the terms of renewal allow.

A renewal takes effect where the term ends, whenever it is recorded, and before the clock ends the
contract there. Month ends clamp and return: a term from 31 January ends on 28 February, the next on
31 March.
"""

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from commerce.errors import CommerceError, Conflict, InvalidInput
from contracts.rules.charges import rises_over, uplifted
from contracts.rules.operations.agreed import live_line
from contracts.rules.operations.base import RUNNING, Operation, operation
from contracts.rules.operations.prices import check_amount, check_price
from contracts.rules.periods import add_months
from contracts.rules.schema import Between, Length
from contracts.rules.state import MAX_LINES, ContractState, LineState, Price, evolve
from contracts.rules.terms import Uplift

_NEW_TERM = frozenset({"new_term", "co_term"})


@dataclass(frozen=True)
class Repriced:
    """A line's price in the new term."""

    line_id: UUID
    price: Price


@dataclass(frozen=True)
class Renew:
    """`new_term` and `co_term` begin the next term, `extend` moves the end of this one, `evergreen` goes on
    without an end, `lapse` says that the term is not renewed: the contract's end policy holds.

    `term_no` is the term that results (by default whichever comes). `uplift` stands in for that of the terms
    of renewal; a line in `reprice` gets that price instead. `gap` says whether the time since an expired
    contract's end is billed.
    """

    mode: Literal["new_term", "extend", "co_term", "evergreen", "lapse"] = "new_term"
    term_no: Annotated[int, Between(1, 10_000)] | None = None
    term_months: Annotated[int, Between(1, 120)] | None = None
    end_at: datetime | None = None
    uplift: Uplift | None = None
    reprice: Annotated[tuple[Repriced, ...], Length(MAX_LINES)] = ()
    carry_discounts: bool = True
    carry_commitment: Literal["same", "none"] = "same"
    trigger: Literal["auto", "manual"] = "manual"
    gap: Literal["bill", "skip"] = "skip"


@operation
class RenewOperation(Operation[Renew]):
    name, label = "renew", "Renew"
    before_clock = True
    payload = Renew

    def allowed(self, payload: Renew) -> frozenset[str]:
        return RUNNING if payload.mode == "lapse" else RUNNING | {"expired"}

    def effective_at(self, payload: Renew, state: ContractState, at: datetime) -> datetime | None:
        if state.status in RUNNING or payload.gap == "bill":
            return state.end_at
        return None

    def check(self, state: ContractState, payload: Renew, at: datetime) -> None:
        for fault in _faults(state, payload, at):
            raise fault
        if payload.mode == "lapse":
            return
        if payload.trigger == "auto" and not state.renews:
            raise Conflict("The contract does not renew by itself.", pointer="/trigger", code="opted_out")
        _check_prices(state, payload)

    def apply(self, state: ContractState, payload: Renew, at: datetime) -> ContractState:
        if state.status not in RUNNING | {"expired"} or payload.term_no not in (
            None,
            _number(state, payload),
        ):
            return state
        if payload.mode == "lapse":
            return evolve(state, opted_out=True)
        end = _end(state, payload, at)
        if end is None and payload.mode != "evergreen":
            return state
        commitments = state.commitments if payload.carry_commitment == "same" else {}
        term = {} if payload.mode == "extend" else {
            "term_no": state.term_no + 1, "term_start_at": at, "term_months": _months(state, payload),
        }  # fmt: skip
        return evolve(
            state,
            status="active" if state.status == "expired" else state.status,
            end_at=end,
            opted_out=False,
            lines={**state.lines, **{one.line_id: one for one in _priced(state, payload)}},
            discounts=state.discounts if payload.carry_discounts else {},
            commitments={
                id_: evolve(one, ends_at=end) if one.ends_at == state.end_at else one
                for id_, one in commitments.items()
            },
            **term,
        )

    def event(self, payload: Renew, before: ContractState) -> str:
        return "contract.renewal_blocked" if payload.mode == "lapse" else "contract.renewed"

    def buyer_may(self, payload: Renew, state: ContractState) -> bool:
        chosen = Renew(term_no=payload.term_no, term_months=payload.term_months)
        return state.status in RUNNING and payload == chosen


def term_end(start: datetime, months: int, first: datetime | None = None) -> datetime:
    """Where a term of so many months from `start` ends; `first`, the contract's own start, has the day.

    A start at the end of a short month stands for the day that it was clamped from.
    """
    last_of_month = start.day == calendar.monthrange(start.year, start.month)[1]
    day = max(start.day, first.day) if first and last_of_month else start.day
    end = add_months(start, months)
    return end.replace(day=min(day, calendar.monthrange(end.year, end.month)[1]))


def _number(state: ContractState, payload: Renew) -> int:
    return state.term_no if payload.mode == "extend" else state.term_no + 1


def _months(state: ContractState, payload: Renew) -> int | None:
    if payload.mode == "evergreen":
        return None
    return payload.term_months or state.terms.renewal.term_months or state.term_months


def _end(state: ContractState, payload: Renew, at: datetime) -> datetime | None:
    if payload.mode == "evergreen":
        return None
    months = payload.term_months if payload.mode == "extend" else _months(state, payload)
    if payload.end_at or months is None:
        return payload.end_at
    start = state.end_at if payload.mode == "extend" and state.end_at else at
    return term_end(start, months, state.start_at)


def _faults(state: ContractState, payload: Renew, at: datetime) -> Iterator[CommerceError]:
    """What does not fit, the first thing first."""
    number = _number(state, payload)
    if (payload.term_no is not None and payload.term_no < number) or (
        state.status in RUNNING and state.end_at is not None and at < state.end_at
    ):
        ends = f" until {state.end_at:%Y-%m-%d %H:%M} UTC" if state.end_at else ""
        yield Conflict(
            f"The contract is in term {state.term_no}{ends}: it is renewed already.",
            pointer="/term_no",
            code="already_renewed",
        )
    if payload.term_no is not None and payload.term_no > number:
        yield InvalidInput(
            f"The term that comes is {number}.", pointer="/term_no", code="term_no_out_of_order"
        )
    if payload.mode in ("extend", "lapse", "evergreen") and state.end_at is None:
        yield Conflict("The contract has no end.", pointer="/mode", code="no_term_end")
    if payload.mode in ("evergreen", "lapse"):
        if payload.end_at or payload.term_months:
            yield InvalidInput(
                "Without an end there is no length either.", pointer="/term_months", code="term_invalid"
            )
        return
    if payload.end_at and payload.term_months:
        yield InvalidInput("Give either the months or the end.", pointer="/end_at", code="term_invalid")
    if payload.mode == "co_term" and payload.end_at is None:
        yield InvalidInput("Say until when.", pointer="/end_at", code="term_invalid")
    end = _end(state, payload, at)
    if end is None:
        yield InvalidInput("Say for how long.", pointer="/term_months", code="term_invalid")
    elif end <= max(at, state.end_at or at):
        yield InvalidInput(
            "The new end lies after the old one and after the renewal.",
            pointer="/end_at",
            code="term_invalid",
        )


def _uplift(state: ContractState, payload: Renew) -> Uplift:
    """The uplift that holds: a new term's is by default that of the terms, another renewal has none."""
    if payload.uplift is not None:
        return payload.uplift
    return state.terms.renewal.uplift if payload.mode in _NEW_TERM else Uplift()


def _priced(state: ContractState, payload: Renew) -> Iterator[LineState]:
    """The lines whose price is another after the renewal."""
    listed = {one.line_id: one.price for one in payload.reprice}
    uplift = _uplift(state, payload)
    for line in state.live_lines:
        if line.line_id in listed:
            yield evolve(line, price=evolve(listed[line.line_id], currency=state.currency))
        elif uplift.kind == "percent" and line.kind != "one_off" and not _agreed_anew(state, line):
            yield evolve(line, price=uplifted(line.price, uplift.value))


def _agreed_anew(state: ContractState, line: LineState) -> bool:
    """Whether the line has a price since the end of the term that was agreed for the next one."""
    return line.renewed_price_at is not None and line.renewed_price_at == state.end_at


def _check_prices(state: ContractState, payload: Renew) -> None:
    """The cap is the buyer's: an uplift keeps to it, and so does every price that nobody negotiated."""
    uplift, cap = _uplift(state, payload), state.terms.renewal.uplift.cap
    if payload.uplift is not None and (uplift.kind == "percent") != (uplift.value > 0):
        raise InvalidInput(
            "An uplift by percent has a value, and no other has.",
            pointer="/uplift/value",
            code="uplift_incomplete",
        )
    if cap is not None and uplift.value > cap:
        raise Conflict(
            f"{uplift.value} is more than the cap of {cap}.", pointer="/uplift/value", code="uplift_over_cap"
        )
    negotiated = payload.trigger == "manual" and uplift.kind != "catalog"
    for i, one in enumerate(payload.reprice):
        line = live_line(state, one.line_id, f"/reprice/{i}/line_id")
        check_price(state, line, one.price, f"/reprice/{i}/price")
        if cap is not None and not negotiated and rises_over(line.price, one.price, cap):
            raise Conflict(
                f"The price of {line.product_code} would rise by more than the cap of {cap}.",
                pointer=f"/reprice/{i}/price",
                code="uplift_over_cap",
            )
    listed = {one.line_id for one in payload.reprice}
    for line in _priced(state, payload):
        if line.line_id not in listed:
            check_amount(line.price, line.quantity, "/uplift/value")
    missing = {line.line_id for line in state.live_lines if line.offer_id} - listed
    if uplift.kind == "catalog" and missing:
        raise InvalidInput(
            "The new term is sold as its offers are now: give the price of every line that has one.",
            pointer="/reprice",
            code="catalog_prices_missing",
        )
