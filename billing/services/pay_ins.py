"""Money coming in by bank transfer: an incoming payment at Modern Treasury becomes a wallet credit, once.

The payment is fetched, never believed from a webhook. The posting's key is the payment's own id, so
no number of deliveries, pollers and retries credits it twice. What cannot be attributed goes to
UNAPPLIED_CASH and a person; so does what the bank takes back after it was spent.
"""

from datetime import datetime
from uuid import UUID

from django.db import connection, transaction

from billing.models import PayIn, PayInStatus
from billing.rules.looks import LOOK_BACK, next_look
from billing.services.batches import each
from billing.services.questions import ask_once, settle_question
from billing.services.wallet import retried_when_spent, spendable
from commerce.actor import Actor
from commerce.console.services import open_review
from commerce.money import Money
from commerce.outbox.breaker import asking, while_open
from commerce.parties.models import Organization, ProviderReference
from commerce.providers import modern_treasury
from commerce.providers.modern_treasury import IncomingPayment
from commerce.states import transition
from ledger import services as ledger
from ledger.models import LedgerTransaction
from ledger.rules import recipes
from ledger.rules.recipes import Entry

PROVIDER = "modern_treasury"
ASKED_PER_POLL = 100


def refresh_incoming_payment(*, provider_id: str, actor: Actor, at: datetime) -> PayIn | None:
    """Fetch an incoming payment and apply what it says now. Called outside any transaction."""
    return apply_incoming_payment(
        payment=modern_treasury.client().incoming_payment(provider_id), actor=actor, at=at
    )


def poll_incoming_payments(*, actor: Actor, at: datetime) -> int:
    """Apply what arrived in the last days, and ask about what is pending or may still be pulled back.

    Returns how many were applied or asked about. One that fails is logged and holds up none of the others.
    While the bank's line is paused or open nothing is asked, unless it is as a probe.
    """
    with asking(PROVIDER) as line:
        if line is None:
            return 0
        listed = modern_treasury.client().incoming_payments(since=(at - LOOK_BACK).date())
        recent = {payment.id: payment for payment in listed}
    ours = PayIn.objects.filter(provider=PROVIDER)
    known = dict(ours.filter(provider_id__in=recent).values_list("provider_id", "status"))
    moved = [payment for id_, payment in recent.items() if known.get(id_) != payment.status]
    pending = ours.filter(status=PayInStatus.PENDING).exclude(provider_id__in=recent).order_by("?")
    applied = each(
        moved,
        lambda payment: apply_incoming_payment(payment=payment, actor=actor, at=at),
        what="incoming payment",
    )
    due = ours.filter(status=PayInStatus.COMPLETED, next_look_at__lte=at)
    due = due.exclude(provider_id__in=recent).order_by("?")
    asked = while_open(PROVIDER, [*pending[:ASKED_PER_POLL], *due[:ASKED_PER_POLL]])
    return applied + each(
        asked, lambda pay_in: _ask(pay_in, actor=actor, at=at), what="incoming payment", patience=5
    )


def _ask(pay_in: PayIn, *, actor: Actor, at: datetime) -> None:
    """Look at one payment, and put the next look off."""
    refresh_incoming_payment(provider_id=pay_in.provider_id, actor=actor, at=at)
    if pay_in.completed_at:
        PayIn.objects.filter(pk=pay_in.pk).update(next_look_at=next_look(pay_in.completed_at, at))


