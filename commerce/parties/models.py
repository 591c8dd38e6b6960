"""Who takes part in the marketplace, and under which names the providers know them.

Bank details are never kept: a `BankDetailsVault` row holds them encrypted until the provider has
them, at most a day, and what stays is the provider's id, the bank's name and the last four digits.
"""

from datetime import datetime
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django_fsm import FSMField, transition

from commerce.ids import uuid7


class Role(models.TextChoices):
    BUYER = "buyer"
    SELLER = "seller"
    PARTNER = "partner"
    PLATFORM = "platform"


class Onboarding(models.TextChoices):
    REGISTERED = "registered"
    VERIFYING = "verifying"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    REJECTED = "rejected"


class OrganizationManager(models.Manager["Organization"]):
    def platform(self) -> "Organization":
        """The organization that is us. The first migration makes it; it needs no onboarding."""
        row, created = self.get_or_create(
            slug="platform", defaults={"name": "Platform", "roles": ["platform"]}
        )
        if created:
            self.filter(pk=row.pk).update(onboarding_status=Onboarding.ACTIVE)
            row.refresh_from_db()
        return row


class Organization(models.Model):
    """A company in one or more roles; its id is our reference for it everywhere."""

    aggregate_type = "organization"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=200)
    slug = models.SlugField(max_length=80, unique=True)
    roles = ArrayField(
        models.CharField(max_length=16, choices=Role.choices), help_text="What it may be in a contract."
    )
    onboarding_status = FSMField(default=Onboarding.REGISTERED, choices=Onboarding.choices)
    country = models.CharField(max_length=2, default="US", help_text="ISO 3166-1 alpha-2.")
    currency = models.CharField(max_length=3, default="USD", help_text="ISO 4217.")
    email = models.EmailField(blank=True, default="")
    registered_at = models.DateTimeField(null=True, help_text="Business time.")
    recorded_at = models.DateTimeField(auto_now_add=True)

    objects = OrganizationManager()

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(roles__contained_by=Role.values) & Q(roles__len__gt=0),
                name="organization_roles_known",
            ),
            models.CheckConstraint(
                condition=~Q(roles__contains=["platform"]) | Q(slug="platform"),
                name="organization_one_platform",
            ),
            models.CheckConstraint(condition=Q(country__regex="^[A-Z]{2}$"), name="organization_country_iso"),
            models.CheckConstraint(
                condition=Q(currency__regex="^[A-Z]{3}$"), name="organization_currency_iso"
            ),
        )
        permissions = (
            ("register_organization", "Can register organizations and bank accounts"),
            ("suspend_organization", "Can suspend, reactivate and reject organizations"),
        )

    def __str__(self) -> str:
        return self.name

    def has_role(self, role: str) -> bool:
        return role in self.roles

    @property
    def is_payee(self) -> bool:
        return self.has_role(Role.SELLER) or self.has_role(Role.PARTNER)

    def event_payload(self) -> dict[str, Any]:
        return {
            "organization_id": str(self.pk),
            "slug": self.slug,
            "name": self.name,
            "roles": sorted(self.roles),
            "country": self.country,
            "currency": self.currency,
            "onboarding_status": self.onboarding_status,
        }

    @transition(field=onboarding_status, source="registered", target="verifying", custom={"label": "Verify"})
    def start_verification(self) -> None:
        """Its accounts at the providers are being made."""

    @transition(
        field=onboarding_status,
        source=["registered", "verifying"],
        target="active",
        custom={"event": "organization.activated", "label": "Activate"},
    )
    def activate(self) -> None:
        """Every account its roles need exists."""

    @transition(
        field=onboarding_status,
        source=["registered", "verifying"],
        target="rejected",
        permission="parties.suspend_organization",
        custom={"event": "organization.rejected", "label": "Reject"},
    )
    def reject(self) -> None:
        """We do not do business with it."""

    @transition(
        field=onboarding_status,
        source="active",
        target="suspended",
        permission="parties.suspend_organization",
        custom={"event": "organization.suspended", "label": "Suspend"},
    )
    def suspend(self) -> None:
        """Nothing new is signed with it or paid to it."""

    @transition(
        field=onboarding_status,
        source="suspended",
        target="active",
        permission="parties.suspend_organization",
        custom={"event": "organization.reactivated", "label": "Reactivate"},
    )
    def reactivate(self) -> None:
        """Business goes on."""


class Provider(models.TextChoices):
    MODERN_TREASURY = "modern_treasury", "Modern Treasury"
    OPENMETER = "openmeter", "OpenMeter"


class ReferenceKind(models.TextChoices):
    COUNTERPARTY = "counterparty"
    VIRTUAL_ACCOUNT = "virtual_account"
    EXTERNAL_ACCOUNT = "external_account"
    CUSTOMER = "customer"


class ProviderReference(models.Model):
    """One thing a provider keeps for an organization. `reference` is ours and exists before theirs."""

    aggregate_type = "provider_reference"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="references")
    provider = models.CharField(max_length=20, choices=Provider.choices)
    kind = models.CharField(max_length=20, choices=ReferenceKind.choices)
    reference = models.CharField(max_length=120, unique=True, help_text="Our key, made before the call.")
    provider_id = models.CharField(max_length=80, null=True, help_text="Unknown until the provider has it.")  # noqa: DJ001
    status = FSMField(
        default="requested", choices=[("requested", "requested"), ("active", "active"), ("failed", "failed")]
    )
    details = models.JSONField(default=dict, help_text="Bank name and last four digits; nothing more.")
    last_error = models.TextField(blank=True, default="")
    requested_at = models.DateTimeField(help_text="Business time.")
    activated_at = models.DateTimeField(null=True, help_text="Business time.")
    recorded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["organization", "provider", "kind"],
                name="reference_once",
                condition=Q(kind__in=["counterparty", "virtual_account"]),
            ),
            models.UniqueConstraint(
                fields=["provider_id", "provider", "kind"],
                name="reference_provider_id_once",
                condition=Q(provider_id__isnull=False),
            ),
            models.CheckConstraint(
                condition=~Q(status="active") | Q(provider_id__isnull=False), name="reference_active_has_id"
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} of {self.organization} at {self.provider}"

    def event_payload(self) -> dict[str, Any]:
        return {
            "organization_id": str(self.organization_id),
            "provider": self.provider,
            "kind": self.kind,
            "reference": self.reference,
            "provider_id": self.provider_id,
        }

    @transition(
        field=status,
        source=["requested", "failed"],
        target="active",
        custom={"event": "provider_reference.activated", "label": "Activate"},
    )
    def activate(self, provider_id: str, activated_at: datetime, details: dict[str, str]) -> None:
        self.provider_id, self.activated_at, self.last_error = provider_id, activated_at, ""
        self.details = {**self.details, **details}

    @transition(
        field=status,
        source="requested",
        target="failed",
        custom={"event": "provider_reference.failed", "label": "Fail"},
    )
    def fail(self, error: str) -> None:
        self.last_error = error[:500]


class BankDetailsVault(models.Model):
    """Encrypted bank details on their way to the provider; the row goes when they have arrived."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    reference = models.OneToOneField(ProviderReference, on_delete=models.CASCADE, related_name="vault")
    ciphertext = models.BinaryField()
    expires_at = models.DateTimeField(db_index=True, help_text="System time.")

    def __str__(self) -> str:
        return f"bank details of {self.reference}"
