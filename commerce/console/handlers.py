"""The events of the review queue and of approvals are for the outside; nothing here listens to them."""

from commerce.outbox import external

external("review_item.opened", "review_item.resolved")
external(
    "approval.requested", "approval.approved", "approval.rejected", "approval.cancelled", "approval.expired"
)
