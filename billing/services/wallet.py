"""Setting money aside for a contract: the downpayment and the period's expected total.

What the wallet cannot set aside yet is remembered and topped up when money comes in. What was set
aside and not drawn goes back to AVAILABLE when the contract is settled. A pocket is never below zero.
The account's own counters, locked and saved with each posting, make every step happen once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from django.db import transaction

from billing.models import BillingAccount
from billing.rules import drawing
from billing.services.terms import ENDED, Owner, live_since, next_ordinal, owner_at, state_of
from commerce.actor import Actor
from commerce.errors import InsufficientFunds, Retryable, StateConflict
from commerce.ids import uuid7
from commerce.money import Money
from contracts.models import Contract
from contracts.rules.desired import expected_period_total
from contracts.rules.fold import known
from contracts.rules.state import ContractState
from contracts.services import contract_edits
from ledger import services as ledger
from ledger.rules import recipes


@transaction.atomic
def open_account(*, contract_id: UUID | str, version: int, actor: Actor, at: datetime) -> BillingAccount:
    """Open the billing side of a signed contract and set aside what it asks for.

    Signed again with other lines, what was set aside goes back and the new amounts count.
    """
    contract = Contract.objects.get(pk=contract_id)
    source = f"contract:{contract.id}:v{version}"
    account, created = _open(contract, owner_at(contract_edits(contract.id), at), at)
    if not created:
        if contract.status != "pending_activation":
            return account
        account = give_back(account=account, source=source, actor=actor, at=at)
    return ask_and_set_aside(account=account, source=source, actor=actor, at=at)


@transaction.atomic
def follow_owner(
    *, contract_id: UUID | str, version: int, actor: Actor, at: datetime
) -> BillingAccount | None:
    """Open the account of an owner who came by a transfer, and set aside what the period will still come to.

    None where there is nothing to open.
    """
    owner = owner_at(contract_edits(UUID(str(contract_id))), at)
    opened = BillingAccount.objects.filter(contract_id=contract_id)
    if not opened.exists() or opened.filter(**owner.key).exists():
        return None
    contract = Contract.objects.get(pk=contract_id)
    account, created = _open(contract, owner, at)
    if not created or contract.status in ENDED:
        return account
    source = f"contract:{contract.id}:v{version}"
    return ask_and_set_aside(account=account, source=source, actor=actor, at=at)


def _open(contract: Contract, owner: Owner, at: datetime) -> tuple[BillingAccount, bool]:
    """The owner's account, and whether it is new."""
    return BillingAccount.objects.get_or_create(
        contract=contract,
        **owner.key,
        defaults={
            "owner_epoch": next_ordinal(contract.billing_accounts.all()),
            "currency": contract.currency,
            "status_since": at,
        },
    )


def ask_and_set_aside(*, account: BillingAccount, source: str, actor: Actor, at: datetime) -> BillingAccount:
    """Want what the owner of `at` has to set aside, and set it aside: the downpayment, and the first period.

    The downpayment is asked of whoever owns the contract when it goes live; one who comes later sets
    aside what the rest of the period comes to.
    """
    edits = contract_edits(account.contract_id)
    state, owner, live = state_of(edits, valid_at=at), owner_at(edits, at), live_since(edits)
    period = state.period(at)
    downpayment = 0
    if live is None or owner.since <= live:
        downpayment = max(downpayment_of(state) - account.downpayment_drawn_minor, 0)
    else:
        period = replace(period, start=max(period.start, owner.since))
    net, tax = expected_period_total(state, period)
    account.downpayment_wanted_minor = downpayment
    account.committed_wanted_minor = 0 if account.invoiced_through else max(net + tax - downpayment, 0)
    account.save()
    return set_aside(account=account, source=source, actor=actor, at=at)


def account_at(
    contract_id: UUID | str, at: datetime, known_at: datetime | None = None
) -> BillingAccount | None:
    """The account of the contract's owner at `at`, as known at `known_at` (now, when absent).

    None before one was opened, or while nothing of the contract was known.
    """
    accounts = BillingAccount.objects.filter(contract_id=contract_id)
    if not accounts.exists():
        return None
    edits = known(contract_edits(UUID(str(contract_id))), known_at)
    return accounts.filter(**owner_at(edits, at).key).first() if edits else None


