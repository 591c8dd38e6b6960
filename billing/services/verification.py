"""Verifying an invoice: we rate its period from the contract, and only what agrees goes on by itself.

What is owed is always our own lines: the provider's charges re-rated, with tax by the contract's
terms. A draft shows what they come to; they are written once, when it is verified or accepted.
"""

from datetime import datetime
from decimal import Decimal

from django.db import transaction

from billing.models import Invoice, InvoiceLine, InvoiceStatus, NumberSeries
from billing.rules.drift import reasons
from billing.rules.rating import RatedLine
from billing.rules.verification import Difference, compare, explained
from billing.services.questions import settle_question
from billing.services.rating import rate
from billing.services.service import service_followed
from billing.services.subscriptions import followed_at, is_behind, lag, line_of
from billing.services.terms import live_since, owner_of
from commerce.actor import Actor
from commerce.console.services import open_review
from commerce.errors import Retryable, StateConflict
from commerce.money import Money, exponent, round_half_up
from commerce.outbox import append
from commerce.providers.openmeter import Invoice as ProviderInvoice
from contracts.rules.fold import Edit
from contracts.services import contract_edits


def verify_invoice(invoice: Invoice, provider: ProviderInvoice, *, actor: Actor, at: datetime) -> Invoice:
    """Compare a locked draft with the contract: confirm our lines, or send it to a person."""
    if is_behind(invoice.contract_id):
        raise Retryable("The subscription has not followed the contract yet; the invoice is rated after it.")
    edits = contract_edits(invoice.contract_id)
    ours = _rate(invoice, edits, at)
    theirs = [
        (line_of(line.feature_key), minor_units_of(line.net, invoice.currency))
        for line in provider.lines
        if line.net
    ]
    since = max(invoice.period_start, live_since(edits) or invoice.period_start)
    found = compare(ours, theirs, lag=lag(invoice.contract_id, start=since, end=invoice.period_end))
    if found:
        found = explained(
            found,
            reasons(
                edits,
                start=invoice.period_start,
                end=invoice.period_end,
                followed=followed_at(invoice.contract_id),
                at=at,
                kinds=[(line.line_id, line.kind) for line in ours],
                service=service_followed(invoice.contract_id),
            ),
        )
    invoice.differences = [_shown(difference) for difference in found]
    if not found:
        return _confirm(invoice, ours, actor=actor, at=at, reason="It agrees with the contract now.")
    invoice.save()
    _send_to_review(invoice, found, actor=actor, at=at)
    return invoice


@transaction.atomic
def accept_invoice(*, invoice: Invoice, actor: Actor, at: datetime, reason: str) -> Invoice:
    """A person decides that our rating of the contract is what is owed; the invoice goes its way."""
    actor.require("billing.verify_invoice")
    row = Invoice.objects.select_for_update().get(pk=invoice.pk)
    if row.status != InvoiceStatus.DRAFT or row.verified_at or not row.differences:
        raise StateConflict("Only a draft that differs from the contract can be accepted.")
    edits = contract_edits(row.contract_id)
    shown = row.total
    lines = _rate(row, edits, at)
    if row.total != shown:
        raise StateConflict(
            f"Our rating was {shown} when you looked and is {row.total} now; look again in a minute.",
            code="rating_changed",
        )
    return _confirm(row, lines, actor=actor, at=at, reason=reason)


def minor_units_of(amount: Decimal, currency: str) -> int:
    """The provider's decimal as minor units; it may carry more digits than the currency has."""
    return round_half_up(amount.scaleb(exponent(currency)))


def _rate(invoice: Invoice, edits: list[Edit], at: datetime) -> list[RatedLine]:
    """Our lines; the invoice's amounts become their sums."""
    account = invoice.account
    owner = owner_of(edits, account.buyer_id, account.turn)
    if owner is None:
        raise StateConflict(f"The contract never was {account.buyer.name}'s.", code="not_the_owner")
    lines = rate(
        invoice.contract_id,
        edits,
        owner_epoch=owner.epoch,
        start=invoice.period_start,
        end=invoice.period_end,
        at=at,
    )
    invoice.net_minor = sum(line.net_minor for line in lines)
    invoice.tax_minor = sum(line.tax_minor for line in lines)
    invoice.total_minor = invoice.net_minor + invoice.tax_minor
    return lines


def _confirm(invoice: Invoice, lines: list[RatedLine], *, actor: Actor, at: datetime, reason: str) -> Invoice:
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
    invoice.number = _next_number(f"INV-{at.year}")
    invoice.verified_at = at
    invoice.save()
    settle_question("invoice_difference", invoice, reason=reason, at=at)
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
        detail=_detail(found),
        evidence={"differences": invoice.differences},
        value=delta,
        actor=actor,
        at=at,
    )


def _detail(found: list[Difference]) -> str:
    detail = "It is neither issued nor collected until somebody accepts our rating of the contract."
    why = dict.fromkeys(reason for difference in found for reason in difference.reasons)
    return f"{detail} Expected: {'; '.join(why)}." if why else detail


def _shown(difference: Difference) -> dict[str, str | int | list[str] | None]:
    return {
        "line_id": str(difference.line_id) if difference.line_id else None,
        "ours_minor": difference.ours,
        "theirs_minor": difference.theirs,
        "allowed_minor": difference.allowed,
        "expected": list(difference.reasons),
    }
