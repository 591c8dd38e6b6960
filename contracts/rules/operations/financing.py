"""attach_financing: a loan to the buyer that is repaid with the contract, and how it comes to its end.

A loan never changes: refinancing and topping up close one and open another, so that the schedule follows
from the values of each. What a lender or the platform must agree to is agreed by two people.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Literal
from uuid import UUID

from commerce.errors import Conflict, FieldError, InvalidInput, NotFound
from commerce.money import round_half_up
from contracts.rules import schema
from contracts.rules.charges import charge
from contracts.rules.loans import payoff_of
from contracts.rules.operations.agreed import AgreedOperation, begins, lines_of
from contracts.rules.operations.base import operation
from contracts.rules.schema import Between, Minor, Share
from contracts.rules.state import Charge, ContractState, Financing, Lender, SomeLines, evolve

Clause = Literal["accelerate", "continue", "payoff"]
_REPLACING = frozenset({"refinance", "top_up"})
_OPENING = _REPLACING | {"attach"}


@dataclass(frozen=True)
class AttachFinancing:
    """`attach` opens a loan; `refinance` and `top_up` open one that repays the loan it `replaces`.

    The principal of a refinancing is that loan's payoff, of a top-up it is more. `payoff` ends a loan for
    `payoff_minor`, the amount that was quoted for the day; `detach` takes it off the contract unpaid.
    Shares: `apr` 0.09 is nine per cent a year, `prepayment_penalty` is of the balance.
    """

    financing_id: UUID
    mode: Literal["attach", "refinance", "top_up", "payoff", "detach"] = "attach"
    replaces: UUID | None = None
    principal_minor: Minor | None = None
    downpayment_minor: Minor = 0
    apr: Annotated[Decimal, Between(0, 1, above="apr_cap")] = Decimal(0)
    term_months: Annotated[int, Between(1, 84)] | None = None
    first_due_on: date | None = None
    day_count: Literal["30_360", "actual_365"] = "30_360"
    method: Literal["level", "interest_only_then_level"] = "level"
    interest_only_months: Annotated[int, Between(0, 83)] = 0
    fee_minor: Minor = 0
    lender: Lender = field(default_factory=Lender)
    collateral: SomeLines = ()
    prepayment_penalty: Share = Decimal(0)
    late_fee_minor: Minor = 0
    on_terminate: Clause = "accelerate"
    payoff_minor: Minor | None = None


@operation
class AttachFinancingOperation(AgreedOperation[AttachFinancing]):
    name, label = "attach_financing", "Attach financing"
    payload = AttachFinancing

    def needs_approval(self, state: ContractState, payload: AttachFinancing, at: datetime) -> str:
        if payload.mode == "payoff":
            return ""
        return "A loan is taken off the contract." if payload.mode == "detach" else "A loan is granted."

    def check(self, state: ContractState, payload: AttachFinancing, at: datetime) -> None:
        if payload.mode not in _OPENING:
            _check_closing(state, payload, at)
            return
        since = begins(state, at)
        if faults := list(_faults(state, payload, since)):
            raise schema.invalid(faults)
        if payload.financing_id in state.financings:
            raise Conflict(
                f"There is a loan {payload.financing_id} already.",
                pointer="/financing_id",
                code="financing_id_taken",
            )
        if payload.replaces is not None:
            _check_replaced(open_loan(state, payload.replaces, "/replaces"), payload, since)
        _check_collateral(state, payload)

    def apply(self, state: ContractState, payload: AttachFinancing, at: datetime) -> ContractState:
        if payload.mode not in _OPENING:
            loan = state.financings.get(payload.financing_id)
            if loan is None or loan.closed_at is not None:
                return state
            return self.resigned(closed(state, loan, payload.mode, at, charged=payload.mode == "payoff"))
        since = begins(state, at)
        loan = _loan(payload, since)
        if loan is None or payload.financing_id in state.financings:
            return state
        replaced = state.financings.get(payload.replaces) if payload.replaces else None
        if replaced is not None and replaced.closed_at is None:
            state = closed(state, replaced, payload.mode, since, charged=False)
        after = evolve(state, financings={**state.financings, loan.financing_id: loan})
        if loan.fee_minor:
            fee = Charge(f"{loan.financing_id}:fee", "financing_fee", since, loan.fee_minor)
            after = evolve(after, charges=(*after.charges, _to_lender(fee, loan)))
        return self.resigned(after)

    def event(self, payload: AttachFinancing, before: ContractState) -> str:
        return "contract.financing_attached" if payload.mode in _OPENING else "contract.financing_closed"


def open_loan(state: ContractState, financing_id: UUID, pointer: str) -> Financing:
    """The loan, if it runs. NotFound (financing_not_found), or Conflict (financing_closed)."""
    loan = state.financings.get(financing_id)
    if loan is None:
        raise NotFound(
            f"The contract has no loan {financing_id}.", pointer=pointer, code="financing_not_found"
        )
    if loan.closed_at is not None:
        raise Conflict(
            f"The loan was closed at {loan.closed_at:%Y-%m-%d %H:%M} UTC.",
            pointer=pointer,
            code="financing_closed",
        )
    return loan


def closed(
    state: ContractState, loan: Financing, by: str, at: datetime, *, charged: bool, penalty: bool = True
) -> ContractState:
    """The state without that loan running: `charged`, what is left of it is owed at once."""
    left = payoff_of(loan, at, penalty=penalty).total_minor
    ended = evolve(loan, closed_at=at, closed_by=by, payoff_minor=left)
    charges = state.charges
    if charged and left:
        owed = Charge(f"{loan.financing_id}:payoff", "financing_payoff", at, left)
        charges = (*charges, _to_lender(owed, loan))
    return evolve(state, financings={**state.financings, loan.financing_id: ended}, charges=charges)


def settled(state: ContractState, at: datetime, clause: Clause | None) -> ContractState:
    """What a termination does to every loan that runs: as `clause` says, or else the loan's own.

    Accelerated by the lender, a loan falls due without the penalty for early repayment.
    """
    for loan in state.financings.values():
        how = clause or loan.on_terminate
        if loan.closed_at is None and how != "continue":
            state = closed(state, loan, how, at, charged=True, penalty=how == "payoff")
    return state


def _to_lender(charge: Charge, loan: Financing) -> Charge:
    """A seller who lends is owed what the loan brings."""
    return evolve(charge, seller_id=loan.lender.id) if loan.lender.kind == "seller" else charge


def _loan(payload: AttachFinancing, since: datetime) -> Financing | None:
    if payload.principal_minor is None or payload.term_months is None or payload.first_due_on is None:
        return None
    return Financing(
        financing_id=payload.financing_id,
        principal_minor=payload.principal_minor,
        apr=payload.apr,
        term_months=payload.term_months,
        first_due_on=payload.first_due_on,
        since=since,
        downpayment_minor=payload.downpayment_minor,
        day_count=payload.day_count,
        method=payload.method,
        interest_only_months=payload.interest_only_months,
        fee_minor=payload.fee_minor,
        lender=payload.lender,
        collateral=payload.collateral,
        prepayment_penalty=payload.prepayment_penalty,
        late_fee_minor=payload.late_fee_minor,
        on_terminate=payload.on_terminate,
    )


def _faults(state: ContractState, payload: AttachFinancing, since: datetime) -> Iterator[FieldError]:
    for name in ("principal_minor", "term_months", "first_due_on"):
        if not getattr(payload, name):
            yield FieldError(f"/{name}", "required", "A loan has an amount, a length and a first due date.")
    if payload.payoff_minor is not None:
        yield FieldError("/payoff_minor", "field_misplaced", "Only a payoff has an amount to pay off.")
    if (payload.mode in _REPLACING) != (payload.replaces is not None):
        yield FieldError(
            "/replaces",
            "required" if payload.mode in _REPLACING else "field_misplaced",
            "A refinancing and a top-up name the loan that they replace, a new loan names none.",
        )
    if payload.first_due_on and payload.first_due_on <= since.date():
        yield FieldError(
            "/first_due_on",
            "first_due_before_start",
            f"The loan starts on {since:%Y-%m-%d}; it is due later.",
        )
    months = payload.interest_only_months
    if (payload.method == "level") != (months == 0) or (payload.term_months or 84) <= months:
        yield FieldError(
            "/interest_only_months",
            "method_invalid",
            "Interest only at first lasts for some of the loan's months; a level loan has none of it.",
        )
    if (payload.lender.kind == "platform") != (payload.lender.id is None):
        yield FieldError("/lender/id", "lender_invalid", "Any lender but the platform is named.")
    elif payload.lender.kind == "seller" and payload.lender.id not in state.seller_ids:
        yield FieldError("/lender/id", "not_a_party", "No seller of this contract.")


def _check_replaced(old: Financing, payload: AttachFinancing, since: datetime) -> None:
    left, principal = payoff_of(old, since).total_minor, payload.principal_minor or 0
    if principal < left or (payload.mode == "refinance" and principal > left):
        more = " or more" if payload.mode == "top_up" else ""
        raise InvalidInput(
            f"The loan that it replaces is paid off by {left}; the principal is that{more}, in minor units.",
            pointer="/principal_minor",
            code="principal_mismatch",
            payoff_minor=left,
        )


def _check_collateral(state: ContractState, payload: AttachFinancing) -> None:
    lines = lines_of(state, payload.collateral, "/collateral") if payload.collateral else []
    for other in state.financings.values():
        shared = set(payload.collateral) & set(other.collateral)
        if shared and other.closed_at is None and other.financing_id != payload.replaces:
            raise Conflict(
                f"The loan {other.financing_id} finances some of these lines already.",
                pointer="/collateral",
                code="schedule_overlap",
            )
    bought = [line for line in lines if line.kind == "one_off"]
    price = sum((charge(line.price, line.quantity) for line in bought), Fraction(0))
    paid = (payload.principal_minor or 0) + payload.downpayment_minor
    if payload.mode == "attach" and bought and paid != round_half_up(price):
        raise InvalidInput(
            f"Principal and downpayment are {paid} minor units, what is financed {round_half_up(price)}.",
            pointer="/principal_minor",
            code="principal_mismatch",
        )


def _check_closing(state: ContractState, payload: AttachFinancing, at: datetime) -> None:
    asked = AttachFinancing(payload.financing_id, payload.mode, payoff_minor=payload.payoff_minor)
    if payload != asked or (payload.mode == "detach" and payload.payoff_minor is not None):
        raise InvalidInput(
            f"To {payload.mode} a loan, give its id{' and the amount' * (payload.mode == 'payoff')} only.",
            pointer="/mode",
            code="field_misplaced",
        )
    loan = open_loan(state, payload.financing_id, "/financing_id")
    left = payoff_of(loan, at).total_minor
    if payload.mode == "payoff" and payload.payoff_minor != left:
        raise Conflict(
            f"On {at:%Y-%m-%d} the loan is paid off by {left} minor units.",
            pointer="/payoff_minor",
            code="payoff_amount_stale",
            payoff_minor=left,
        )
