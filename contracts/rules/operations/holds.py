"""suspend and resume: holds of different reasons nest, and each is lifted by its own reason."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal
from uuid import UUID

from commerce.errors import Conflict, FieldError
from contracts.rules import schema
from contracts.rules.operations.agreed import lines_of
from contracts.rules.operations.base import RUNNING, Operation, operation
from contracts.rules.schema import Share
from contracts.rules.state import ContractState, Hold, HoldReason, Scope, evolve

MAINTENANCE_NOTICE = timedelta(hours=72)
_ONLY_WHOLE = "Only a hold on the whole contract extends its term."


@dataclass(frozen=True)
class Suspend:
    """`billing` continue keeps charging during the hold, reduced charges the share `reduced_to` of the price.

    `access` tells provisioning what to do; `term` extend_on_resume adds what the hold lasted to the term.
    With `resume_at` it is lifted by itself. Maintenance that is announced is announced 72 hours before.
    """

    reason: HoldReason
    scope: Scope = "all"
    billing: Literal["stop", "continue", "reduced"] = "continue"
    access: Literal["block", "keep"] = "block"
    reduced_to: Share | None = None
    term: Literal["run_on", "extend_on_resume"] = "run_on"
    resume_at: datetime | None = None
    notice_given_at: datetime | None = None


@dataclass(frozen=True)
class Resume:
    """Lifts the hold of that reason, from some of its lines only when `scope` names them.

    `extend_term` decides anew whether what the hold lasted is added to the term.
    """

    reason: HoldReason
    scope: Scope = "all"
    extend_term: bool | None = None


@operation
class SuspendOperation(Operation[Suspend]):
    name, label = "suspend", "Suspend"
    permission = "contracts.suspend_contract"
    payload = Suspend

    def allowed(self, payload: Suspend) -> frozenset[str]:
        return RUNNING

    def check(self, state: ContractState, payload: Suspend, at: datetime) -> None:
        if _hold(state, payload.reason):
            raise Conflict(
                f"The contract is already suspended for {payload.reason}.",
                pointer="/reason",
                code="already_suspended_for_reason",
            )
        if faults := list(_faults(payload, at)):
            raise schema.invalid(faults)
        lines_of(state, payload.scope)

    def apply(self, state: ContractState, payload: Suspend, at: datetime) -> ContractState:
        if state.status not in RUNNING or _hold(state, payload.reason):
            return state
        hold = Hold(
            payload.reason,
            payload.scope,
            payload.billing,
            payload.access,
            since=at,
            reduced_to=payload.reduced_to or Decimal(0),
            extends_term=payload.term == "extend_on_resume",
            resume_at=payload.resume_at,
        )
        return state.with_holds((*state.holds, hold))

    def event(self, payload: Suspend, before: ContractState) -> str:
        return "contract.suspended"

    def buyer_may(self, payload: Suspend, state: ContractState) -> bool:
        return payload.reason == "buyer" and payload.billing == "continue" and payload.term == "run_on"


@operation
class ResumeOperation(Operation[Resume]):
    name, label = "resume", "Resume"
    permission = "contracts.suspend_contract"
    payload = Resume

    def allowed(self, payload: Resume) -> frozenset[str]:
        return RUNNING

    def check(self, state: ContractState, payload: Resume, at: datetime) -> None:
        hold = _hold(state, payload.reason)
        if hold is None:
            raise Conflict(
                f"The contract is not suspended for {payload.reason}.",
                pointer="/reason",
                code="not_suspended",
            )
        if payload.extend_term and not hold.extends_term and hold.scope != "all":
            faults = [FieldError("/extend_term", "scope_invalid", _ONLY_WHOLE)]
            raise schema.invalid(faults)
        for i, line_id in enumerate(() if payload.scope == "all" else payload.scope):
            if line_id not in state.lines or not hold.covers(line_id):
                raise Conflict(
                    f"Line {line_id} is not suspended for {payload.reason}.",
                    pointer=f"/scope/{i}",
                    code="not_suspended",
                )

    def apply(self, state: ContractState, payload: Resume, at: datetime) -> ContractState:
        hold = _hold(state, payload.reason)
        if state.status not in RUNNING or hold is None:
            return state
        others = tuple(one for one in state.holds if one != hold)
        if rest := _left(state, hold, payload.scope):
            return state.with_holds((*others, evolve(hold, scope=rest)))
        extends = hold.extends_term if payload.extend_term is None else payload.extend_term
        if extends and state.end_at:
            state = evolve(state, end_at=state.end_at + _added(hold, others, at))
        return state.with_holds(others)

    def event(self, payload: Resume, before: ContractState) -> str:
        return "contract.resumed"

    def buyer_may(self, payload: Resume, state: ContractState) -> bool:
        return payload.reason == "buyer" and payload.extend_term is None


def _hold(state: ContractState, reason: HoldReason) -> Hold | None:
    return next((hold for hold in state.holds if hold.reason == reason), None)


def _left(state: ContractState, hold: Hold, scope: Scope) -> tuple[UUID, ...]:
    """The live lines that stay held when the hold is lifted from a scope."""
    if scope == "all":
        return ()
    return tuple(id_ for line in state.live_lines if hold.covers(id_ := line.line_id) and id_ not in scope)


def _added(hold: Hold, others: tuple[Hold, ...], at: datetime) -> timedelta:
    """What a hold adds to the term: the time that no other hold, still open, is going to add."""
    until = min([at, *(other.since for other in others if other.extends_term)])
    return max(timedelta(0), until - hold.since)


def _faults(payload: Suspend, at: datetime) -> Iterator[FieldError]:
    if (payload.billing == "reduced") != (payload.reduced_to is not None):
        yield FieldError(
            "/reduced_to",
            "required" if payload.billing == "reduced" else "field_misplaced",
            "Reduced billing says to which share of the price, other billing does not.",
        )
    if payload.term == "extend_on_resume" and payload.scope != "all":
        yield FieldError("/term", "scope_invalid", _ONLY_WHOLE)
    if payload.resume_at and payload.resume_at <= at:
        yield FieldError(
            "/resume_at", "resume_before_suspend", f"The hold begins at {at:%Y-%m-%d %H:%M} UTC."
        )
    notice = payload.notice_given_at
    if notice and payload.reason == "maintenance" and at - notice < MAINTENANCE_NOTICE:
        yield FieldError("/notice_given_at", "min_notice", "Maintenance is announced 72 hours before.")
