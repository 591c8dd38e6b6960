"""Invoices: the provider cuts them, we rate the same period from the contract, and only what agrees
is issued by itself.

The provider's invoice waits for our number (`issuing.syncing`). Equal to our rating it gets one and
becomes owed; different, it waits as a draft for a person, with the difference line by line. What
is owed is always our own lines: the provider's charges re-rated, with tax by the contract's terms.
"""

import logging
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import transaction

from billing.models import (
    OPEN_STATUSES,
    BillingAccount,
    Invoice,
    InvoiceLine,
    InvoiceStatus,
    NumberSeries,
    SubscriptionSync,
)
from billing.rules.rating import RatedLine, rate_period
from billing.rules.verification import Difference, compare
from billing.services.dunning import refresh_status
from billing.services.subscriptions import is_behind, lag, line_of
from billing.services.terms import contract_state
from billing.services.usage import metered
from commerce.actor import Actor
from commerce.console.services import clear_reviews, open_review
from commerce.crash import crash_point
from commerce.errors import Retryable, StateConflict
from commerce.money import Money, exponent, round_half_up
from commerce.outbox import append
from commerce.providers import openmeter
from commerce.providers.openmeter import Invoice as ProviderInvoice
from commerce.states import transition
from contracts.services import contract_edits

log = logging.getLogger(__name__)

PROVIDER = "openmeter"
WAITING = "issuing.syncing"
OWED = ("issued", "payment_processing", "overdue", "paid", "uncollectible")
OVERLAP = timedelta(hours=2)


def refresh_invoice(*, provider_id: str, actor: Actor, at: datetime) -> Invoice | None:
    """Fetch an invoice and apply what it says now. Called outside any transaction."""
    return apply_invoice(provider=openmeter.client().invoice(provider_id), actor=actor, at=at)


def poll_invoices(*, actor: Actor, at: datetime) -> int:
    """Re-read what changed at the provider lately and whatever is not final here; return how many moved."""
    client, seen, moved = openmeter.client(), set(), 0
    newest = Invoice.objects.filter(provider=PROVIDER).order_by("-provider_updated_at").first()
    since = newest.provider_updated_at - OVERLAP if newest else None
    open_here = Invoice.objects.filter(provider=PROVIDER).exclude(
        status__in=[InvoiceStatus.PAID, InvoiceStatus.VOIDED]
    )
    known = dict(
        Invoice.objects.filter(provider=PROVIDER, provider_updated_at__gte=since or at - OVERLAP).values_list(
            "provider_id", "provider_updated_at"
        )
    )
    for listed in client.invoices(updated_since=since):
        seen.add(listed.id)
        if known.get(listed.id) != listed.updated_at:
            moved += refresh_invoice(provider_id=listed.id, actor=actor, at=at) is not None
    for id_ in open_here.exclude(provider_id__in=seen).order_by("id").values_list("provider_id", flat=True):
        moved += refresh_invoice(provider_id=id_, actor=actor, at=at) is not None
    return moved


@transaction.atomic
def apply_invoice(*, provider: ProviderInvoice, actor: Actor, at: datetime) -> Invoice | None:
    """Make our invoice agree with the provider's as far as that is a fact. An older reading is a no-op."""
    sync = _subscription_of(provider)
    if sync is None:
        _report_stranger(provider, actor=actor, at=at)
        return None
    if provider.period_start is None or provider.period_end is None:
        return None
    account = BillingAccount.objects.select_for_update().get(contract_id=sync.contract_id)
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
        invoice.period_start, invoice.period_end = provider.period_start, provider.period_end
    invoice.provider_status = provider.extended_status
    invoice.provider_updated_at = provider.updated_at
    invoice.provider_net_minor = _minor(provider.amount, invoice.currency)
    invoice.save()
    if provider.extended_status == WAITING and not invoice.verified_at:
        invoice = _verify(invoice, provider, actor=actor, at=at)
    if provider.status in OWED and invoice.verified_at and invoice.status == InvoiceStatus.DRAFT:
        invoice = _issue(invoice, actor=actor, at=at)
    if provider.status in ("voided", "deleted") and invoice.status in (InvoiceStatus.DRAFT, *OPEN_STATUSES):
        invoice = transition(invoice, "void", actor=actor, at=at, reason="withdrawn by OpenMeter")
        refresh_status(account_id=account.id, actor=actor, at=at)
    return invoice


def _subscription_of(provider: ProviderInvoice) -> SubscriptionSync | None:
    found = SubscriptionSync.objects.filter(customer_key=provider.customer_key).first()
    if found is None and provider.subscription_ids:
        found = SubscriptionSync.objects.filter(subscription_id__in=provider.subscription_ids).first()
    return found


