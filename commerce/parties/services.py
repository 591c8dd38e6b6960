"""Registering organizations, their bank accounts, and making both known to Modern Treasury.

A request only records what is wanted: references with our keys, bank details sealed, one event.
`provision` runs later, outside any transaction, and looks before it creates, so that it may run
any number of times. An organization is active once every account its roles need exists.
"""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.utils import timezone
from django.utils.text import slugify

from commerce import states
from commerce.actor import Actor
from commerce.console.services import clear_reviews, open_review
from commerce.crash import crash_point
from commerce.errors import Conflict, FieldError, InvalidInput, NotFound, Rejected, StateConflict
from commerce.ids import uuid7
from commerce.money import CURRENCIES
from commerce.outbox import append
from commerce.parties import vault
from commerce.parties.models import BankDetailsVault, Organization, ProviderReference, Role
from commerce.parties.vault import BankAccount
from commerce.providers import modern_treasury

REGISTER = "parties.register_organization"
BANK_ACCOUNT_REFUSED = "bank_account_refused"
_ORDER = ("counterparty", "virtual_account", "external_account")
# Answers that blame the details rather than us; anything else parks the stream for a person.
_BAD_DETAILS = (400, 422)


@transaction.atomic
def register_organization(
    *,
    name: str,
    roles: Iterable[str],
    country: str,
    currency: str,
    email: str,
    actor: Actor,
    at: datetime,
    slug: str = "",
    bank_account: BankAccount | None = None,
) -> Organization:
    """Take in a buyer, seller or partner. InvalidInput names each field at fault."""
    actor.require(REGISTER)
    name, chosen = name.strip(), sorted(set(roles))
    _check(name, chosen, country, currency, email, slug)
    organization = Organization(
        name=name,
        slug=slug or _free_slug(name),
        roles=chosen,
        country=country,
        currency=currency,
        email=email,
        registered_at=at,
    )
    if Organization.objects.filter(slug=organization.slug).exists():
        raise Conflict(f"The slug {slug} is taken.", pointer="/slug", code="slug_taken")
    organization.save()
    _request(organization, "counterparty", at)
    if organization.has_role(Role.BUYER):
        _request(organization, "virtual_account", at)
    if bank_account:
        _request_bank_account(organization, bank_account, at, pointer="/bank_account")
    payload = organization.event_payload()
    append("organization", organization.pk, "organization.registered", payload, at=at, actor=actor)
    return organization


@transaction.atomic
def add_bank_account(
    *, organization: Organization, bank_account: BankAccount, actor: Actor, at: datetime
) -> ProviderReference:
    """Give a payee an account to be paid to. The newest active one is used."""
    actor.require(REGISTER)
    row = Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
    if row.onboarding_status in ("suspended", "rejected"):
        raise StateConflict(f"{row} is {row.onboarding_status}.", state=row.onboarding_status)
    reference = _request_bank_account(row, bank_account, at, pointer="")
    payload = {**row.event_payload(), "reference_id": str(reference.pk)}
    append("organization", row.pk, "organization.bank_account_added", payload, at=at, actor=actor)
    return reference


def provider_id(organization: Organization | UUID, provider: str, kind: str) -> str | None:
    """The provider's name for an organization's newest active thing of a kind."""
    organization_id = organization.pk if isinstance(organization, Organization) else organization
    active = ProviderReference.objects.filter(
        organization_id=organization_id, provider=provider, kind=kind, status="active"
    )
    return active.order_by("-id").values_list("provider_id", flat=True).first()


@transaction.atomic
def request_reference(
    *, organization: Organization, provider: str, kind: str, reference: str, at: datetime
) -> ProviderReference:
    """Write down our key before anything is sent; the same row every time."""
    row, _ = ProviderReference.objects.get_or_create(
        reference=reference,
        defaults={"organization": organization, "provider": provider, "kind": kind, "requested_at": at},
    )
    if (row.organization_id, row.provider, row.kind) != (organization.pk, provider, kind):
        raise Conflict(f"{reference} already stands for another {row.kind}.", code="reference_taken")
    return row


