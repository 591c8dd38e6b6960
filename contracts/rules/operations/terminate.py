"""terminate: end a running contract, or cancel one that never ran."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from contracts.rules.operations.base import RUNNING, Operation, operation
from contracts.rules.periods import billing_period
from contracts.rules.state import FINAL, ContractState, evolve

_BEFORE_START = frozenset({"draft", "pending_signature", "pending_activation"})


@dataclass(frozen=True)
class Terminate:
    """`date` means the edit's own `effective_at`."""

    when: Literal["immediate", "end_of_period", "date"] = "immediate"
    cause: Literal["convenience", "breach_buyer", "breach_seller", "non_payment", "mutual", "duplicate"] = (
        "convenience"
    )


@operation
class TerminateOperation(Operation):
    name, label = "terminate", "Terminate"
    permission = "contracts.terminate_contract"
    reason_required = True
    payload = Terminate

    def allowed(self, payload: Terminate) -> frozenset[str]:
        return RUNNING | _BEFORE_START

    def effective_at(self, payload: Terminate, state: ContractState, at: datetime) -> datetime | None:
        if payload.when == "end_of_period" and state.start_at:
            return billing_period(state.billing.anchor_day, state.start_at, at).end
        return None

    def apply(self, state: ContractState, payload: Terminate, at: datetime) -> ContractState:
        if state.status in FINAL:
            return state
        status = "cancelled" if state.status in _BEFORE_START else "terminated"
        return evolve(state, status=status, end_at=at, holds=())

    def event(self, payload: Terminate, before: ContractState) -> str:
        return "contract.cancelled" if before.status in _BEFORE_START else "contract.terminated"

    def buyer_may(self, payload: Terminate, state: ContractState) -> bool:
        return payload.cause == "convenience"
