"""transfer_ownership: another buyer, or another seller, takes a party's place from an instant on.

The days before stay with the party that leaves: its invoices, its view of the contract, its money. Loans go
as the parties say, and all of them have consented. No other money follows a transfer.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from commerce.errors import Conflict, FieldError, InvalidInput
from contracts.rules import schema
from contracts.rules.operations.base import RUNNING, Operation, operation
from contracts.rules.operations.financing import settled
from contracts.rules.operations.terms import check_windows
from contracts.rules.state import ContractState, Signatures, Transfer, evolve
from contracts.rules.terms import AnchorDay

_ALLOWED = frozenset({"pending_activation", "active"})
# What the parties might want to go along, and what they can do about it instead.
_STAYS = {
    "unpaid": "Invoices stay with the buyer who leaves: have them paid, or let the two settle it themselves.",
    "credits": "Credits stay with the buyer who leaves, in its wallet; let the two settle it themselves.",
    "prepaid": "What was set aside returns to the wallet of the buyer who leaves; the new one funds its own.",
}


@dataclass(frozen=True)
class TransferOwnership:
    """`old_party_id` says which seller leaves; it may be left out when there is one.

    `unpaid`, `credits` and `prepaid` stay with the leaving buyer: anything else is refused. `anchor_day`
    belongs to anchor new_day, and that to another buyer.
    """

    party: Literal["buyer", "seller"]
    new_party_id: UUID
    old_party_id: UUID | None = None
    consents: Signatures = ()
    unpaid: Literal["stays", "assumed"] = "stays"
    credits: Literal["stays", "moves"] = "stays"
    prepaid: Literal["stays", "moves"] = "stays"
    financing: Literal["novate", "payoff"] = "novate"
    anchor: Literal["keep", "new_day"] = "keep"
    anchor_day: AnchorDay | None = None
    end_old: Literal["immediate", "end_of_term"] = "immediate"


@operation
class TransferOperation(Operation):
    name, label = "transfer_ownership", "Transfer ownership"
    reason_required = True
    payload = TransferOwnership

    def allowed(self, payload: TransferOwnership) -> frozenset[str]:
        return _ALLOWED

    def effective_at(self, payload: TransferOwnership, state: ContractState, at: datetime) -> datetime | None:
        return state.end_at if payload.end_old == "end_of_term" else None

    def needs_approval(self, state: ContractState, payload: TransferOwnership, at: datetime) -> str:
        return f"Two people agree to another {payload.party}."

    def check(self, state: ContractState, payload: TransferOwnership, at: datetime) -> None:
        wanted = [name for name in _STAYS if getattr(payload, name) != "stays"]
        if wanted:
            raise schema.invalid([FieldError(f"/{name}", "not_supported", _STAYS[name]) for name in wanted])
        if payload.end_old == "end_of_term" and state.end_at is None:
            raise Conflict(
                "An evergreen contract has no end of term.", pointer="/end_old", code="term_required"
            )
        if (payload.anchor == "new_day") != (payload.anchor_day is not None):
            raise InvalidInput(
                "A new anchor has a day, and no other has one.",
                pointer="/anchor_day",
                code="anchor_day_invalid",
            )
        if payload.anchor == "new_day":
            _check_anchor(state, payload, at)
        old = leaving(state, payload)
        if old == payload.new_party_id:
            raise Conflict(f"It is the {payload.party} already.", pointer="/new_party_id", code="same_party")
        self._check_consents(state, payload, old)

    def _check_consents(self, state: ContractState, payload: TransferOwnership, old: UUID) -> None:
        given = {consent.party for consent in payload.consents}
        for i, consent in enumerate(payload.consents):
            if consent.party not in {old, payload.new_party_id, *lenders(state)}:
                raise InvalidInput(
                    f"{consent.party} is neither leaving, nor coming, nor a lender.",
                    pointer=f"/consents/{i}/party",
                    code="not_a_party",
                )
        for party in (old, payload.new_party_id):
            if party not in given:
                raise Conflict(f"{party} has not consented.", pointer="/consents", code="consent_missing")
        for lender in lenders(state) if payload.party == "buyer" and payload.financing == "novate" else ():
            if lender not in given:
                raise Conflict(
                    f"The lender {lender} has not agreed to another debtor.",
                    pointer="/financing",
                    code="lender_refused",
                )

    def apply(self, state: ContractState, payload: TransferOwnership, at: datetime) -> ContractState:
        old = _leaving(state, payload)
        if state.status not in _ALLOWED or old is None or old == payload.new_party_id:
            return state
        transfer = Transfer(
            party=payload.party,
            old_id=old,
            new_id=payload.new_party_id,
            at=at,
            unpaid=payload.unpaid,
            credits=payload.credits,
            prepaid=payload.prepaid,
            financing=payload.financing,
        )
        if payload.party == "buyer" and payload.financing == "payoff":
            state = _paid_off(state, at)
        changes: dict[str, Any] = {
            "transfers": (*state.transfers, transfer),
            "signatures": (*state.signatures, *payload.consents),
        }
        if payload.anchor_day is not None:
            state = state.billed_by(evolve(state.billing, anchor_day=payload.anchor_day), at)
        if payload.party == "seller":
            changes["lines"] = {
                id_: evolve(line, seller_id=payload.new_party_id)
                if line.live and line.seller_id == old
                else line
                for id_, line in state.lines.items()
            }
        else:
            changes |= {"buyer_id": payload.new_party_id, "owner_epoch": state.owner_epoch + 1}
        return evolve(state, **changes)

    def event(self, payload: TransferOwnership, before: ContractState) -> str:
        return "contract.transferred"


def _check_anchor(state: ContractState, payload: TransferOwnership, at: datetime) -> None:
    if payload.party != "buyer":
        raise InvalidInput(
            "Only another buyer is billed from another day.", pointer="/anchor", code="anchor_day_invalid"
        )
    if payload.anchor_day != state.billing.anchor_day and state.status in RUNNING:
        check_windows(state, at, "/anchor_day")


def _paid_off(state: ContractState, at: datetime) -> ContractState:
    """What is left of the loans is owed by the buyer who leaves, in the last moment that is its own."""
    after = settled(state, at, "payoff")
    charges = (
        charge if charge in state.charges else evolve(charge, at=at - timedelta(microseconds=1))
        for charge in after.charges
    )
    return evolve(after, charges=tuple(charges))


def lenders(state: ContractState) -> set[UUID]:
    """Third parties who have lent for the contract and are not repaid."""
    return {
        loan.lender.id
        for loan in state.financings.values()
        if loan.closed_at is None and loan.lender.kind != "platform" and loan.lender.id
    }


def leaving(state: ContractState, payload: TransferOwnership) -> UUID:
    """Whose place is taken. Conflict or InvalidInput when the payload does not say, or says it wrong."""
    old = _leaving(state, payload)
    if old is None:
        code = "old_party_required" if payload.old_party_id is None else "not_a_party"
        raise InvalidInput(f"Name the {payload.party} who leaves.", pointer="/old_party_id", code=code)
    return old


def _leaving(state: ContractState, payload: TransferOwnership) -> UUID | None:
    if payload.party == "buyer":
        return state.buyer_id if payload.old_party_id in (None, state.buyer_id) else None
    sellers = {line.seller_id for line in state.live_lines}
    if payload.old_party_id is not None:
        return payload.old_party_id if payload.old_party_id in sellers else None
    return sellers.pop() if len(sellers) == 1 else None
