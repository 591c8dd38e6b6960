"""Invoices: what OpenMeter says about them becomes ours, and what becomes of them is reported back.

The provider's invoice waits for our number (`issuing.syncing`). Verified it gets one and becomes
owed; what differs from the contract waits as a draft for a person (see `verification`).
"""

from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Max

from billing.models import OPEN_STATUSES, BillingAccount, Invoice, InvoiceStatus, SubscriptionSync
from billing.services.batches import each
from billing.services.dunning import refresh_status
from billing.services.questions import ask_once, settle_question
from billing.services.terms import contract_state, owner_of
from billing.services.verification import minor_units_of, verify_invoice
from commerce.actor import Actor
from commerce.console.services import open_review
from commerce.crash import crash_point
from commerce.errors import Rejected, Retryable
from commerce.money import Money
from commerce.outbox.breaker import asking, while_open
from commerce.providers import openmeter
from commerce.providers.openmeter import Invoice as ProviderInvoice
from commerce.states import transition
from contracts.services import contract_edits

PROVIDER = "openmeter"
WAITING = "issuing.syncing"
OWED = ("issued", "payment_processing", "overdue", "paid", "uncollectible")
OVERLAP = timedelta(hours=2)
WITHDRAWN = ("voided", "deleted")
DRAFTS_PER_POLL = 100


def refresh_invoice(*, provider_id: str, actor: Actor, at: datetime) -> Invoice | None:
    """Fetch an invoice and apply what it says now. Called outside any transaction."""
    try:
        provider = openmeter.client().invoice(provider_id)
    except Rejected as error:
        if error.extra.get("provider_status") != 404:
            raise
        return _forget_draft(provider_id, error, actor=actor, at=at)
    return apply_invoice(provider=provider, actor=actor, at=at)


def poll_invoices(*, actor: Actor, at: datetime) -> int:
    """Re-read what changed at the provider lately, and some of our drafts; return how many there were.

    An invoice that cannot be applied now is logged and holds up none of the others. While the provider's
    line is paused or open nothing is asked, unless it is as a probe.
    """
    ours = Invoice.objects.filter(provider=PROVIDER)
    newest = ours.order_by("-provider_updated_at").values_list("provider_updated_at", flat=True).first()
    since = newest - OVERLAP if newest else None
    known = dict(
        ours.filter(provider_updated_at__gte=since or at).values_list("provider_id", "provider_updated_at")
    )
    with asking(PROVIDER) as line:
        if line is None:
            return 0
        client = openmeter.client()
        # A webhook may have moved `since` past an invoice that was never told of: it waits for our number.
        listed = [*client.invoices(updated_since=since), *client.invoices(statuses=["issuing"])]
    changed = [invoice.id for invoice in listed if known.get(invoice.id) != invoice.updated_at]
    drafts = ours.filter(status=InvoiceStatus.DRAFT).order_by("?").values_list("provider_id", flat=True)
    return each(
        while_open(PROVIDER, dict.fromkeys([*changed, *drafts[:DRAFTS_PER_POLL]])),
        lambda id_: refresh_invoice(provider_id=id_, actor=actor, at=at),
        what="invoice",
        patience=5,
    )


