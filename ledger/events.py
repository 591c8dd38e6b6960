"""The events of the ledger: periods close and reopen, releases let money go. For the platform only."""

from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Annotated
from uuid import UUID

from commerce.outbox.catalog import event
from commerce.outbox.payloads import Currency, Minor


@dataclass(frozen=True)
class Period:
    """An accounting period; it does not hold the day it ends on."""

    period_id: UUID
    starts_on: date
    ends_on: date


@dataclass(frozen=True)
class Release:
    """Money that goes from holding to its owner at an instant, as it is after the change."""

    release_id: UUID
    owner_id: UUID
    amount_minor: Minor
    currency: Currency
    source: Annotated[str, "what it was scheduled for, such as `settlement_leg:<id>`"]
    transaction_id: Annotated[UUID | None, "the posting that released it"]


period = partial(
    event,
    payload=Period,
    aggregate="ledger_period",
    example={
        "period_id": "01956f1c-3c00-7000-8000-00000000d001",
        "starts_on": "2027-03-01",
        "ends_on": "2027-04-01",
    },
)

period(
    "ledger.period_closing", summary="Postings for it go to the next one; those on their way still arrive."
)
period("ledger.period_closed", summary="Nothing is posted into it any more; its balances are kept.")
period("ledger.period_reopened", summary="Two people opened it again.")

RELEASE = {
    "release_id": "01956f1c-3c00-7000-8000-00000000d002",
    "owner_id": "01956f1c-3c00-7000-8000-0000000000e1",
    "amount_minor": 2280000,
    "currency": "USD",
    "source": "settlement_leg:01956f1c-3c00-7000-8000-00000000f002",
    "transaction_id": None,
}
release = partial(event, payload=Release, aggregate="ledger_release")

release("ledger.release_held", summary="It waits until its hold is lifted.", example=RELEASE)
release("ledger.release_lifted", summary="Its hold was lifted.", example=RELEASE)
release("ledger.release_cancelled", summary="It will not happen.", example=RELEASE)
release(
    "ledger.released",
    summary="Its time came and the money was released.",
    example=RELEASE | {"transaction_id": "01956f1c-3c00-7000-8000-00000000d003"},
)
