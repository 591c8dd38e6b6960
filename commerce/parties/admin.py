"""Organizations in the console: who they are, what the providers keep for them, suspend and reactivate."""

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from commerce import states
from commerce.console.actions import ObjectAction
from commerce.console.base import ConsoleAdmin
from commerce.console.charts import table
from commerce.console.format import NOTHING, badge, instant, link
from commerce.console.registry import Hit, register_panel, register_search
from commerce.parties import services
from commerce.parties.models import Organization, ProviderReference

SUSPEND = "parties.suspend_organization"


def _suspend(*, obj: Organization, **context: Any) -> None:
    services.suspend_organization(organization=obj, **context)


def _reactivate(*, obj: Organization, **context: Any) -> None:
    services.reactivate_organization(organization=obj, **context)


def _reject(*, obj: Organization, **context: Any) -> None:
    services.reject_organization(organization=obj, **context)


@admin.register(Organization)
class OrganizationAdmin(ConsoleAdmin):
    """Who trades here: buyers, sellers, partners, and the platform itself."""

    list_display = ("name", "shown_roles", "status", "country", "currency", "registered")
    list_filter = ("onboarding_status",)
    search_fields = ("id__exact", "slug__startswith")
    search_help_text = "Id, or how the slug begins."
    fields = (
        "name", "status", "shown_roles", "slug", "country", "currency", "email", "registered", "waits_for",
        "id",
    )  # fmt: skip
    object_actions = (
        ObjectAction(
            "suspend",
            "Suspend",
            permission=SUSPEND,
            run=_suspend,
            available=lambda obj: states.available(obj, "suspend"),
            consequences=lambda obj: (
                f"Nothing new is signed with {obj} or paid to it until it is reactivated."
            ),
            danger=True,
        ),
        ObjectAction(
            "reactivate",
            "Reactivate",
            permission=SUSPEND,
            run=_reactivate,
            available=lambda obj: states.available(obj, "reactivate"),
            consequences=lambda obj: f"Contracts with {obj} and payouts to it are possible again.",
        ),
        ObjectAction(
            "reject",
            "Reject",
            permission=SUSPEND,
            run=_reject,
            available=lambda obj: states.available(obj, "reject"),
            consequences=lambda obj: (
                f"The onboarding of {obj} ends for good; bank details under way are destroyed."
            ),
            danger=True,
        ),
    )

    @admin.display(description="Roles")
    def shown_roles(self, obj: Organization) -> str:
        return ", ".join(obj.roles)

    @admin.display(description="Status")
    def status(self, obj: Organization) -> SafeString:
        return badge(obj.onboarding_status)

    @admin.display(description="Registered")
    def registered(self, obj: Organization) -> SafeString:
        return instant(obj.registered_at)

    @admin.display(description="Waits for")
    def waits_for(self, obj: Organization) -> str:
        if obj.onboarding_status not in ("registered", "verifying"):
            return "nothing"
        return ", ".join(kind.replace("_", " ") for kind in services.missing(obj))


@admin.register(ProviderReference)
class ProviderReferenceAdmin(ConsoleAdmin):
    """What the providers keep for an organization: counterparty, accounts, customer."""

    icon = "badge"
    list_display = ("kind", "organization_link", "provider", "shown_status", "account", "requested")
    list_filter = ("provider", "kind", "status")
    list_select_related = ("organization",)
    search_fields = ("provider_id__exact", "reference__exact", "organization__slug__startswith")
    search_help_text = "The provider's id, our reference, or how the organization's slug begins."
    fields = (
        "organization_link", "provider", "kind", "reference", "provider_id", "shown_status", "account",
        "last_error", "requested", "activated",
    )  # fmt: skip

    @admin.display(description="Organization")
    def organization_link(self, obj: ProviderReference) -> SafeString:
        return link(obj.organization)

    @admin.display(description="Status")
    def shown_status(self, obj: ProviderReference) -> SafeString:
        return badge(obj.status)

    @admin.display(description="Account")
    def account(self, obj: ProviderReference) -> str:
        return _account(obj)

    @admin.display(description="Requested")
    def requested(self, obj: ProviderReference) -> SafeString:
        return instant(obj.requested_at)

    @admin.display(description="Activated")
    def activated(self, obj: ProviderReference) -> SafeString:
        return instant(obj.activated_at)


def _account(reference: ProviderReference) -> str:
    last4 = reference.details.get("last4")
    return f"{reference.details.get('bank_name') or 'Account'} •••• {last4}" if last4 else "—"


def _references(organization: Organization, request: HttpRequest) -> SafeString:
    rows = organization.references.order_by("-id")[:20]
    return table(
        ("What", "Provider", "Status", "Account", "Last error"),
        [
            (
                link(row, row.kind.replace("_", " ")),
                row.get_provider_display(),
                badge(row.status),
                _account(row),
                row.last_error or NOTHING,
            )
            for row in rows
        ],
        empty="Nothing is kept at a provider yet.",
    )


def _search(term: str) -> Iterator[Hit]:
    for row in Organization.objects.filter(slug__startswith=term.lower().replace(" ", "-"))[:10]:
        url = reverse("admin:parties_organization_change", args=[row.pk])
        yield Hit(row.name, url, "organization")


register_panel("parties.organization", title="At the providers", render=_references)
register_search(_search, permission="parties.view_organization")