@transaction.atomic
def apply_invoice(*, provider: ProviderInvoice, actor: Actor, at: datetime) -> Invoice | None:
    """Make our invoice agree with the provider's as far as that is a fact. An older reading is a no-op."""
    sync = _subscription_of(provider)
    if sync is None:
        _report_stranger(provider, actor=actor, at=at)
        return None
    if provider.period_start is None or provider.period_end is None:
        return None
    account = (
        BillingAccount.objects.select_for_update()
        .filter(contract_id=sync.contract_id, buyer_id=sync.buyer_id, turn=sync.turn)
        .first()
    )
    if account is None:
        raise Retryable("The account of the contract's new owner is not open yet.")
    invoice = Invoice.objects.select_for_update().filter(provider=PROVIDER, provider_id=provider.id).first()
    if invoice is None:
        invoice = Invoice(
            account=account,
            contract_id=account.contract_id,
            buyer_id=account.buyer_id,
            currency=account.currency,
            provider=PROVIDER,
            provider_id=provider.id,
            provider_updated_at=provider.updated_at,
        )
    elif provider.updated_at < invoice.provider_updated_at:
        return invoice
    if not invoice.verified_at:
        period = _billed_period(invoice, account, provider.period_start, provider.period_end)
        if period is None:
            return _refuse_time(invoice, provider, actor=actor, at=at)
        invoice.period_start, invoice.period_end = period
    invoice.provider_status = provider.extended_status
    invoice.provider_updated_at = provider.updated_at
    invoice.provider_net_minor = minor_units_of(provider.net, invoice.currency)
    invoice.save()
    if provider.status in WITHDRAWN:
        return _withdraw(invoice, actor=actor, at=at)
    if (provider.extended_status == WAITING or provider.status in OWED) and not invoice.verified_at:
        invoice = verify_invoice(invoice, provider, actor=actor, at=at)
    if provider.status in OWED and invoice.verified_at and invoice.status == InvoiceStatus.DRAFT:
        invoice = _issue(invoice, actor=actor, at=at)
    return invoice


def _billed_period(
    invoice: Invoice, account: BillingAccount, start: datetime, end: datetime
) -> tuple[datetime, datetime] | None:
    """From where the invoice before ends, or the owner's time begins, to where it ends at the latest.

    No time is on no invoice: the provider's lines may begin later, for example when the subscription was
    created late, and end later than another owner has begun. None when none of it is the owner's. A draft
    that was withdrawn has billed nothing.
    """
    owner = owner_of(contract_edits(account.contract_id), account.buyer_id, account.turn)
    if owner is None:
        return None
    others = Invoice.objects.filter(account=account).exclude(pk=invoice.pk)
    others = others.exclude(status=InvoiceStatus.VOIDED, verified_at=None)
    before: datetime | None = others.filter(period_start__lt=start).aggregate(end=Max("period_end"))["end"]
    since = max(account.contract.start_at, owner.since)
    begin = min(before or since, start)
    if owner.epoch > 1:
        begin = max(begin, since)
    end = min(end, owner.until or end)
    return (begin, end) if begin < end else None


def _refuse_time(
    invoice: Invoice, provider: ProviderInvoice, *, actor: Actor, at: datetime
) -> Invoice | None:
    """Bill nobody for time that is not the account's owner's; a person hears of it."""
    if provider.status in WITHDRAWN:
        return None if invoice._state.adding else _withdraw(invoice, actor=actor, at=at)
    buyer, number = invoice.buyer, invoice.contract.number
    ask_once(
        kind="unowned_invoice",
        subject_type="openmeter.invoice",
        subject_id=provider.id,
        title=f"OpenMeter bills {buyer.name} for time in which {number} is not its own",
        detail=f"Invoice {provider.id} is neither issued nor collected.",
        evidence={"status": provider.extended_status, "contract": number, "buyer": str(buyer.pk)},
        value=Money(minor_units_of(provider.total, provider.currency), provider.currency),
        actor=actor,
        at=at,
    )
    return None


@transaction.atomic
def _forget_draft(provider_id: str, error: Rejected, *, actor: Actor, at: datetime) -> Invoice | None:
    """OpenMeter forgets a draft whose lines vanish; an invoice that we have numbered must be there."""
    ours = Invoice.objects.filter(provider=PROVIDER, provider_id=provider_id)
    if not ours.exists():
        return None
    BillingAccount.objects.select_for_update(of=("self",)).get(invoices__in=ours)
    invoice = ours.select_for_update().get()
    if invoice.status == InvoiceStatus.VOIDED:
        return invoice
    if invoice.verified_at:
        raise error
    return _withdraw(invoice, actor=actor, at=at)


