"""Collecting invoices from the wallet, and sharing them out in the same posting.

An invoice is collected in full or not at all. The posting pays tax, fee, partner and sellers; the
event `invoice.paid` carries the legs, from which payouts makes the settlement.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.db import transaction

from billing.models import OPEN_STATUSES, BillingAccount, Invoice
from billing.rules import drawing
from billing.services.dunning import refresh_status
from billing.services.terms import contract_state
from billing.services.wallet import retried_when_spent, spendable, top_up
from commerce.actor import Actor
from commerce.money import Money
from commerce.parties.models import Organization
from commerce.states import transition
from contracts.rules.splits import Split, split_invoice
from contracts.rules.state import ContractState
from contracts.services import platform_terms
from ledger import services as ledger
from ledger.rules import recipes


@transaction.atomic
def collect_invoice(*, invoice_id: UUID | str, actor: Actor, at: datetime) -> Invoice:
    """Pay an open invoice from the wallet if it holds enough; otherwise it stays unpaid.

    Locks account, then invoice, then the ledger's balances. An invoice that is no longer open is
    returned as it is.
    """
    account = BillingAccount.objects.select_for_update(of=("self",)).get(invoices__id=invoice_id)
    invoice = Invoice.objects.select_for_update().get(pk=invoice_id)
    if invoice.status not in OPEN_STATUSES:
        return invoice
    available = spendable(invoice.buyer_id, invoice.currency)
    draw = drawing.draw(
        invoice.total_minor,
        downpayment=account.downpayment_minor,
        committed=account.committed_minor,
        available=available,
    )
    if not draw.short:
        with retried_when_spent():
            invoice = _pay(invoice, account, draw, actor=actor, at=at)
    refresh_status(account_id=account.id, actor=actor, at=at)
    return invoice


def _pay(
    invoice: Invoice, account: BillingAccount, draw: drawing.Draw, *, actor: Actor, at: datetime
) -> Invoice:
    platform = Organization.objects.platform()
    lines = [(line.seller_id, line.net_minor, line.tax_minor) for line in invoice.lines.order_by("id")]
    state = contract_state(invoice.contract_id, valid_at=invoice.period_start)
    split = split_invoice(lines, state.terms.settlement)
    legs = _legs(split, platform.id)

    def money(minor: int) -> Money:
        return Money(minor, invoice.currency)

    payees: dict[UUID, Money] = {}
    for leg in legs:
        if leg["kind"] in ("partner", "seller"):
            payee = UUID(str(leg["payee_id"]))
            payees[payee] = payees.get(payee, money(0)) + money(int(leg["amount_minor"]))
    posting = None
    if invoice.total_minor:
        posting = ledger.post(
            entries=recipes.collect(
                platform=platform.id,
                buyer=invoice.buyer_id,
                from_downpayment=money(draw.downpayment),
                from_committed=money(draw.committed),
                from_available=money(draw.available),
                tax=money(split.tax_minor),
                fee=money(split.fee_minor),
                payees=payees,
            ),
            key=f"invoice:{invoice.id}:collect",
            source=f"invoice:{invoice.id}",
            recipe="collect",
            description=f"Collected {invoice.number}",
            at=at,
            actor=actor,
        )
    account.downpayment_minor -= draw.downpayment
    account.downpayment_drawn_minor += draw.downpayment
    account.committed_minor -= draw.committed
    account.committed_wanted_minor = 0  # it was wanted for what is paid now
    account.save()
    transaction_id = posting.id if posting else None
    return transition(
        invoice,
        "pay",
        actor=actor,
        at=at,
        paid_at=at,
        transaction_id=transaction_id,
        payload={
            "contract_number": account.contract.number,
            "tax_minor": split.tax_minor,
            "fee_minor": split.fee_minor,
            "transaction_id": str(transaction_id) if transaction_id else None,
            "paid_at": at.isoformat(),
            "seasoning_days": seasoning_days(state, at),
            "legs": legs,
        },
    )


def seasoning_days(state: ContractState, at: datetime) -> int:
    """The contract's term; where it has none, the platform's when it started."""
    own = state.terms.settlement.seasoning_days
    if own is not None:
        return own
    return platform_terms(state.start_at or at).settlement.seasoning_days or 0


def _legs(split: Split, platform_id: UUID) -> list[dict[str, str | int]]:
    legs: list[dict[str, str | int]] = [
        {"kind": "tax", "payee_id": str(platform_id), "amount_minor": split.tax_minor},
        {"kind": "fee", "payee_id": str(platform_id), "amount_minor": split.fee_minor},
    ]
    if split.partner:
        partner_id, minor = split.partner
        legs.append({"kind": "partner", "payee_id": str(partner_id), "amount_minor": minor})
    for seller_id, minor in split.sellers.items():
        legs.append({"kind": "seller", "payee_id": str(seller_id), "amount_minor": minor})
    return [leg for leg in legs if leg["amount_minor"]]


@transaction.atomic
def collect_for_buyer(*, buyer_id: UUID, source: str, actor: Actor, at: datetime) -> Sequence[Invoice]:
    """Money has come in: pay the buyer's open invoices, oldest due first, then set aside what is wanted.

    Locks all of the buyer's accounts first, in one order: two of these never wait for each other both.
    """
    list(BillingAccount.objects.filter(buyer_id=buyer_id).order_by("id").select_for_update())
    open_invoices = Invoice.objects.filter(buyer_id=buyer_id, status__in=OPEN_STATUSES)
    ids = list(open_invoices.order_by("due_at", "id").values_list("id", flat=True))
    collected = [collect_invoice(invoice_id=id_, actor=actor, at=at) for id_ in ids]
    top_up(buyer_id=buyer_id, source=source, actor=actor, at=at)
    return collected


def spend_what_was_given_back(*, account_id: UUID | str, actor: Actor, at: datetime) -> None:
    """An account is settled and its money free again: the buyer's other contracts may be waiting for it."""
    account = BillingAccount.objects.get(pk=account_id)
    collect_for_buyer(buyer_id=account.buyer_id, source=f"billing_account:{account.id}", actor=actor, at=at)
