"""What Modern Treasury must know about an organization."""

from commerce.outbox import external

external(
    "organization.registered",
    "organization.activated",
    "organization.rejected",
    "organization.suspended",
    "organization.reactivated",
    "provider_reference.activated",
    "provider_reference.failed",
)
