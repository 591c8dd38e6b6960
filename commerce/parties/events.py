"""The events of organizations and of what the providers call them."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated
from uuid import UUID

from commerce.outbox.catalog import event
from commerce.outbox.payloads import Public

ORGANIZATION = {
    "organization_id": "01956f1c-3c00-7000-8000-0000000000e1",
    "slug": "northwind",
    "name": "Northwind Compute",
    "roles": ["seller"],
    "country": "US",
    "currency": "USD",
    "onboarding_status": "active",
}
REFERENCE = {
    "organization_id": "01956f1c-3c00-7000-8000-0000000000e1",
    "provider": "modern_treasury",
    "kind": "external_account",
    "reference": "01956f1c-3c00-7000-8000-000000007001",
    "provider_id": "01956f1c-3c00-7000-8000-000000007002",
}


@dataclass(frozen=True)
class Organization:
    """An organization as it is after the change."""

    organization_id: Public[UUID]
    slug: Public[str]
    name: Public[str]
    roles: Public[tuple[str, ...]]
    country: Public[Annotated[str, "ISO 3166"]]
    currency: Public[Annotated[str, "ISO 4217"]]
    onboarding_status: Public[str]


@dataclass(frozen=True)
class BankAccountAdded(Organization):
    """The organization, and the account it gave."""

    reference_id: Annotated[UUID, "what stands for the account; its details are not kept"]


@dataclass(frozen=True)
class ProviderReference:
    """What a provider calls something of an organization."""

    organization_id: UUID
    provider: str
    kind: str
    reference: Annotated[str, "our key at the provider"]
    provider_id: Annotated[str | None, "the provider's name for it; null until it is made"]


organization = partial(event, payload=Organization, aggregate="organization", audience="organization_id")

organization(
    "organization.registered",
    summary="It registered; its accounts at the bank are being made.",
    example=ORGANIZATION | {"onboarding_status": "registered"},
)
organization("organization.activated", summary="Every account its roles need exists.", example=ORGANIZATION)
organization(
    "organization.rejected",
    summary="It may not do business here.",
    example=ORGANIZATION | {"onboarding_status": "rejected"},
)
organization(
    "organization.suspended",
    summary="It does no business until it is reactivated.",
    example=ORGANIZATION | {"onboarding_status": "suspended"},
)
organization("organization.reactivated", summary="Its suspension was lifted.", example=ORGANIZATION)
event(
    "organization.bank_account_added",
    BankAccountAdded,
    aggregate="organization",
    audience="organization_id",
    summary="A payee gave an account to be paid to.",
    example=ORGANIZATION | {"reference_id": "01956f1c-3c00-7000-8000-000000007001"},
)

reference = partial(event, payload=ProviderReference, aggregate="provider_reference")

reference("provider_reference.activated", summary="The provider has made it.", example=REFERENCE)
reference(
    "provider_reference.failed",
    summary="The provider would not make it.",
    example=REFERENCE | {"provider_id": None},
)
