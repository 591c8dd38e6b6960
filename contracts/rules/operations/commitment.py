"""set_commitment: the buyer commits to a minimum of money or of units over each window, or prepays.

A commitment that is agreed before the contract starts begins with it. One line is counted by one
commitment at a time. What a prepayment comes to is the downpayment of the contract's terms.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from commerce.errors import Conflict, FieldError, InvalidInput, NotFound
from contracts.rules import schema
from contracts.rules.operations.agreed import AgreedOperation, begins, lines_of
from contracts.rules.operations.base import RUNNING, operation
from contracts.rules.schema import Between, Minor, Quantity
from contracts.rules.state import Amount, Commitment, ContractState, Scope, evolve

KindOfCommitment = Literal["minimum_spend", "minimum_quantity", "prepaid"]


@dataclass(frozen=True)
class SetCommitment:
    """`set` a commitment, or the one of that id anew; `end` it, which takes its id (and kind, if prepaid).

    A minimum of `amount_minor` or of `units` over each `window`, counted over the lines of `scope`; units
    beyond it cost `overage_factor` times the rate, at most `rollover_units` of what falls short stay open.
    """

    commitment_id: UUID
    mode: Literal["set", "end"] = "set"
    kind: KindOfCommitment | None = None
    amount_minor: Minor | None = None
    units: Quantity | None = None
    scope: Scope = "all"
    window: Literal["period", "quarter", "term"] = "period"
    true_up: Literal["window", "term_end", "none"] = "window"
    overage_factor: Annotated[Decimal, Between(1, 100)] = Decimal(1)
    rollover_units: Quantity = Decimal(0)
    on_termination: Literal["prorate", "full", "waive"] = "prorate"


@operation
class SetCommitmentOperation(AgreedOperation[SetCommitment]):
    name, label = "set_commitment", "Set a commitment"
    payload = SetCommitment

    def needs_approval(self, state: ContractState, payload: SetCommitment, at: datetime) -> str:
        old = state.commitments.get(payload.commitment_id)
        if state.status not in RUNNING or old is None:
            return ""
        return "" if _holds_to(old, payload) else "Sellers were promised what falls short of this commitment."

    def check(self, state: ContractState, payload: SetCommitment, at: datetime) -> None:
        if payload.mode == "end":
            self._check_end(state, payload)
            return
        if faults := list(_faults(payload)):
            raise schema.invalid(faults)
        if payload.kind != "prepaid":
            self._check_window(state, payload)
            self._check_scope(state, payload)

    def _check_end(self, state: ContractState, payload: SetCommitment) -> None:
        if payload != SetCommitment(payload.commitment_id, mode="end", kind=payload.kind):
            raise InvalidInput(
                "To end a commitment, give its id only.", pointer="/mode", code="field_misplaced"
            )
        prepaid = payload.kind == "prepaid" and state.terms.commitment.downpayment
        if payload.commitment_id not in state.commitments and not prepaid:
            raise NotFound(
                f"No commitment {payload.commitment_id} is in force.",
                pointer="/commitment_id",
                code="commitment_not_found",
            )

    def _check_window(self, state: ContractState, payload: SetCommitment) -> None:
        if payload.window == "quarter" and state.billing.cadence == "P1Y":
            raise InvalidInput(
                "A contract that is billed by the year has no window of a quarter.",
                pointer="/window",
                code="window_misaligned",
            )
        if "term" in (payload.window, payload.true_up.removesuffix("_end")) and state.end_at is None:
            raise InvalidInput(
                "An evergreen contract has no end of term to measure by.",
                pointer="/window" if payload.window == "term" else "/true_up",
                code="window_misaligned",
            )

    def _check_scope(self, state: ContractState, payload: SetCommitment) -> None:
        lines = lines_of(state, payload.scope)
        for other in state.commitments.values():
            shared = [line.product_code for line in lines if other.covers(line.line_id)]
            if shared and other.commitment_id != payload.commitment_id:
                raise Conflict(
                    f"{shared[0]} is counted by commitment {other.commitment_id} already.",
                    pointer="/scope",
                    code="commitment_overlap",
                )
        if payload.kind == "minimum_quantity" and len({line.unit for line in lines}) > 1:
            raise InvalidInput(
                "Units of different kinds do not add up; name lines of one unit.",
                pointer="/scope",
                code="units_differ",
            )

    def apply(self, state: ContractState, payload: SetCommitment, at: datetime) -> ContractState:
        if payload.kind == "prepaid":
            amount = Amount(payload.amount_minor or 0, state.currency) if payload.mode == "set" else None
            commitment = evolve(state.terms.commitment, downpayment=amount)
            after = evolve(state, terms=evolve(state.terms, commitment=commitment))
            return self.resigned(after) if after != state else state
        commitments = {id_: one for id_, one in state.commitments.items() if id_ != payload.commitment_id}
        if payload.mode == "set" and payload.kind is not None:
            commitments[payload.commitment_id] = _commitment(payload, payload.kind, begins(state, at))
        elif payload.commitment_id not in state.commitments:
            return state
        return self.resigned(evolve(state, commitments=commitments))

    def event(self, payload: SetCommitment, before: ContractState) -> str:
        return "contract.commitment_ended" if payload.mode == "end" else "contract.commitment_set"

    def buyer_may(self, payload: SetCommitment, state: ContractState) -> bool:
        return state.status == "draft"


def _holds_to(old: Commitment, payload: SetCommitment) -> bool:
    """Whether it is set again with more in it at most: anything else of it may lower what is owed."""
    if payload.mode == "end" or payload.kind != old.kind:
        return False
    new = _commitment(payload, old.kind, old.since)
    more = {"overage_factor": max(old.overage_factor, new.overage_factor)}
    if old.overage_factor == 1:  # else more of it leaves less that goes beyond it
        more |= {name: max(getattr(old, name), getattr(new, name)) for name in ("amount_minor", "units")}
    return new == evolve(old, **more, ends_at=None)


def _commitment(
    payload: SetCommitment, kind: Literal["minimum_spend", "minimum_quantity"], since: datetime
) -> Commitment:
    return Commitment(
        commitment_id=payload.commitment_id,
        kind=kind,
        scope=payload.scope,
        since=since,
        amount_minor=payload.amount_minor or 0,
        units=payload.units or Decimal(0),
        window=payload.window,
        true_up=payload.true_up,
        overage_factor=payload.overage_factor,
        rollover_units=payload.rollover_units,
        on_termination=payload.on_termination,
    )


def _faults(payload: SetCommitment) -> Iterator[FieldError]:
    if payload.kind is None:
        yield FieldError("/kind", "required", "Say which kind of commitment it is.")
        return
    counts_units = payload.kind == "minimum_quantity"
    for name, wanted in (("units", counts_units), ("amount_minor", not counts_units)):
        if bool(getattr(payload, name)) != wanted:
            yield FieldError(
                f"/{name}",
                "required" if wanted else "field_misplaced",
                f"A {payload.kind.replace('_', ' ')} is said in {'units' if counts_units else 'money'}.",
            )
    if payload.rollover_units and not counts_units:
        yield FieldError("/rollover_units", "field_misplaced", "Only units can stay open.")