@transaction.atomic
def apply_incoming_payment(*, payment: IncomingPayment, actor: Actor, at: datetime) -> PayIn | None:
    """Make our pay-in agree with the bank's payment: credit it once, give it back once."""
    if payment.direction != "credit":
        ask_once(
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
    pay_in, _ = PayIn.objects.get_or_create(
        provider=PROVIDER,
        provider_id=payment.id,
        defaults={
            "buyer": _owner(payment),
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


def _credit_key(pay_in: PayIn) -> str:
    return f"{PROVIDER}:incoming_payment:{pay_in.provider_id}:credit"


def _credit(pay_in: PayIn, *, actor: Actor, at: datetime) -> PayIn:
    platform = Organization.objects.platform()
    amount = Money(pay_in.amount_minor, pay_in.currency)
    if pay_in.buyer_id:
        recipe, entries = _into_wallet(pay_in.buyer_id, amount)
    else:
        recipe = "unapplied_deposit"
        entries = recipes.unapplied_deposit(platform=platform.id, amount=amount)
    posting = ledger.post(
        entries=entries,
        key=_credit_key(pay_in),
        source=f"pay_in:{pay_in.id}",
        recipe=recipe,
        description=f"{pay_in.rail.upper()} received",
        at=at,
        actor=actor,
    )
    pay_in = transition(
        pay_in,
        "complete",
        actor=actor,
        at=at,
        completed_at=at,
        transaction_id=posting.id,
        next_look_at=next_look(at, at),
    )
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


def _into_wallet(buyer_id: UUID, amount: Money) -> tuple[str, tuple[Entry, ...]]:
    """What the buyer owes us is repaid first. One at a time per buyer: two would repay the same debt."""
    platform = Organization.objects.platform().id
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"owing:{buyer_id}"])
    owed = ledger.balance(owner=buyer_id, kind="BUYER_RECEIVABLE", currency=amount.currency)
    if owed <= 0:
        return "fund_wallet", recipes.fund_wallet(platform=platform, buyer=buyer_id, amount=amount)
    repaid = Money(min(owed, amount.minor), amount.currency)
    return "fund_owing_wallet", recipes.fund_owing_wallet(
        platform=platform, buyer=buyer_id, repaid=repaid, rest=amount - repaid
    )


def _return(pay_in: PayIn, *, actor: Actor, at: datetime) -> PayIn:
    """The bank has taken the money back, whatever the wallet still holds."""
    source, key = f"pay_in:{pay_in.id}", f"{PROVIDER}:incoming_payment:{pay_in.provider_id}:return"
    description = "Pay-in returned to its sender"
    if pay_in.buyer_id:
        recipe, entries = _return_from_wallet(pay_in, pay_in.buyer_id, actor=actor, at=at)
        with retried_when_spent():
            ledger.post(
                entries=entries,
                key=key,
                source=source,
                recipe=recipe,
                description=description,
                at=at,
                actor=actor,
            )
    else:
        credit = LedgerTransaction.objects.get(key=_credit_key(pay_in))
        ledger.reverse(transaction=credit, key=key, at=at, actor=actor, reason=description)
        settle_question("unidentified_deposit", pay_in, reason="It was returned to its sender.", at=at)
    return transition(pay_in, "give_back", actor=actor, at=at)


def _return_from_wallet(
    pay_in: PayIn, buyer_id: UUID, *, actor: Actor, at: datetime
) -> tuple[str, tuple[Entry, ...]]:
    platform = Organization.objects.platform()
    amount = Money(pay_in.amount_minor, pay_in.currency)
    left = Money(min(spendable(buyer_id, pay_in.currency), amount.minor), pay_in.currency)
    if left == amount:
        return "return_pay_in", recipes.return_pay_in(platform=platform.id, buyer=buyer_id, amount=amount)
    owed = amount - left
    open_review(
        kind="returned_after_spent",
        subject_type="billing.payin",
        subject_id=pay_in.id,
        title=f"{amount} came back to its sender after {owed} of it was spent",
        detail="The wallet gave what it held; the rest is a receivable, which later money repays first.",
        evidence={"incoming_payment": pay_in.provider_id, "from_wallet": str(left), "owed": str(owed)},
        value=owed,
        at=at,
        actor=actor,
    )
    return "return_spent_pay_in", recipes.return_spent_pay_in(
        platform=platform.id, buyer=buyer_id, from_available=left, owed=owed
    )
