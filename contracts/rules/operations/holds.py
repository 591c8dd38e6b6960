"""suspend and resume: holds of different reasons nest, and each is lifted by its own reason."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from commerce.errors import Conflict, NotFound
from contracts.rules.operations.base import RUNNING, Operation, operation
from contracts.rules.state import ContractState, Hold, HoldReason, Scope


@dataclass(frozen=True)
class Suspend:
    """`billing` continue keeps charging during the hold; `access` tells provisioning what to do."""

    reason: HoldReason
    scope: Scope = "all"
    billing: Literal["stop", "continue"] = "continue"
    access: Literal["block", "keep"] = "block"


@dataclass(frozen=True)
class Resume:
    reason: HoldReason


@operation
class SuspendOperation(Operation):
    name, label = "suspend", "Suspend"
    permission = "contracts.suspend_contract"
    payload = Suspend

    def allowed(self, payload: Suspend) -> frozenset[str]:
        return RUNNING

    def check(self, state: ContractState, payload: Suspend, at: datetime) -> None:
        if any(hold.reason == payload.reason for hold in state.holds):
            raise Conflict(
                f"The contract is already suspended for {payload.reason}.",
                pointer="/reason",
                code="already_suspended_for_reason",
            )
        if payload.scope == "all":
            return
        if not payload.scope:
            raise NotFound("Name at least one line.", pointer="/scope", code="line_not_found")
        for i, line_id in enumerate(payload.scope):
            line = state.lines.get(line_id)
            if line is None or not line.live:
                raise NotFound(
                    f"The contract has no live line {line_id}.", pointer=f"/scope/{i}", code="line_not_found"
                )

    def apply(self, state: ContractState, payload: Suspend, at: datetime) -> ContractState:
        if state.status not in RUNNING or any(hold.reason == payload.reason for hold in state.holds):
            return state
        hold = Hold(payload.reason, payload.scope, payload.billing, payload.access, since=at)
        return state.with_holds((*state.holds, hold))

    def event(self, payload: Suspend, before: ContractState) -> str:
        return "contract.suspended"

    def buyer_may(self, payload: Suspend, state: ContractState) -> bool:
        return payload.reason == "buyer"


@operation
class ResumeOperation(Operation):
    name, label = "resume", "Resume"
    permission = "contracts.suspend_contract"
    payload = Resume

    def allowed(self, payload: Resume) -> frozenset[str]:
        return RUNNING

    def check(self, state: ContractState, payload: Resume, at: datetime) -> None:
        if all(hold.reason != payload.reason for hold in state.holds):
            raise Conflict(
                f"The contract is not suspended for {payload.reason}.",
                pointer="/reason",
                code="not_suspended",
            )

    def apply(self, state: ContractState, payload: Resume, at: datetime) -> ContractState:
        if state.status not in RUNNING:
            return state
        return state.with_holds(tuple(hold for hold in state.holds if hold.reason != payload.reason))

    def event(self, payload: Resume, before: ContractState) -> str:
        return "contract.resumed"

    def buyer_may(self, payload: Resume, state: ContractState) -> bool:
        return payload.reason == "buyer"
