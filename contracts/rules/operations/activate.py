"""activate: the four stages from draft to a running contract."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from commerce.errors import Conflict, InvalidInput
from contracts.rules.operations.base import Operation, operation
from contracts.rules.state import ContractState, Signature, evolve

_SOURCES = {
    "submit": frozenset({"draft"}),
    "withdraw": frozenset({"pending_signature"}),
    "signed": frozenset({"pending_signature", "pending_activation"}),
    "live": frozenset({"pending_activation"}),
}
_TARGETS = {
    "submit": "pending_signature",
    "withdraw": "draft",
    "signed": "pending_activation",
    "live": "active",
}
_EVENTS = {
    "submit": "contract.submitted",
    "withdraw": "contract.withdrawn",
    "signed": "contract.signed",
    "live": "contract.activated",
}


@dataclass(frozen=True)
class Activate:
    """`signatures`, when given at stage signed, are kept with the contract."""

    stage: Literal["submit", "withdraw", "signed", "live"]
    signatures: tuple[Signature, ...] = ()


@operation
class ActivateOperation(Operation):
    name, label = "activate", "Activate"
    permission = "contracts.activate_contract"
    payload = Activate

    def allowed(self, payload: Activate) -> frozenset[str]:
        return _SOURCES[payload.stage]

    def check(self, state: ContractState, payload: Activate, at: datetime) -> None:
        if payload.signatures and payload.stage != "signed":
            raise InvalidInput(
                "Signatures belong to the stage signed.", pointer="/signatures", code="signatures_misplaced"
            )
        parties = {state.buyer_id, *state.seller_ids}
        for i, signature in enumerate(payload.signatures):
            if signature.party not in parties:
                raise InvalidInput(
                    f"{signature.party} is neither the buyer nor a seller of this contract.",
                    pointer=f"/signatures/{i}/party",
                    code="not_a_party",
                )
        if payload.stage in ("submit", "live") and not state.live_lines:
            raise Conflict("The contract has no lines.", pointer="/stage", code="no_lines")
        if payload.stage == "live":
            self._check_live(state, at)

    def _check_live(self, state: ContractState, at: datetime) -> None:
        if state.needs_resign:
            raise Conflict(
                "The lines changed after signature; record the stage signed again.",
                pointer="/stage",
                code="not_signed",
            )
        if state.start_at and at < state.start_at:
            raise InvalidInput(
                f"The contract starts at {state.start_at:%Y-%m-%d %H:%M} UTC.",
                pointer="/effective_at",
                code="effective_before_start",
            )
        if state.end_at and at >= state.end_at:
            raise InvalidInput(
                f"The contract ends at {state.end_at:%Y-%m-%d %H:%M} UTC.",
                pointer="/effective_at",
                code="effective_after_end",
            )

    def apply(self, state: ContractState, payload: Activate, at: datetime) -> ContractState:
        if state.status not in _SOURCES[payload.stage]:
            return state
        signatures = {"signed": payload.signatures or state.signatures, "withdraw": ()}
        return evolve(
            state,
            status=_TARGETS[payload.stage],
            signatures=signatures.get(payload.stage, state.signatures),
            needs_resign=state.needs_resign and payload.stage == "submit",
        )

    def event(self, payload: Activate, before: ContractState) -> str:
        return _EVENTS[payload.stage]

    def buyer_may(self, payload: Activate, state: ContractState) -> bool:
        return payload.stage in ("submit", "withdraw")