def _report_stranger(provider: ProviderInvoice, *, actor: Actor, at: datetime) -> None:
    open_review(
        kind="unknown_invoice",
        subject_type="openmeter.invoice",
        subject_id=provider.id,
        title="OpenMeter has an invoice for a customer we do not know",
        detail=f"Invoice {provider.id} of customer {provider.customer_key or provider.customer_id}.",
        evidence={"status": provider.extended_status},
        value=Money(_minor(provider.total, provider.currency), provider.currency),
        actor=actor,
        at=at,
    )


def _verify(invoice: Invoice, provider: ProviderInvoice, *, actor: Actor, at: datetime) -> Invoice:
    if is_behind(invoice.contract_id):
        raise Retryable("The subscription has not followed the contract yet; the invoice is rated after it.")
    ours = _rate(invoice)
    theirs = [
        (line_of(line.feature_key), _minor(line.amount, invoice.currency))
        for line in provider.lines
        if line.amount
    ]
    found = compare(
        ours, theirs, lag=lag(invoice.contract_id, start=invoice.period_start, end=invoice.period_end)
    )
    invoice.differences = [_shown(difference) for difference in found]
    if found:
        invoice.save(update_fields=["differences"])
        _send_to_review(invoice, found, actor=actor, at=at)
        return invoice
    return _confirm_lines(invoice, ours, actor=actor, at=at)


def _rate(invoice: Invoice) -> list[RatedLine]:
    return rate_period(
        contract_edits(invoice.contract_id),
        start=invoice.period_start,
        end=invoice.period_end,
        usage=lambda line_id, start, end: metered(invoice.contract_id, line_id, start, end),
    )


def _confirm_lines(invoice: Invoice, lines: list[RatedLine], *, actor: Actor, at: datetime) -> Invoice:
    """Write our lines, number the invoice, and say that it is verified."""
    InvoiceLine.objects.bulk_create(
        [
            InvoiceLine(
                invoice=invoice,
                line_id=line.line_id,
                product=line.product,
                kind=line.kind,
                seller_id=line.seller_id,
                quantity=line.quantity,
                rate=line.rate,
                start=line.start,
                end=line.end,
                net_minor=line.net_minor,
                tax_minor=line.tax_minor,
            )
            for line in lines
        ]
    )
    invoice.net_minor = sum(line.net_minor for line in lines)
    invoice.tax_minor = sum(line.tax_minor for line in lines)
    invoice.total_minor = invoice.net_minor + invoice.tax_minor
    invoice.number = _next_number(f"INV-{at.year}")
    invoice.verified_at = at
    invoice.save()
    append("invoice", invoice.id, "invoice.verified", invoice.event_payload(), at=at, actor=actor)
    return invoice


def _next_number(series: str) -> str:
    NumberSeries.objects.get_or_create(name=series)
    row = NumberSeries.objects.select_for_update().get(name=series)
    row.last += 1
    row.save(update_fields=["last"])
    return f"{series}-{row.last:06d}"


def _send_to_review(invoice: Invoice, found: list[Difference], *, actor: Actor, at: datetime) -> None:
    delta = Money(sum(difference.delta for difference in found), invoice.currency)
    open_review(
        kind="invoice_difference",
        subject_type="billing.invoice",
        subject_id=str(invoice.id),
        title=f"OpenMeter's invoice of {invoice.contract.number} differs from the contract by {delta}",
        detail="It is neither issued nor collected until somebody accepts our rating of the contract.",
        evidence={"differences": invoice.differences},
        value=delta,
        actor=actor,
        at=at,
    )


def _shown(difference: Difference) -> dict[str, str | int | None]:
    return {
        "line_id": str(difference.line_id) if difference.line_id else None,
        "ours_minor": difference.ours,
        "theirs_minor": difference.theirs,
        "allowed_minor": difference.allowed,
    }


@transaction.atomic
def accept_invoice(*, invoice: Invoice, actor: Actor, at: datetime, reason: str) -> Invoice:
    """A person decides that our rating of the contract is what is owed; the invoice goes its way."""
    actor.require("billing.verify_invoice")
    row = Invoice.objects.select_for_update().get(pk=invoice.pk)
    if row.status != InvoiceStatus.DRAFT or row.verified_at or not row.differences:
        raise StateConflict("Only a draft that differs from the contract can be accepted.")
    row = _confirm_lines(row, _rate(row), actor=actor, at=at)
    clear_reviews(
        kind="invoice_difference",
        subject_type="billing.invoice",
        subject_id=row.id,
        reason=reason,
        actor=Actor.system("billing"),
        at=at,
    )
    return row


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


def _minor(amount: Decimal, currency: str) -> int:
    """The provider's decimal as minor units; it may carry more digits than the currency has."""
    return round_half_up(amount.scaleb(exponent(currency)))
