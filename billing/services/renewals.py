"""Whoever owes for a contract is not bound to another term of it, nor its sellers."""

from datetime import datetime

from billing.models import BillingAccount, BillingStatus
from commerce.errors import Conflict
from contracts.models import Contract
from contracts.rules.operations.renew import Renew
from contracts.rules.state import ContractState

NO_NEW_TERM = (BillingStatus.DELINQUENT, BillingStatus.COLLECTIONS, BillingStatus.WRITTEN_OFF)


def require_paid_up(contract: Contract, state: ContractState, payload: Renew, effective_at: datetime) -> None:
    """Conflict (past_due_block) when the owner is delinquent or worse, unless a person renews by hand."""
    if payload.trigger == "manual":
        return
    owed = BillingAccount.objects.filter(contract=contract, buyer_id=state.buyer_id)
    account = owed.filter(billing_status__in=NO_NEW_TERM).first()
    if account:
        raise Conflict(
            f"The buyer's account is {account.billing_status.replace('_', ' ')}.", code="past_due_block"
        )
