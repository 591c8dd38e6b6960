"""The events of payouts: settlements and their legs, payouts, policies. A payee is told of its own."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated
from uuid import UUID

from commerce.outbox.catalog import event
from commerce.outbox.payloads import Currency, Minor, Public

PAYEE = "01956f1c-3c00-7000-8000-0000000000e1"
SETTLEMENT_ID = "01956f1c-3c00-7000-8000-00000000f001"
SETTLEMENT = {
    "settlement_id": SETTLEMENT_ID,
    "invoice_id": "01956f1c-3c00-7000-8000-000000001001",
    "invoice_number": "INV-2027-0001",
    "contract_id": "01956f1c-3c00-7000-8000-00000000c001",
    "contract_number": "C-2027-0001",
    "buyer_id": "01956f1c-3c00-7000-8000-0000000000b1",
    "currency": "USD",
    "total_minor": 3167500,
    "status": "disbursing",
}
LEG = {
    "settlement_leg_id": "01956f1c-3c00-7000-8000-00000000f002",
    "settlement_id": SETTLEMENT_ID,
    "kind": "seller",
    "payee_id": PAYEE,
    "currency": "USD",
    "amount_minor": 2700000,
    "status": "paid_out",
}
PAYOUT = {
    "payout_id": "01956f1c-3c00-7000-8000-000000005001",
    "payee_id": PAYEE,
    "currency": "USD",
    "amount_minor": 2700000,
    "status": "approved",
    "attempt": 1,
    "external_id": "payout_01956f1c-3c00-7000-8000-000000005001",
    "provider_id": "",
    "failure_code": "",
}
AT_THE_BANK = {"provider_id": "01956f1c-3c00-7000-8000-000000006001"}
POLICY = {"mode": "scheduled", "cadence": "weekly", "day": 1, "minimum_minor": 10000}


@dataclass(frozen=True)
class Settlement:
    """The division of a paid invoice, as it is after the change."""

    settlement_id: UUID
    invoice_id: UUID
    invoice_number: str
    contract_id: UUID
    contract_number: str
    buyer_id: UUID
    currency: Currency
    total_minor: Minor
    status: str


@dataclass(frozen=True)
class SettlementLeg:
    """One payee's share, as it is after the change."""

    settlement_leg_id: Public[UUID]
    settlement_id: Public[UUID]
    kind: Public[str]
    payee_id: Public[UUID]
    currency: Public[Currency]
    amount_minor: Public[Minor]
    status: Public[str]


@dataclass(frozen=True)
class Payout:
    """Money on its way to a payee's bank account, as it is after the change."""

    payout_id: Public[UUID]
    payee_id: Public[UUID]
    currency: Public[Currency]
    amount_minor: Public[Minor]
    status: Public[str]
    attempt: Public[int]
    external_id: Public[Annotated[str, "our reference at the bank"]]
    provider_id: Annotated[str, "the bank's; empty until it has accepted"]
    failure_code: Public[Annotated[str, "the bank's; empty unless it failed or came back"]]


@dataclass(frozen=True)
class GivingUp(Payout):
    """A payout that two people want to be given up, as it was when they agreed."""

    approval_id: UUID
    reason: str


@dataclass(frozen=True)
class Terms:
    """How a payee is paid."""

    mode: str
    cadence: Annotated[str, "empty unless scheduled"]
    day: Annotated[int | None, "of the week or month"]
    minimum_minor: Minor


@dataclass(frozen=True)
class PolicyChange:
    """How a payee was paid, and how it is paid now."""

    organization_id: Public[UUID]
    before: Terms
    after: Public[Terms]
    reason: str


@dataclass(frozen=True)
class Unblocking:
    """A bank account to which payouts may go again."""

    organization_id: UUID
    blocked: Annotated[str, "why the account was blocked"]
    reason: str


settlement = partial(event, payload=Settlement, aggregate="settlement")