@transaction.atomic
def mark_reference_active(
    *,
    reference: ProviderReference,
    provider_id: str,
    actor: Actor,
    at: datetime,
    details: dict[str, str] | None = None,
) -> ProviderReference:
    """Record the provider's id. Bank details under way are destroyed in the same transaction."""
    row = ProviderReference.objects.select_for_update(of=("self",), no_key=True).get(pk=reference.pk)
    if row.status == "active":
        if row.provider_id != provider_id:
            raise Conflict(f"{row} is {row.provider_id}, not {provider_id}.", code="reference_known")
        return row
    row = states.transition(
        row, "activate", actor=actor, at=at, provider_id=provider_id, activated_at=at, details=details or {}
    )
    BankDetailsVault.objects.filter(reference=row).delete()
    organization = row.organization
    if row.kind == "external_account":
        clear_reviews(
            subject_type="parties.organization",
            subject_id=organization.pk,
            kind=BANK_ACCOUNT_REFUSED,
            actor=actor,
            at=at,
            reason="Another bank account was accepted.",
        )
    if organization.onboarding_status in ("registered", "verifying") and not missing(organization):
        states.transition(organization, "activate", actor=actor, at=at)
    return row


def missing(organization: Organization) -> list[str]:
    """What its roles need and it does not have yet, e.g. ["external_account"]."""
    needed = ["counterparty"]
    if organization.has_role(Role.BUYER):
        needed.append("virtual_account")
    if organization.is_payee:
        needed.append("external_account")
    active = set(
        organization.references.filter(provider="modern_treasury", status="active").values_list(
            "kind", flat=True
        )
    )
    return [kind for kind in needed if kind not in active]


def provision(*, organization_id: UUID | str, actor: Actor, at: datetime) -> None:
    """Make at Modern Treasury what is still requested. Runs outside any transaction."""
    organization = Organization.objects.get(pk=organization_id)
    if organization.onboarding_status == "rejected":
        return
    if organization.onboarding_status == "registered":
        organization = states.transition(organization, "start_verification", actor=actor, at=at)
    requested = organization.references.filter(provider="modern_treasury", status="requested")
    for reference in sorted(requested, key=lambda row: (_ORDER.index(row.kind), row.pk)):
        if reference.kind == "counterparty":
            _provision_counterparty(organization, reference, actor, at)
        elif reference.kind == "virtual_account":
            _provision_virtual_account(organization, reference, actor, at)
        else:
            _provision_external_account(organization, reference, actor, at)


def suspend_organization(
    *, organization: Organization, actor: Actor, at: datetime, reason: str
) -> Organization:
    """Nothing new is signed with it or paid to it until it is reactivated."""
    return states.transition(organization, "suspend", actor=actor, at=at, reason=reason)


def reactivate_organization(
    *, organization: Organization, actor: Actor, at: datetime, reason: str
) -> Organization:
    return states.transition(organization, "reactivate", actor=actor, at=at, reason=reason)


@transaction.atomic
def reject_organization(
    *, organization: Organization, actor: Actor, at: datetime, reason: str
) -> Organization:
    """End an onboarding for good. What the providers have already stays there, unused."""
    row = states.transition(organization, "reject", actor=actor, at=at, reason=reason)
    BankDetailsVault.objects.filter(reference__organization=row).delete()
    return row


@transaction.atomic
def expire_bank_details(*, actor: Actor, at: datetime) -> int:
    """Destroy sealed bank details older than a day and fail the references that waited for them."""
    expired = BankDetailsVault.objects.filter(expires_at__lte=timezone.now()).select_related("reference")
    count = 0
    for row in expired.select_for_update(skip_locked=True, of=("self",)):
        if row.reference.status == "requested":
            _refuse(row.reference, "The bank details have expired and must be entered again.", actor, at)
        row.delete()
        count += 1
    return count


def _provision_counterparty(
    organization: Organization, reference: ProviderReference, actor: Actor, at: datetime
) -> None:
    client = modern_treasury.client()
    found = client.find_counterparty(reference.reference)
    if not found:
        crash_point("parties.before_counterparty")
        found = client.create_counterparty(
            external_id=reference.reference,
            name=organization.name,
            email=organization.email,
            metadata={"organization_id": str(organization.pk)},
            key=reference.reference,
        )
        crash_point("parties.after_counterparty")
    mark_reference_active(reference=reference, provider_id=found.id, actor=actor, at=at)


def _provision_virtual_account(
    organization: Organization, reference: ProviderReference, actor: Actor, at: datetime
) -> None:
    client = modern_treasury.client()
    found = client.find_virtual_account(reference.reference)
    if not found:
        crash_point("parties.before_virtual_account")
        found = client.create_virtual_account(
            reference=reference.reference,
            counterparty_id=_counterparty_id(organization),
            name=organization.name,
            metadata={"organization_id": str(organization.pk)},
            key=reference.reference,
        )
        crash_point("parties.after_virtual_account")
    details = {"last4": found.last4, "bank_name": found.bank_name}
    mark_reference_active(reference=reference, provider_id=found.id, actor=actor, at=at, details=details)