@transaction.atomic
def set_aside(*, account: BillingAccount, source: str, actor: Actor, at: datetime) -> BillingAccount:
    """Move what the contract still wants from AVAILABLE, as far as AVAILABLE goes."""
    account = BillingAccount.objects.select_for_update().get(pk=account.pk)
    available = spendable(account.buyer_id, account.currency)
    downpayment, committed = drawing.set_aside(
        downpayment_wanted=account.downpayment_wanted_minor,
        committed_wanted=account.committed_wanted_minor,
        available=available,
    )
    if not downpayment and not committed:
        return account
    with retried_when_spent():
        ledger.post(
            entries=recipes.commit(
                buyer=account.buyer_id,
                downpayment=Money(downpayment, account.currency),
                expected=Money(committed, account.currency),
            ),
            key=f"{source}:commit:{uuid7()}",
            source=source,
            recipe="commit",
            description=f"Set aside for {account.contract.number}",
            at=at,
            actor=actor,
        )
    account.downpayment_wanted_minor -= downpayment
    account.downpayment_minor += downpayment
    account.committed_wanted_minor -= committed
    account.committed_minor += committed
    account.save()
    return account


def top_up(*, buyer_id: UUID, source: str, actor: Actor, at: datetime) -> None:
    """Set aside what the buyer's contracts still want, oldest contract first."""
    wanting = BillingAccount.objects.filter(buyer_id=buyer_id).exclude(
        downpayment_wanted_minor=0, committed_wanted_minor=0
    )
    for account in wanting.order_by("id"):
        set_aside(account=account, source=source, actor=actor, at=at)


@transaction.atomic
def give_back(*, account: BillingAccount, source: str, actor: Actor, at: datetime) -> BillingAccount:
    """Return what was set aside and not drawn, and forget what was still wanted."""
    account = BillingAccount.objects.select_for_update().get(pk=account.pk)
    if account.downpayment_minor or account.committed_minor:
        ledger.post(
            entries=recipes.uncommit(
                buyer=account.buyer_id,
                downpayment=Money(account.downpayment_minor, account.currency),
                expected=Money(account.committed_minor, account.currency),
            ),
            key=f"{source}:uncommit:{uuid7()}",
            source=source,
            recipe="uncommit",
            description=f"Back from {account.contract.number}",
            at=at,
            actor=actor,
        )
    account.downpayment_wanted_minor = account.committed_wanted_minor = 0
    account.downpayment_minor = account.committed_minor = 0
    account.save()
    return account


def downpayment_of(state: ContractState) -> int:
    """The downpayment that the terms ask for, in minor units."""
    amount = state.terms.commitment.downpayment
    return amount.amount_minor if amount else 0


def spendable(buyer_id: UUID, currency: str) -> int:
    """What the buyer's AVAILABLE account holds beyond pending transactions.

    Read without a lock: should somebody else spend it first, the posting refuses and is tried again.
    """
    found = ledger.balances(owner=buyer_id, kinds=["AVAILABLE"], currency=currency)
    return found[0].available.minor if found else 0


@contextmanager
def retried_when_spent() -> Iterator[None]:
    """Turn a wallet that was emptied between look and posting into another try."""
    try:
        yield
    except InsufficientFunds as error:
        raise Retryable(f"The wallet changed in the meantime: {error.detail}") from error


def require_downpayment(contract: Contract, state: ContractState, at: datetime) -> None:
    """Guard of going live: StateConflict `downpayment_unfunded` until the downpayment is set aside."""
    account = account_at(contract.pk, at)
    held = account.downpayment_minor + account.downpayment_drawn_minor if account else 0
    missing = downpayment_of(state) - held
    if missing > 0:
        raise StateConflict(
            f"The downpayment is not funded: {Money(missing, contract.currency)} is missing in the wallet.",
            code="downpayment_unfunded",
        )
