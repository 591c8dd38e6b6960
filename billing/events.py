"""The events of billing: accounts, usage, invoices and money that comes in. A buyer is told of its own."""

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated
from uuid import UUID

from commerce.outbox.catalog import event, upcast
from commerce.outbox.payloads import Currency, Json, Minor, Public

BUYER = "01956f1c-3c00-7000-8000-0000000000b1"
CONTRACT = "01956f1c-3c00-7000-8000-00000000c001"
INVOICE = {
    "invoice_id": "01956f1c-3c00-7000-8000-000000001001",
    "number": "INV-2027-0001",
    "contract_id": CONTRACT,
    "buyer_id": BUYER,
    "currency": "USD",
    "total_minor": 3167500,
    "status": "issued",
}
PAY_IN = {
    "pay_in_id": "01956f1c-3c00-7000-8000-000000002001",
    "buyer_id": BUYER,
    "amount_minor": 5000000,
    "currency": "USD",
}


@dataclass(frozen=True)
class BillingAccount:
    """The billing side of a contract, as it is after the change."""

    billing_account_id: Public[UUID]
    contract_id: Public[UUID]
    buyer_id: Public[Annotated[UUID | None, "null in what was written as version 1"]]
    billing_status: Public[str]


@dataclass(frozen=True)
class Usage:
    """A batch of readings that were new."""

    batch_id: UUID
    contract_id: UUID
    events: Annotated[int, "how many"]


@dataclass(frozen=True)
class Invoice:
    """An invoice as it is after the change."""

    invoice_id: Public[UUID]
    number: Public[Annotated[str | None, "null for a draft that was never numbered"]]
    contract_id: Public[UUID]
    buyer_id: Public[UUID]
    currency: Public[Currency]
    total_minor: Public[Minor]
    status: Public[str]


@dataclass(frozen=True)
class Subscription:
    """What OpenMeter bills for one owner of a contract."""

    sync_id: UUID
    contract_id: UUID


@dataclass(frozen=True)
class Share:
    """What of the total is whose."""

    kind: Annotated[str, "tax, fee, partner or seller"]
    payee_id: UUID
    amount_minor: Minor


@dataclass(frozen=True)
class PaidInvoice(Invoice):
    """What was collected, and how it is divided. The division is not the buyer's to read."""

    contract_number: Public[str]
    tax_minor: Public[Minor]
    fee_minor: Minor
    transaction_id: Annotated[UUID | None, "the posting; none for an invoice of zero"]
    paid_at: Public[datetime]
    seasoning_days: int
    legs: tuple[Share, ...]


@dataclass(frozen=True)
class PayIn:
    """A payment into a wallet."""

    pay_in_id: Public[UUID]
    buyer_id: Public[Annotated[UUID | None, "null while nobody knows whose money it is"]]
    amount_minor: Public[Minor]
    currency: Public[Currency]


event(
    "billing_account.status_changed",
    BillingAccount,
    version=2,
    aggregate="billing_account",
    audience="buyer_id",
    summary="The status moved, by the clock or by a payment.",
    example={
        "billing_account_id": "01956f1c-3c00-7000-8000-000000003001",
        "contract_id": CONTRACT,
        "buyer_id": BUYER,
        "billing_status": "past_due",
    },
)


@upcast("billing_account.status_changed", from_version=1)
def without_its_buyer(payload: Json) -> Json:
    return {**payload, "buyer_id": None}


event(
    "usage.accepted",
    Usage,
    aggregate="usage_batch",
    summary="Usage of a contract was validated and stored; it goes to OpenMeter.",
    example={"batch_id": "01956f1c-3c00-7000-8000-000000004001", "contract_id": CONTRACT, "events": 24},
)

event(
    "subscription.sync_requested",
    Subscription,
    aggregate="subscription",
    summary="An operator wants OpenMeter brought in line with the contract, and both compared.",
    example={"sync_id": "01956f1c-3c00-7000-8000-000000005001", "contract_id": CONTRACT},
)

invoice = partial(event, payload=Invoice, aggregate="invoice", audience="buyer_id")

event(
    "invoice.verified",
    Invoice,
    aggregate="invoice",
    summary="The provider's draft agrees with the contract, or a person accepted it.",
    example=INVOICE | {"status": "draft"},
)
invoice("invoice.issued", summary="It is owed, under its number.", example=INVOICE)
invoice("invoice.overdue", summary="It is due and not paid.", example=INVOICE | {"status": "overdue"})
invoice("invoice.voided", summary="It was withdrawn.", example=INVOICE | {"status": "voided"})
event(
    "invoice.paid",
    PaidInvoice,
    aggregate="invoice",
    audience="buyer_id",
    summary="It was collected from the wallet in full.",
    example={
        **INVOICE,
        "status": "paid",
        "contract_number": "C-2027-0001",
        "tax_minor": 167500,
        "fee_minor": 300000,
        "transaction_id": "01956f1c-3c00-7000-8000-00000000d003",
        "paid_at": "2027-04-01T00:05:00+00:00",
        "seasoning_days": 5,
        "legs": [
            {"kind": "tax", "payee_id": "01956f1c-3c00-7000-8000-000000000001", "amount_minor": 167500},
            {"kind": "fee", "payee_id": "01956f1c-3c00-7000-8000-000000000001", "amount_minor": 240000},
            {"kind": "partner", "payee_id": "01956f1c-3c00-7000-8000-0000000000a1", "amount_minor": 60000},
            {"kind": "seller", "payee_id": "01956f1c-3c00-7000-8000-0000000000e1", "amount_minor": 2700000},
        ],
    },
)

pay_in = partial(event, payload=PayIn, aggregate="pay_in", audience="buyer_id", example=PAY_IN)

pay_in("pay_in.completed", summary="The bank has the money and the wallet shows it.")
pay_in("pay_in.returned", summary="The money went back to its sender.")
pay_in("pay_in.failed", summary="The money never came.")