def _withdraw(invoice: Invoice, *, actor: Actor, at: datetime) -> Invoice:
    """The provider has voided or deleted it. A person hears of one that was owed already."""
    settle_question("invoice_difference", invoice, reason="Withdrawn by OpenMeter.", at=at)
    if invoice.status == InvoiceStatus.VOIDED:
        return invoice
    if invoice.status != InvoiceStatus.DRAFT:
        open_review(
            kind="invoice_withdrawn",
            subject_type="billing.invoice",
            subject_id=invoice.id,
            title=f"OpenMeter has withdrawn {invoice.number}, which was {invoice.status}",
            detail="Nothing will be billed for its period unless somebody sees to it.",
            value=invoice.total,
            actor=actor,
            at=at,
        )
    if invoice.status in (InvoiceStatus.DRAFT, *OPEN_STATUSES):
        invoice = transition(invoice, "void", actor=actor, at=at, reason="withdrawn by OpenMeter")
        refresh_status(account_id=invoice.account_id, actor=actor, at=at)
    return invoice


def _subscription_of(provider: ProviderInvoice) -> SubscriptionSync | None:
    found = SubscriptionSync.objects.filter(customer_key=provider.customer_key).first()
    if found is None and provider.subscription_ids:
        found = SubscriptionSync.objects.filter(subscription_id__in=provider.subscription_ids).first()
    return found


def _report_stranger(provider: ProviderInvoice, *, actor: Actor, at: datetime) -> None:
    ask_once(
        kind="unknown_invoice",
        subject_type="openmeter.invoice",
        subject_id=provider.id,
        title="OpenMeter has an invoice for a customer we do not know",
        detail=f"Invoice {provider.id} of customer {provider.customer_key or provider.customer_id}.",
        evidence={"status": provider.extended_status},
        value=Money(minor_units_of(provider.total, provider.currency), provider.currency),
        actor=actor,
        at=at,
    )


def confirm_invoice(*, invoice_id: UUID | str, actor: Actor, at: datetime) -> Invoice | None:
    """Give the provider our number, then take over what the invoice became."""
    invoice = Invoice.objects.get(pk=invoice_id)
    if invoice.status != InvoiceStatus.DRAFT:
        return invoice
    crash_point("billing.before_number")
    provider = openmeter.client().issuing_synchronized(
        invoice.provider_id, number=str(invoice.number), sent_at=at
    )
    crash_point("billing.after_number")
    return apply_invoice(provider=provider, actor=actor, at=at)


def _issue(invoice: Invoice, *, actor: Actor, at: datetime) -> Invoice:
    state = contract_state(invoice.contract_id, valid_at=invoice.period_start)
    invoice = transition(
        invoice,
        "issue",
        actor=actor,
        at=at,
        issued_at=at,
        due_at=at + timedelta(days=state.terms.payment.net_days),
    )
    account = BillingAccount.objects.get(pk=invoice.account_id)
    if account.invoiced_through is None or account.invoiced_through < invoice.period_end:
        account.invoiced_through = invoice.period_end
        account.save(update_fields=["invoiced_through"])
    refresh_status(account_id=account.id, actor=actor, at=at)
    return invoice


def report_paid(*, invoice_id: UUID | str, actor: Actor, at: datetime) -> None:
    """Tell the provider, once, that the invoice is fully paid."""
    invoice = Invoice.objects.get(pk=invoice_id)
    if invoice.provider_paid_at or invoice.status != InvoiceStatus.PAID:
        return
    crash_point("billing.before_paid")
    openmeter.client().payment_status(invoice.provider_id, "paid")
    crash_point("billing.after_paid")
    Invoice.objects.filter(pk=invoice.pk).update(provider_paid_at=at)


def report_overdue(*, invoice_id: UUID | str, actor: Actor, at: datetime) -> None:
    """Tell the provider that an invoice is past due; it never finds out by itself."""
    invoice = Invoice.objects.get(pk=invoice_id)
    if invoice.status == InvoiceStatus.OVERDUE:
        openmeter.client().payment_status(invoice.provider_id, "payment_overdue")
