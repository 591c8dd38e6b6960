"""Whoever owes for a contract is not bound to more of it, nor its sellers: no other term, no more units."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from billing.models import BillingAccount, BillingStatus
from commerce.actor import Actor
from commerce.errors import Conflict
from contracts.models import Contract
from contracts.rules.operations.renew import Renew
from contracts.rules.state import ContractState
from contracts.services.admission import Planned, acts_for_platform, place

NO_MORE = (BillingStatus.DELINQUENT, BillingStatus.COLLECTIONS, BillingStatus.WRITTEN_OFF)


def require_paid_up(contract: Contract, state: ContractState, payload: Renew, effective_at: datetime) -> None:
    """Conflict (past_due_block) when the owner is delinquent or worse."""
    _refuse_who_owes(contract, state.buyer_id)


def sell_no_more(*, contract: Contract, planned: Sequence[Planned], actor: Actor, **_: Any) -> None:
    """Conflict (past_due_block) when a buyer that is delinquent or worse takes more units by its own key."""
    for i, plan in enumerate(() if acts_for_platform(actor) else planned):
        had = plan.before.lines
        if any(
            line.quantity > (had[id_].quantity if id_ in had else 0) for id_, line in plan.after.lines.items()
        ):
            _refuse_who_owes(contract, plan.after.buyer_id, place(planned, i))


def _refuse_who_owes(contract: Contract, buyer_id: UUID, pointer: str = "") -> None:
    owed = BillingAccount.objects.filter(contract=contract, buyer_id=buyer_id, billing_status__in=NO_MORE)
    if account := owed.first():
        raise Conflict(
            f"The buyer's account is {account.billing_status.replace('_', ' ')}.",
            pointer=pointer,
            code="past_due_block",
        )
