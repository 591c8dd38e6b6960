"""A prepayment that changes while its contract runs: not once it was drawn, and the wallet follows.

Before the contract runs it is signed anew, and signing sets aside what it then asks for.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from billing.models import BillingAccount, BillingStatus
from billing.services.terms import RUNNING, contract_state
from billing.services.wallet import account_at, downpayment_of, set_aside
from commerce.actor import Actor
from commerce.errors import Conflict
from commerce.ids import uuid7
from commerce.money import Money
from contracts.models import Contract
from contracts.rules.operations.holds import Resume
from contracts.services.admission import FINANCE, Planned, place
from ledger import services as ledger
from ledger.rules import recipes

OVERDUE = (BillingStatus.PAST_DUE, BillingStatus.DELINQUENT, BillingStatus.COLLECTIONS)
DOWNPAYMENT = "/terms/commitment/downpayment"


def keep_what_was_drawn(*, contract: Contract, planned: Sequence[Planned], at: datetime, **_: Any) -> None:
    """Conflict (downpayment_already_drawn) when an edit changes a prepayment that invoices have drawn on."""
    for i, plan in enumerate(planned):
        if downpayment_of(plan.before) == downpayment_of(plan.after):
            continue
        account = account_at(contract.pk, at)
        drawn = account.downpayment_drawn_minor if account else 0
        if drawn > 0:
            raise Conflict(
                f"{Money(drawn, contract.currency)} of the prepayment were drawn already.",
                pointer=f"{place(planned, i)}/commitment_id",
                code="downpayment_already_drawn",
            )


def keep_unpaid_on_hold(
    *, contract: Contract, planned: Sequence[Planned], actor: Actor, at: datetime, **_: Any
) -> None:
    """Conflict (still_past_due) when a person lifts a hold for non-payment of what is still overdue.

    Dunning lifts it when it is paid; finance may override it.
    """
    for i, plan in enumerate(planned):
        payload = plan.edit.payload
        if not isinstance(payload, Resume) or payload.reason != "non_payment" or actor.has_perm(FINANCE):
            continue
        account = account_at(contract.pk, at)
        if account and account.billing_status in OVERDUE:
            raise Conflict(
                f"The contract is {account.billing_status.replace('_', ' ')}.",
                pointer=f"{place(planned, i)}/reason",
                code="still_past_due",
            )


def moves_prepayment(change: Mapping[str, Any]) -> bool:
    """Whether a contract's event says that its prepayment is another from now on."""
    touched = {*change["before"], *change["after"]}
    return not change.get("pending") and any(pointer.startswith(DOWNPAYMENT) for pointer in touched)


@transaction.atomic
def follow_prepayment(*, contract_id: UUID | str, version: int, actor: Actor, at: datetime) -> None:
    """Set aside what a running contract's prepayment asks for now, or give back what it asks for no more.

    What invoices have drawn by now was set aside once: only what is asked beyond it counts.
    """
    found = account_at(contract_id, at)
    if found is None or found.contract.status not in RUNNING:
        return
    account = BillingAccount.objects.select_for_update().get(pk=found.pk)
    state = contract_state(account.contract_id, valid_at=at)
    asked = max(downpayment_of(state) - account.downpayment_drawn_minor, 0)
    source = f"contract:{account.contract_id}:v{version}"
    surplus = max(0, account.downpayment_minor - asked)
    if surplus:
        ledger.post(
            entries=recipes.uncommit(
                buyer=account.buyer_id,
                downpayment=Money(surplus, account.currency),
                expected=Money(0, account.currency),
            ),
            key=f"{source}:prepayment:{uuid7()}",
            source=source,
            recipe="uncommit",
            description=f"Back from {account.contract.number}",
            at=at,
            actor=actor,
        )
    account.downpayment_minor -= surplus
    account.downpayment_wanted_minor = asked - account.downpayment_minor
    account.save(update_fields=["downpayment_minor", "downpayment_wanted_minor"])
    set_aside(account=account, source=source, actor=actor, at=at)
