"""The events of the review queue and of approvals. For the platform only."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated
from uuid import UUID

from commerce.outbox.catalog import event

ITEM = {
    "review_item_id": "01956f1c-3c00-7000-8000-000000008001",
    "kind": "payout_returned",
    "subject_type": "payouts.payout",
    "subject_id": "01956f1c-3c00-7000-8000-000000005001",
    "status": "open",
    "resolution": "",
}
APPROVAL = {
    "approval_id": "01956f1c-3c00-7000-8000-000000009001",
    "operation": "ledger.reverse",
    "subject_type": "ledger.ledgertransaction",
    "subject_id": "01956f1c-3c00-7000-8000-00000000d003",
    "sha256": "4d7a0c5c3e1f7c8e9a6b2d1f0e3c5b7a4d7a0c5c3e1f7c8e9a6b2d1f0e3c5b7a",
    "status": "pending",
    "maker": "user:7",
    "checker": "",
    "result_type": "",
    "result_id": "",
}


@dataclass(frozen=True)
class ReviewItem:
    """Something a person must look at, as it is after the change."""

    review_item_id: UUID
    kind: str
    subject_type: Annotated[str, "a model's label"]
    subject_id: str
    status: str
    resolution: Annotated[str, "empty until it is resolved"]


@dataclass(frozen=True)
class Approval:
    """A request for what only two people may do, as it is after the change."""

    approval_id: UUID
    operation: str
    subject_type: Annotated[str, "a model's label"]
    subject_id: str
    sha256: Annotated[str, "of operation, subject and arguments"]
    status: str
    maker: Annotated[str, "who asked"]
    checker: Annotated[str, "who decided; empty until somebody did"]
    result_type: Annotated[str, "model of what it made"]
    result_id: str


item = partial(event, payload=ReviewItem, aggregate="review_item")

item("review_item.opened", summary="Something needs a person.", example=ITEM)
item(
    "review_item.resolved",
    summary="A person, or what happened since, has settled it.",
    example=ITEM | {"status": "resolved", "resolution": "paid_again"},
)

approval = partial(event, payload=Approval, aggregate="approval")
DECIDED = {"checker": "user:9"}

approval("approval.requested", summary="One person asks.", example=APPROVAL)
approval(
    "approval.approved",
    summary="Another person agreed, and it was done.",
    example={
        **APPROVAL,
        **DECIDED,
        "status": "approved",
        "result_type": "ledger.ledgertransaction",
        "result_id": "01956f1c-3c00-7000-8000-00000000d004",
    },
)
approval(
    "approval.rejected",
    summary="Another person said no.",
    example=APPROVAL | DECIDED | {"status": "rejected"},
)
approval("approval.cancelled", summary="It was taken back.", example=APPROVAL | {"status": "cancelled"})
approval("approval.expired", summary="Nobody decided in time.", example=APPROVAL | {"status": "expired"})
