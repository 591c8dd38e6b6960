"""terminate: end a running contract, or cancel one that never ran.

What leaving early costs, and what becomes of what is unused, used last, committed and lent, is said here
and kept with the ending; the money follows from it as from any other state.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

from commerce.errors import Conflict
from contracts.rules import schema
from contracts.rules.operations.base import RUNNING, Operation, operation
from contracts.rules.operations.fees import EarlyFee, check_due, fee_faults, unused_faults
from contracts.rules.operations.financing import Clause, settled
from contracts.rules.operations.products import forfeited
from contracts.rules.periods import MONTHS
from contracts.rules.schema import Server
from contracts.rules.state import FINAL, Charge, ContractState, Ending, LineState, evolve

# Of a commitment, from least to most.
_ASKS = ("waive", "prorate", "full")
_BEFORE_START = frozenset({"draft", "pending_signature", "pending_activation"})


@dataclass(frozen=True)
class Terminate:
    """`date` means the edit's own `effective_at`. Who leaves a term early for convenience is told the fee,
    if one of none. What is `unused` is credited or forfeited; a refund is refused. `financing` stands in for
    what each loan says of itself, `commitment` likewise.

    `notice_given_at` is when the other side was told, where that was before it is recorded (`recorded_at`).
    """

    when: Literal["immediate", "end_of_period", "end_of_term", "date"] = "immediate"
    cause: Literal["convenience", "breach_buyer", "breach_seller", "non_payment", "mutual", "duplicate"] = (
        "convenience"
    )
    early_fee: EarlyFee | None = None
    unused: Literal["credit", "refund", "forfeit"] = "credit"
    final_usage: Literal["bill", "skip"] = "bill"
    commitment: Literal["full", "prorate", "waive"] | None = None
    financing: Clause | None = None
    notice_given_at: datetime | None = None
    recorded_at: Annotated[datetime | None, Server()] = None


@operation
class TerminateOperation(Operation[Terminate]):
    name, label = "terminate", "Terminate"
    permission = "contracts.terminate_contract"
    reason_required = True
    before_clock = True
    payload = Terminate

    def allowed(self, payload: Terminate) -> frozenset[str]:
        return RUNNING | _BEFORE_START

    def refused_as(self, state: ContractState) -> str:
        return "already_terminated" if state.status in ("terminated", "cancelled") else "invalid_state"

    def effective_at(self, payload: Terminate, state: ContractState, at: datetime) -> datetime | None:
        if payload.when == "end_of_term" and state.end_at is None:
            raise Conflict("An evergreen contract has no end of term.", pointer="/when", code="term_required")
        if payload.when == "end_of_period":
            return state.period(at).end
        return state.end_at if payload.when == "end_of_term" else None

    def needs_approval(self, state: ContractState, payload: Terminate, at: datetime) -> str:
        waived = payload.early_fee is not None and payload.early_fee.kind == "none"
        if waived and _bound(state, at):
            return "The fee for leaving early is waived."
        less = state.status in RUNNING and any(
            _ASKS.index(payload.commitment or one.on_termination) < _ASKS.index(one.on_termination)
            for one in state.commitments.values()
        )
        return "Less of a commitment is asked for than was agreed." if less else ""

    def check(self, state: ContractState, payload: Terminate, at: datetime) -> None:
        if faults := [*fee_faults(payload.early_fee), *unused_faults(payload.unused)]:
            raise schema.invalid(faults)
        bound = bool(_bound(state, at))
        check_due(payload.early_fee, bound)
        if state.status not in RUNNING:
            return
        if payload.cause == "convenience" and payload.early_fee is None and bound:
            raise Conflict(
                "The contract is bound for longer: name the fee for leaving early.",
                pointer="/early_fee",
                code="fee_required",
            )
        days = state.terms.renewal.notice_days
        given = payload.notice_given_at
        if given is None and payload.cause == "convenience" and _takes_notice(state, payload, at):
            given = payload.recorded_at or at
        if given and at - given < timedelta(days=days):
            raise Conflict(
                f"A termination takes {days} days' notice.",
                pointer="/notice_given_at",
                code="notice_too_short",
            )

    def apply(self, state: ContractState, payload: Terminate, at: datetime) -> ContractState:
        if state.status in FINAL or not state.exists:
            return state
        if state.status in _BEFORE_START:
            return evolve(state, status="cancelled", end_at=at, holds=(), financings={}, charges=())
        months = MONTHS[state.billing.cadence]
        fee = payload.early_fee.of(_bound(state, at), at, months) if payload.early_fee else 0
        after = settled(state, at, payload.financing)
        if fee:
            after = evolve(after, charges=(*after.charges, Charge("early_fee", "early_fee", at, fee)))
        if payload.unused == "forfeit":
            after = evolve(
                after,
                lines={
                    id_: evolve(line, forfeited=forfeited(state, line, at)) if line.live else line
                    for id_, line in after.lines.items()
                },
            )
        ending = Ending(at, payload.cause, payload.unused, payload.final_usage, payload.commitment)
        return evolve(after, status="terminated", end_at=at, holds=(), ending=ending)

    def event(self, payload: Terminate, before: ContractState) -> str:
        return "contract.cancelled" if before.status in _BEFORE_START else "contract.terminated"

    def buyer_may(self, payload: Terminate, state: ContractState) -> bool:
        """Its notice is the request itself: nobody vouches for an earlier one."""
        return payload == Terminate(payload.when, recorded_at=payload.recorded_at)


def _takes_notice(state: ContractState, payload: Terminate, at: datetime) -> bool:
    """Not on trial, nor for a fee in place of what is left, nor where the contract ends anyway."""
    if state.trial is not None or (payload.early_fee and _bound(state, at)):
        return False
    return state.end_at is None or at < state.end_at or state.renews


def _bound(state: ContractState, at: datetime) -> list[tuple[LineState, datetime]]:
    """The lines that are agreed for longer, and until when; a trial binds none."""
    if state.trial is not None or state.status not in RUNNING:
        return []
    lines = [
        (line, max(end for end in (state.end_at, line.min_term_until, at) if end is not None))
        for line in state.live_lines
        if line.kind == "recurring"
    ]
    return [(line, until) for line, until in lines if until > at]
