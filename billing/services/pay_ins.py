"""Money coming in by bank transfer: an incoming payment at Modern Treasury becomes a wallet credit, once.

The payment is fetched, never believed from a webhook. The posting's key is the payment's own id, so
no number of deliveries, pollers and retries credits it twice. What cannot be attributed goes to
UNAPPLIED_CASH and a person.
"""

from datetime import datetime, timedelta

from django.db import transaction

from billing.models import PayIn, PayInStatus
from commerce.actor import Actor
from commerce.console.services import open_review
from commerce.money import Money
from commerce.parties.models import Organization, ProviderReference
from commerce.providers import modern_treasury
from commerce.providers.modern_treasury import IncomingPayment
from commerce.states import transition
from ledger import services as ledger
from ledger.rules import recipes

PROVIDER = "modern_treasury"
LOOK_BACK = timedelta(days=5)


def refresh_incoming_payment(*, provider_id: str, actor: Actor, at: datetime) -> PayIn | None:
    """Fetch an incoming payment and apply what it says now. Called outside any transaction."""
    return apply_incoming_payment(
        payment=modern_treasury.client().incoming_payment(provider_id), actor=actor, at=at
    )


def poll_incoming_payments(*, actor: Actor, at: datetime) -> int:
    """Apply what arrived in the last days and every payment still pending here; return how many moved."""
    moved = 0
    for payment in modern_treasury.client().incoming_payments(since=(at - LOOK_BACK).date()):
        row = PayIn.objects.filter(provider=PROVIDER, provider_id=payment.id).first()
        if row is None or row.status != payment.status:
            moved += apply_incoming_payment(payment=payment, actor=actor, at=at) is not None
    return moved


@transaction.atomic
def apply_incoming_payment(*, payment: IncomingPayment, actor: Actor, at: datetime) -> PayIn | None:
    """Make our pay-in agree with the bank's payment: credit it once, give it back once."""
    if payment.direction != "credit":
        open_review(
            kind="unexpected_debit",
            subject_type="modern_treasury.incoming_payment",
            subject_id=payment.id,
            title="Somebody pulled money from our account",
            detail="We gave no mandate for debits. Ask the bank to return it.",
            evidence={"incoming_payment": payment.id},
            value=payment.amount,
            at=at,
            actor=actor,
        )
        return None
    buyer = _owner(payment)
    pay_in, _ = PayIn.objects.get_or_create(
        provider=PROVIDER,
        provider_id=payment.id,
        defaults={
            "buyer": buyer,
            "rail": payment.type,
            "amount_minor": payment.amount.minor,
            "currency": payment.amount.currency,
        },
    )
    pay_in = PayIn.objects.select_for_update(of=("self",)).get(pk=pay_in.pk)
    if payment.status in ("completed", "returned") and pay_in.status == PayInStatus.PENDING:
        pay_in = _credit(pay_in, actor=actor, at=at)
    if payment.status == "returned" and pay_in.status == PayInStatus.COMPLETED:
        pay_in = _return(pay_in, actor=actor, at=at)
    return pay_in


def _owner(payment: IncomingPayment) -> Organization | None:
    """Who the payment is for: the organization whose virtual account received it."""
    if not payment.virtual_account_id:
        return None
    reference = ProviderReference.objects.filter(
        provider=PROVIDER, kind="virtual_account", provider_id=payment.virtual_account_id
    ).select_related("organization")
    found = reference.first()
    return found.organization if found else None


def _credit(pay_in: PayIn, *, actor: Actor, at: datetime) -> PayIn:
    platform = Organization.objects.platform()
    amount = Money(pay_in.amount_minor, pay_in.currency)
    if pay_in.buyer_id:
        recipe = "fund_wallet"
        entries = recipes.fund_wallet(platform=platform.id, buyer=pay_in.buyer_id, amount=amount)
    else:
        recipe = "unapplied_deposit"
        entries = recipes.unapplied_deposit(platform=platform.id, amount=amount)
    posting = ledger.post(
        entries=entries,
        key=f"{PROVIDER}:incoming_payment:{pay_in.provider_id}:credit",
        source=f"pay_in:{pay_in.id}",
        recipe=recipe,
        description=f"{pay_in.rail.upper()} received",
        at=at,
        actor=actor,
    )
    pay_in = transition(pay_in, "complete", actor=actor, at=at, completed_at=at, transaction_id=posting.id)
    if not pay_in.buyer_id:
        open_review(
            kind="unidentified_deposit",
            subject_type="billing.payin",
            subject_id=str(pay_in.id),
            title=f"{amount} arrived and nobody knows whose it is",
            detail="It came without a virtual account of ours and rests in UNAPPLIED_CASH.",
            evidence={"incoming_payment": pay_in.provider_id, "rail": pay_in.rail},
            value=amount,
            at=at,
            actor=actor,
        )
    return pay_in


def _return(pay_in: PayIn, *, actor: Actor, at: datetime) -> PayIn:
    platform = Organization.objects.platform()
    amount = Money(pay_in.amount_minor, pay_in.currency)
    if pay_in.buyer_id:
        ledger.post(
            entries=recipes.return_pay_in(platform=platform.id, buyer=pay_in.buyer_id, amount=amount),
            key=f"{PROVIDER}:incoming_payment:{pay_in.provider_id}:return",
            source=f"pay_in:{pay_in.id}",
            recipe="return_pay_in",
            description="Pay-in returned to its sender",
            at=at,
            actor=actor,
        )
    return transition(pay_in, "give_back", actor=actor, at=at)