settlement("settlement.planned", summary="A paid invoice was divided into legs.", example=SETTLEMENT)
settlement(
    "settlement.released",
    summary="Every payee's money is payable, or payable again after a return.",
    example=SETTLEMENT | {"status": "released"},
)
settlement(
    "settlement.completed", summary="Every payee has the money.", example=SETTLEMENT | {"status": "completed"}
)
settlement(
    "settlement.held",
    summary="A leg is stopped until somebody decides.",
    example=SETTLEMENT | {"status": "held"},
)
settlement(
    "settlement.reversed",
    summary="The money went back to the buyer.",
    example=SETTLEMENT | {"status": "reversed"},
)
settlement(
    "settlement.poll_requested",
    summary="Somebody wants a look at the bank for all its payouts.",
    example=SETTLEMENT,
)

leg = partial(event, payload=SettlementLeg, aggregate="settlement_leg", audience="payee_id")

leg("settlement_leg.paid_out", summary="The bank has confirmed payouts for the whole of it.", example=LEG)
leg(
    "settlement_leg.reopened",
    summary="A payout came back: the money is payable again.",
    example=LEG | {"status": "released"},
)
leg("settlement_leg.held", summary="Its release is stopped.", example=LEG | {"status": "held"})
leg(
    "settlement_leg.lifted",
    summary="Its release goes on, at the instant it had.",
    example=LEG | {"status": "seasoning"},
)
leg(
    "settlement_leg.reversed",
    summary="The money went back to the buyer before it was released.",
    example=LEG | {"status": "reversed"},
)
leg(
    "settlement_leg.clawed_back",
    summary="The payee owes it back after it was released.",
    example=LEG | {"status": "clawed_back"},
)

payout = partial(event, payload=Payout, aggregate="payout", audience="payee_id")

payout(
    "payout.approval_requested",
    summary="It waits for a second person.",
    example=PAYOUT | {"status": "needs_approval"},
)
payout("payout.approved", summary="It goes to the bank, by policy or by a person's approval.", example=PAYOUT)
payout(
    "payout.in_transit",
    summary="The bank has accepted it.",
    example=PAYOUT | AT_THE_BANK | {"status": "in_transit"},
)
payout("payout.paid", summary="The bank has confirmed it.", example=PAYOUT | AT_THE_BANK | {"status": "paid"})
payout(
    "payout.failed",
    summary="It did not go through; the money is payable again.",
    example=PAYOUT | AT_THE_BANK | {"status": "failed", "failure_code": "rejected"},
)
payout(
    "payout.returned",
    summary="It came back after it was paid; the money is payable again.",
    example=PAYOUT | AT_THE_BANK | {"status": "returned", "failure_code": "R03"},
)
payout(
    "payout.cancelled",
    summary="It was rejected or cancelled before it was sent.",
    example=PAYOUT | {"status": "cancelled"},
)
event(
    "payout.poll_requested",
    Payout,
    aggregate="payout",
    summary="Somebody wants a look at the bank.",
    example=PAYOUT | AT_THE_BANK | {"status": "in_transit"},
)

event(
    "payout.give_up_approved",
    GivingUp,
    aggregate="payout",
    summary="Two people agree: unless the bank knows of it, it is failed.",
    example=PAYOUT
    | {
        "status": "submitted",
        "approval_id": "01956f1c-3c00-7000-8000-00000000a001",
        "reason": "The bank has refused it; its sending was skipped.",
    },
)

event(
    "payee_policy.changed",
    PolicyChange,
    aggregate="payee_policy",
    audience="organization_id",
    summary="A payee is paid in another way from now on.",
    example={
        "organization_id": PAYEE,
        "before": {"mode": "automatic", "cadence": "", "day": None, "minimum_minor": 0},
        "after": POLICY,
        "reason": "Asked for one payment a week.",
    },
)
event(
    "payee_policy.unblocked",
    Unblocking,
    aggregate="payee_policy",
    summary="Payouts may go to the account again.",
    example={
        "organization_id": PAYEE,
        "blocked": "R03 on payout_01956f1c-3c00-7000-8000-000000005001",
        "reason": "The bank has opened the account again.",
    },
)