def _provision_external_account(
    organization: Organization, reference: ProviderReference, actor: Actor, at: datetime
) -> None:
    client = modern_treasury.client()
    found = client.find_external_account(reference.reference)
    if not found:
        try:
            account = vault.unseal(BankDetailsVault.objects.get(reference=reference).ciphertext)
            crash_point("parties.before_external_account")
            found = client.create_external_account(
                external_id=reference.reference,
                counterparty_id=_counterparty_id(organization),
                party_name=account.holder_name or organization.name,
                account_number=account.account_number,
                account_number_type=account.account_number_type,
                routing_number=account.routing_number,
                routing_number_type=account.routing_number_type,
                account_type=account.account_type,
                metadata={"organization_id": str(organization.pk)},
                key=reference.reference,
            )
        except (BankDetailsVault.DoesNotExist, NotFound):
            _refuse(reference, "The bank details have expired and must be entered again.", actor, at)
            return
        except Rejected as error:
            if error.extra.get("provider_status") not in _BAD_DETAILS:
                raise
            code = error.extra.get("provider_code") or "no reason given"
            _refuse(reference, f"The bank refused the account: {code}.", actor, at)
            return
        crash_point("parties.after_external_account")
    details = {"last4": found.last4, "bank_name": found.bank_name}
    mark_reference_active(reference=reference, provider_id=found.id, actor=actor, at=at, details=details)


def _counterparty_id(organization: Organization) -> str:
    found = provider_id(organization, "modern_treasury", "counterparty")
    if not found:
        raise StateConflict(f"{organization} has no counterparty yet.")
    return found


@transaction.atomic
def _refuse(reference: ProviderReference, error: str, actor: Actor, at: datetime) -> None:
    """Give up on a bank account, so that the organization's stream goes on and another can be added."""
    states.transition(reference, "fail", actor=actor, at=at, error=error)
    BankDetailsVault.objects.filter(reference=reference).delete()
    open_review(
        kind=BANK_ACCOUNT_REFUSED,
        subject_type="parties.organization",
        subject_id=reference.organization_id,
        title=f"{reference.organization}: bank account refused",
        detail=f"{error} Ask for other details; payouts wait until then.",
        actor=actor,
        at=at,
    )


def _request(
    organization: Organization, kind: str, at: datetime, details: dict[str, str] | None = None
) -> ProviderReference:
    id_ = uuid7()
    return ProviderReference.objects.create(
        id=id_,
        organization=organization,
        provider="modern_treasury",
        kind=kind,
        reference=f"{kind}-{id_}",
        details=details or {},
        requested_at=at,
    )


def _request_bank_account(
    organization: Organization, account: BankAccount, at: datetime, *, pointer: str
) -> ProviderReference:
    if not organization.is_payee:
        raise InvalidInput(
            f"{organization} is neither seller nor partner, so nothing is paid to it.",
            pointer=pointer,
            code="not_a_payee",
        )
    account = account.normalized(pointer=pointer)
    reference = _request(organization, "external_account", at, {"last4": account.last4})
    BankDetailsVault.objects.create(
        reference=reference, ciphertext=vault.seal(account), expires_at=timezone.now() + vault.LIFETIME
    )
    return reference


def _check(name: str, roles: list[str], country: str, currency: str, email: str, slug: str) -> None:
    faults = []
    if not 1 <= len(name) <= 200:
        faults.append(("/name", "1 to 200 characters are expected."))
    if not roles or not set(roles) <= {Role.BUYER, Role.SELLER, Role.PARTNER}:
        faults.append(("/roles", "One or more of buyer, seller and partner are expected."))
    if not (len(country) == 2 and country.isascii() and country.isupper() and country.isalpha()):
        faults.append(("/country", "An ISO 3166-1 alpha-2 code such as US is expected."))
    if currency not in CURRENCIES:
        faults.append(("/currency", "An ISO 4217 code such as USD is expected."))
    if slug and (len(slug) > 80 or slugify(slug) != slug):
        faults.append(("/slug", "Lower-case letters, digits and hyphens are expected."))
    if email:
        try:
            validate_email(email)
        except ValidationError:
            faults.append(("/email", "An e-mail address is expected."))
    if faults:
        errors = [FieldError(pointer, "invalid", detail) for pointer, detail in faults]
        raise InvalidInput("The organization is not valid.", errors=errors)


def _free_slug(name: str) -> str:
    base = slugify(name)[:70] or "organization"
    taken = set(Organization.objects.filter(slug__startswith=base).values_list("slug", flat=True))
    if base not in taken:
        return base
    return next(slug for n in range(2, len(taken) + 3) if (slug := f"{base}-{n}") not in taken)
