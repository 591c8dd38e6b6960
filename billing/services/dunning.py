"""Billing status: derived from the facts, moved by the clock and by payments.

Every rung down is entered in order, so that its effect happens once: becoming delinquent suspends
the contract for non-payment, and whatever clears the debt resumes it in the same transaction.
"""

from datetime import datetime
from uuid import UUID

from django.db import transaction

from billing.models import OPEN_STATUSES, BillingAccount, Invoice, InvoiceStatus
from billing.rules import status as rule
from billing.services.batches import each
from billing.services.questions import settle_question
from billing.services.rating import rate
from billing.services.terms import ENDED, RUNNING, Owner, owner_of, state_of
from billing.services.wallet import account_at, ask_and_set_aside, follow_owner, give_back
from commerce.actor import Actor
from commerce.console.services import open_review
from commerce.money import Money
from commerce.states import transition
from contracts import services as contracts
from contracts.models import Contract
from contracts.rules.fold import Edit
from contracts.services import contract_edits


@transaction.atomic
def refresh_status(*, account_id: UUID | str, actor: Actor, at: datetime) -> BillingAccount:
    """Bring an account's status in line with its invoices at `at`, with the effects of each step.

    `at` may have been read before the lock was had: a status never goes back behind its last change.
    """
    account = BillingAccount.objects.select_for_update().select_related("contract").get(pk=account_id)
    at = max(at, account.status_since)
    facts = _facts(account, at)
    for target in rule.path(account.billing_status, rule.derive(facts, at)):
        before = account.billing_status
        account = transition(account, f"become_{target}", actor=actor, at=at)
        account.status_since = at
        account.save(update_fields=["status_since"])
        _enter(account, before, actor=actor, at=at)
    _mark_overdue(account, actor=actor, at=at)
    account.next_check_at = rule.next_change(facts, at)
    account.save(update_fields=["next_check_at"])
    return account


@transaction.atomic
def follow_contract(*, contract_id: UUID | str, version: int, actor: Actor, at: datetime) -> None:
    """`refresh_status` for each of the contract's owners; one who came by a transfer gets an account.

    Nothing happens for a contract that was never signed.
    """
    follow_owner(contract_id=contract_id, version=version, actor=actor, at=at)
    accounts = BillingAccount.objects.filter(contract_id=contract_id).order_by("owner_epoch")
    for account_id in accounts.values_list("id", flat=True):
        refresh_status(account_id=account_id, actor=actor, at=at)


def check_due_accounts(*, actor: Actor, at: datetime, limit: int = 500) -> int:
    """Refresh the accounts whose status the clock changes by now; return how many."""
    due = BillingAccount.objects.filter(next_check_at__lte=at).order_by("next_check_at")
    return each(
        due.values_list("id", flat=True)[:limit],
        lambda id_: refresh_status(account_id=id_, actor=actor, at=at),
        what="billing account",
    )


def _facts(account: BillingAccount, at: datetime) -> rule.Facts:
    edits = contract_edits(account.contract_id)
    invoices = Invoice.objects.filter(account=account)
    due = invoices.filter(status__in=OPEN_STATUSES).values_list("due_at", flat=True)
    owner = owner_of(edits, account.buyer_id, account.turn)
    ended = account.contract.status in ENDED or not _owns(owner, at)
    drafted = invoices.filter(status=InvoiceStatus.DRAFT).exists()
    return rule.Facts(
        due=[due_at for due_at in due if due_at],
        grace_days=state_of(edits, valid_at=at).terms.payment.grace_days,
        ever_invoiced=account.invoiced_through is not None,
        ended=ended,
        unbilled=ended and (drafted or _has_unbilled_time(account, edits, owner, at)),
    )


def _owns(owner: Owner | None, at: datetime) -> bool:
    """Whether the contract is this owner's at `at`, or is going to be."""
    return owner is not None and (owner.until is None or at < owner.until)


def _has_unbilled_time(account: BillingAccount, edits: list[Edit], owner: Owner | None, at: datetime) -> bool:
    """Whether an owner whose time is over owes something for a part of it that no invoice covers yet."""
    contract: Contract = account.contract
    ends = [end for end in (contract.end_at, owner and owner.until) if end]
    if contract.status == "cancelled" or owner is None or not ends:
        return False
    end = min(ends)
    since = max(account.invoiced_through or contract.start_at, owner.since)
    owed = rate(contract.id, edits, owner_epoch=owner.epoch, start=since, end=end, at=at)
    return any(line.net_minor for line in owed)


def _enter(account: BillingAccount, before: str, *, actor: Actor, at: datetime) -> None:
    status = account.billing_status
    contract = account.contract
    if before == "collections":
        settle_question("collections", account, reason=f"The account is {status}.", at=at)
    key = f"dunning:{account.id}:{status}:{at.isoformat()}"
    current = account_at(contract.pk, at) == account
    if before == "settled" and current and contract.status not in ENDED:
        source = f"billing_account:{account.id}:reopened"
        account = ask_and_set_aside(account=account, source=source, actor=actor, at=at)
    if status == "delinquent" and before == "past_due" and contract.status in RUNNING and current:
        contracts.suspend_contract(
            contract_id=contract.id, reason_code="non_payment", actor=actor, at=at, idempotency_key=key
        )
    elif status == "collections":
        open_review(
            kind="collections",
            subject_type="billing.billingaccount",
            subject_id=str(account.id),
            title=f"{contract.number} is more than three weeks past due",
            detail="Decide whether to terminate, agree on a plan, or write the debt off.",
            evidence={"contract": contract.number},
            value=_unpaid(account),
            at=at,
            actor=actor,
        )
    elif status == "settled":
        give_back(account=account, source=f"billing_account:{account.id}:settled", actor=actor, at=at)
    elif status in ("current", "invoiced") and contract.status == "suspended" and current:
        contracts.resume_contract(
            contract_id=contract.id, reason_code="non_payment", actor=actor, at=at, idempotency_key=key
        )


def _unpaid(account: BillingAccount) -> Money:
    unpaid = Invoice.objects.filter(account=account, status__in=OPEN_STATUSES)
    return Money(sum(i.total_minor - i.paid_minor for i in unpaid), account.currency)


def _mark_overdue(account: BillingAccount, *, actor: Actor, at: datetime) -> None:
    late = Invoice.objects.filter(
        account=account, status__in=[InvoiceStatus.ISSUED, InvoiceStatus.PARTIALLY_PAID], due_at__lte=at
    )
    for invoice in late.order_by("id"):
        transition(invoice, "become_overdue", actor=actor, at=at)
