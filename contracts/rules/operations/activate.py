"""activate: the four stages from draft to a running contract."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from commerce.errors import Conflict, FieldError, InvalidInput
from contracts.rules import schema
from contracts.rules.operations.base import Operation, operation
from contracts.rules.operations.create import TrialPeriod, trial_faults
from contracts.rules.state import ContractState, Signatures, Trial, evolve

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


# The date that billing waits for.
_DATES = {
    "contract_effective": "contract_effective_at",
    "in_service": "service_activation_at",
    "acceptance": "acceptance_at",
}


@dataclass(frozen=True)
class Activate:
    """`signatures`, when given at stage signed, are those of every party, to one document.

    At stage live `bill_from` chooses the date from which the contract runs and is billed: the one that was
    agreed, the service's or that of its acceptance; a `trial` stands in for that of the draft.
    """

    stage: Literal["submit", "withdraw", "signed", "live"]
    signatures: Signatures = ()
    contract_effective_at: datetime | None = None
    service_activation_at: datetime | None = None
    acceptance_at: datetime | None = None
    bill_from: Literal["contract_effective", "in_service", "acceptance"] = "contract_effective"
    trial: TrialPeriod | None = None

    @property
    def billed_from(self) -> datetime | None:
        """The chosen date."""
        value: datetime | None = getattr(self, _DATES[self.bill_from])
        return value


@operation
class ActivateOperation(Operation[Activate]):
    name, label = "activate", "Activate"
    permission = "contracts.activate_contract"
    payload = Activate

    def allowed(self, payload: Activate) -> frozenset[str]:
        return _SOURCES[payload.stage]

    def effective_at(self, payload: Activate, state: ContractState, at: datetime) -> datetime | None:
        return payload.billed_from if payload.stage == "live" else None

    def check(self, state: ContractState, payload: Activate, at: datetime) -> None:
        if faults := list(_faults(state, payload)):
            raise schema.invalid(faults)
        _check_signatures(state, payload)
        if payload.stage in ("submit", "live") and not state.live_lines:
            raise Conflict("The contract has no lines.", pointer="/stage", code="no_lines")
        if payload.stage == "live":
            self._check_live(state, payload, at)

    def _check_live(self, state: ContractState, payload: Activate, at: datetime) -> None:
        if state.needs_resign:
            raise Conflict(
                "The lines changed after signature; record the stage signed again.",
                pointer="/stage",
                code="not_signed",
            )
        date = f"/{_DATES[payload.bill_from]}" if payload.billed_from else "/effective_at"
        if state.start_at and at < state.start_at:
            raise InvalidInput(
                f"The contract starts at {state.start_at:%Y-%m-%d %H:%M} UTC.",
                pointer=date,
                code="effective_before_start",
            )
        if state.end_at and at >= state.end_at:
            raise InvalidInput(
                f"The contract ends at {state.end_at:%Y-%m-%d %H:%M} UTC.",
                pointer=date,
                code="effective_after_end",
            )
        if payload.trial and (faults := list(trial_faults(payload.trial, at, state.end_at))):
            raise schema.invalid(faults)
        trial = _trial(state, payload, at)
        if trial and trial.card_required and state.terms.payment.method_ref is None:
            raise Conflict(
                "The trial needs a method of payment in the terms.", pointer="/trial", code="card_required"
            )

    def apply(self, state: ContractState, payload: Activate, at: datetime) -> ContractState:
        if state.status not in _SOURCES[payload.stage]:
            return state
        signatures = {"signed": payload.signatures or state.signatures, "withdraw": ()}
        after = evolve(
            state,
            status=_TARGETS[payload.stage],
            signatures=signatures.get(payload.stage, state.signatures),
            needs_resign=state.needs_resign and payload.stage == "submit",
        )
        return (
            evolve(after, live_at=at, trial=_trial(state, payload, at)) if payload.stage == "live" else after
        )

    def event(self, payload: Activate, before: ContractState) -> str:
        return _EVENTS[payload.stage]

    def buyer_may(self, payload: Activate, state: ContractState) -> bool:
        return payload.stage in ("submit", "withdraw")


def _trial(state: ContractState, payload: Activate, at: datetime) -> Trial | None:
    """The trial of a contract that goes live at `at`: as the payload says, or else the draft."""
    if payload.trial:
        return payload.trial.begun(at)
    if state.trial is None:
        return None
    until = state.trial.until or at + timedelta(days=state.trial.days or 0)
    return evolve(state.trial, until=until, days=None) if until > at else None


def _faults(state: ContractState, payload: Activate) -> Iterator[FieldError]:
    """Fields at a stage where they do not belong, or that are missing there."""
    if payload.signatures and payload.stage != "signed":
        yield FieldError("/signatures", "signatures_misplaced", "Signatures belong to the stage signed.")
    said = {name for name in _DATES.values() if getattr(payload, name)}
    if payload.stage != "live":
        found = [*sorted(said), *(["trial"] if payload.trial else [])]
        if payload.bill_from != "contract_effective":
            found.append("bill_from")
        for name in found:
            yield FieldError(f"/{name}", "field_misplaced", f"{name} belongs to the stage live.")
    elif payload.bill_from != "contract_effective" and payload.billed_from is None:
        name = _DATES[payload.bill_from]
        yield FieldError(f"/{name}", "required", f"Billing begins then: say when by {name}.")


def _check_signatures(state: ContractState, payload: Activate) -> None:
    """All parties or, when they signed elsewhere, none; and all of them the same document."""
    parties = {state.buyer_id, *(line.seller_id for line in state.live_lines)}
    for i, signature in enumerate(payload.signatures):
        if signature.party not in parties | set(state.seller_ids):
            raise InvalidInput(
                f"{signature.party} is neither the buyer nor a seller of this contract.",
                pointer=f"/signatures/{i}/party",
                code="not_a_party",
            )
        if signature.doc_sha256 != payload.signatures[0].doc_sha256:
            raise Conflict(
                "The parties signed different documents.",
                pointer=f"/signatures/{i}/doc_sha256",
                code="document_differs",
            )
    missing = sorted(map(str, parties - {signature.party for signature in payload.signatures}))
    if payload.signatures and missing:
        raise Conflict(f"{missing[0]} has not signed.", pointer="/signatures", code="not_signed")
