"""Registration and onboarding: nothing is called in a request, nothing is made twice, no number is kept."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from commerce.actor import Actor
from commerce.console.models import ReviewItem
from commerce.errors import Conflict, InvalidInput, PermissionDenied, StateConflict
from commerce.logs import JsonFormatter
from commerce.outbox import drain
from commerce.outbox.models import OutboxEvent, OutboxStream
from commerce.outbox.relay import DrainReport
from commerce.parties import invariants, services, vault
from commerce.parties.models import BankDetailsVault, Organization, ProviderReference
from commerce.parties.tasks import poll
from commerce.parties.vault import BankAccount
from tests.commerce.conftest import Sandbox

AT = datetime(2027, 3, 1, tzinfo=UTC)
SYSTEM = Actor.system("test")
CANARY = "987654321098"
BANK = BankAccount(account_number=CANARY, routing_number="121141822")
GROUPS = ["parties.modern_treasury"]

pytestmark = pytest.mark.django_db


def register(*roles: str, bank_account: BankAccount | None = None, **more: Any) -> Organization:
    values = {"name": "Northwind", "country": "US", "currency": "USD", "email": "ap@northwind.test", **more}
    return services.register_organization(
        roles=roles, bank_account=bank_account, actor=SYSTEM, at=AT, **values
    )


def relay() -> None:
    """Drain until nothing of ours is due, back-off skipped. The test's transaction stands still in time."""
    for _ in range(10):
        past = timezone.now() - timedelta(hours=1)
        OutboxStream.objects.filter(due_at__isnull=False).update(due_at=past)
        if drain(groups=GROUPS) == DrainReport():
            return


def reference(organization: Organization, kind: str) -> ProviderReference:
    return organization.references.get(kind=kind)


def status(organization: Organization) -> str:
    return Organization.objects.get(pk=organization.pk).onboarding_status


def whole_database() -> str:
    """Every row of every table, as text."""
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        cursor.execute(" UNION ALL ".join(f"SELECT t::text FROM {table} t" for table in tables))
        return "\n".join(row[0] for row in cursor.fetchall())


def test_registering_calls_nobody_and_says_what_is_missing() -> None:
    organization = register("buyer", "seller")
    assert (organization.onboarding_status, organization.slug) == ("registered", "northwind")
    assert services.missing(organization) == ["counterparty", "virtual_account", "external_account"]
    assert {row.kind: row.status for row in organization.references.all()} == {
        "counterparty": "requested",
        "virtual_account": "requested",
    }
    assert OutboxEvent.objects.get().type == "organization.registered"


@pytest.mark.django_db(transaction=True)
def test_a_buyer_becomes_active_once_the_bank_knows_it(sandbox: Sandbox) -> None:
    buyer = register("buyer")
    relay()
    assert status(buyer) == "active"
    assert services.provider_id(buyer, "modern_treasury", "virtual_account")
    wallet = reference(buyer, "virtual_account")
    assert set(wallet.details) == {"last4", "bank_name"}
    assert services.provider_id(buyer.pk, "modern_treasury", "external_account") is None
    assert len(sandbox.effects("modern_treasury", "counterparty")) == 1
    assert sandbox.effects("modern_treasury", "external_account") == []


def test_a_payee_waits_for_its_bank_account(sandbox: Sandbox) -> None:
    seller = register("seller")
    relay()
    assert (status(seller), services.missing(seller)) == ("verifying", ["external_account"])
    added = services.add_bank_account(organization=seller, bank_account=BANK, actor=SYSTEM, at=AT)
    assert status(seller) == "verifying"
    relay()
    assert status(seller) == "active"
    added.refresh_from_db()
    assert services.provider_id(seller, "modern_treasury", "external_account") == added.provider_id
    [account] = sandbox.effects("modern_treasury", "external_account")
    assert account["external_id"] == added.reference


def test_the_newest_active_account_is_the_one_to_pay_to(sandbox: Sandbox) -> None:
    seller = register("seller", bank_account=BANK)
    relay()
    first = services.provider_id(seller, "modern_treasury", "external_account")
    other = BankAccount(account_number="55554444", routing_number="121141822")
    services.add_bank_account(organization=seller, bank_account=other, actor=SYSTEM, at=AT)
    assert services.provider_id(seller, "modern_treasury", "external_account") == first
    relay()
    assert services.provider_id(seller, "modern_treasury", "external_account") != first


def test_the_account_number_is_nowhere_at_any_time(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="commerce"):
        seller = register("seller", bank_account=BANK)
        assert CANARY not in whole_database()
        assert CANARY not in repr(BANK)
        relay()
    assert status(seller) == "active"
    assert CANARY not in whole_database()
    assert "1098" in whole_database()
    assert not BankDetailsVault.objects.exists()
    assert not any(CANARY in JsonFormatter().format(record) for record in caplog.records)


@pytest.mark.parametrize("kind", ["counterparties", "virtual_accounts", "external_accounts"])
@pytest.mark.parametrize("fault", ["timeout_after_effect", "timeout_before", "error"])
def test_a_lost_answer_makes_nothing_twice(sandbox: Sandbox, kind: str, fault: str) -> None:
    sandbox.fault("modern_treasury", "POST", f"/api/{kind}$", fault)
    both = register("buyer", "seller", bank_account=BANK)
    relay()
    assert status(both) == "active"
    for made in ("counterparty", "virtual_account", "external_account"):
        assert len(sandbox.effects("modern_treasury", made)) == 1
    assert not BankDetailsVault.objects.exists()


def test_provisioning_again_changes_nothing(sandbox: Sandbox) -> None:
    buyer = register("buyer")
    relay()
    events = OutboxEvent.objects.count()
    services.provision(organization_id=buyer.pk, actor=SYSTEM, at=AT)
    assert OutboxEvent.objects.count() == events
    assert len(sandbox.effects("modern_treasury", "counterparty")) == 1


def test_a_crash_before_the_answer_is_recorded_finds_what_was_made(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(name: str) -> None:
        if name == "parties.after_counterparty":
            raise KeyboardInterrupt

    buyer = register("buyer")
    monkeypatch.setattr(services, "crash_point", die)
    with pytest.raises(KeyboardInterrupt):
        services.provision(organization_id=buyer.pk, actor=SYSTEM, at=AT)
    assert reference(buyer, "counterparty").status == "requested"
    monkeypatch.undo()
    relay()
    assert status(buyer) == "active"
    assert len(sandbox.effects("modern_treasury", "counterparty")) == 1


def test_a_refused_bank_account_fails_alone_and_asks_a_person(sandbox: Sandbox) -> None:
    sandbox.fault("modern_treasury", "POST", "external_accounts", "error", status=422)
    seller = register("seller", bank_account=BANK)
    relay()
    failed = reference(seller, "external_account")
    assert (failed.status, status(seller)) == ("failed", "verifying")
    assert ReviewItem.objects.get().kind == "bank_account_refused"
    assert not BankDetailsVault.objects.exists()
    assert not OutboxStream.objects.filter(parked_at__isnull=False).exists()

    services.add_bank_account(organization=seller, bank_account=BANK, actor=SYSTEM, at=AT)
    relay()
    assert status(seller) == "active"
    assert ReviewItem.objects.get().status == "resolved"


def test_a_refusal_that_is_our_fault_parks_the_stream(sandbox: Sandbox) -> None:
    sandbox.fault("modern_treasury", "POST", "/api/counterparties$", "error", status=400)
    buyer = register("buyer")
    relay()
    assert OutboxStream.objects.get(group=GROUPS[0]).parked_at
    assert reference(buyer, "counterparty").status == "requested"
    assert list(invariants.forgotten_references()) == []


def test_bank_details_expire_after_a_day(sandbox: Sandbox) -> None:
    seller = register("seller", bank_account=BANK)
    assert poll() == 0
    BankDetailsVault.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert poll() == 1
    assert not BankDetailsVault.objects.exists()
    failed = reference(seller, "external_account")
    assert failed.status == "failed"
    assert "entered again" in failed.last_error
    relay()
    assert sandbox.effects("modern_treasury", "external_account") == []


def test_bank_details_sealed_under_a_lost_key_are_asked_for_again(sandbox: Sandbox, settings: Any) -> None:
    seller = register("seller", bank_account=BANK)
    settings.SECRET_KEY = "another " * 8
    relay()
    assert reference(seller, "external_account").status == "failed"


def test_a_rotated_key_still_opens_the_vault(settings: Any) -> None:
    sealed = vault.seal(BANK)
    settings.SECRET_KEY_FALLBACKS, settings.SECRET_KEY = [settings.SECRET_KEY], "another " * 8
    assert vault.unseal(sealed) == BANK


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": "  "}, "/name"),
        ({"name": "x" * 201}, "/name"),
        ({"roles": ()}, "/roles"),
        ({"roles": ("platform",)}, "/roles"),
        ({"roles": ("buyer", "bank")}, "/roles"),
        ({"country": "us"}, "/country"),
        ({"country": "USA"}, "/country"),
        ({"currency": "XXX"}, "/currency"),
        ({"email": "nobody"}, "/email"),
        ({"slug": "Not A Slug"}, "/slug"),
        ({"bank_account": BankAccount("12", "121141822")}, "/bank_account/account_number"),
        ({"bank_account": BankAccount("123456789", "121141823")}, "/bank_account/routing_number"),
        ({"bank_account": BankAccount("123456789", "1", "sort")}, "/bank_account/routing_number_type"),
        ({"bank_account": BankAccount("123456789", "121141822", "aba", "x")}, "/bank_account/account_type"),
        ({"roles": ("buyer",), "bank_account": BANK}, "/bank_account"),
    ],
)  # fmt: skip
def test_bad_input_names_the_field_and_leaves_nothing(change: dict[str, Any], pointer: str) -> None:
    values = {"roles": ("seller",), **change}
    with pytest.raises(InvalidInput) as refused:
        register(*values.pop("roles"), **values)
    assert [error.pointer for error in refused.value.errors] == [pointer]
    assert not ProviderReference.objects.exists()
    assert not OutboxEvent.objects.exists()


def test_a_message_about_bad_bank_details_does_not_repeat_them() -> None:
    with pytest.raises(InvalidInput) as refused:
        register("seller", bank_account=BankAccount(f"{CANARY}-!", "121141823"))
    assert CANARY not in str(refused.value)
    assert "121141823" not in str(refused.value)


def test_slugs_are_made_unique_and_a_chosen_one_is_not_taken_twice() -> None:
    assert [register("buyer").slug for _ in range(3)] == ["northwind", "northwind-2", "northwind-3"]
    assert register("buyer", name="株式会社").slug == "organization"
    with pytest.raises(Conflict):
        register("buyer", slug="northwind")


def test_who_may_not_register_changes_nothing() -> None:
    nobody = Actor(type="api_key", id="1")
    with pytest.raises(PermissionDenied):
        services.register_organization(
            name="X", roles=["buyer"], country="US", currency="USD", email="", actor=nobody, at=AT
        )
    assert not OutboxEvent.objects.exists()


def test_a_suspended_payee_gets_no_new_account_until_it_is_reactivated(sandbox: Sandbox) -> None:
    seller = register("seller", bank_account=BANK)
    relay()
    services.suspend_organization(organization=seller, actor=SYSTEM, at=AT, reason="fraud")
    with pytest.raises(StateConflict):
        services.add_bank_account(organization=seller, bank_account=BANK, actor=SYSTEM, at=AT)
    with pytest.raises(StateConflict):
        services.suspend_organization(organization=seller, actor=SYSTEM, at=AT, reason="again")
    services.reactivate_organization(organization=seller, actor=SYSTEM, at=AT, reason="cleared")
    assert status(seller) == "active"


def test_a_rejected_organization_is_not_made_known_and_its_bank_details_are_destroyed(
    sandbox: Sandbox,
) -> None:
    seller = register("seller", bank_account=BANK)
    services.reject_organization(organization=seller, actor=SYSTEM, at=AT, reason="sanctions")
    relay()
    assert status(seller) == "rejected"
    assert not BankDetailsVault.objects.exists()
    assert sandbox.effects("modern_treasury", "counterparty") == []
    assert list(invariants.forgotten_references()) == []
    with pytest.raises(StateConflict):
        services.add_bank_account(organization=seller, bank_account=BANK, actor=SYSTEM, at=AT)


def test_a_reference_is_requested_once_and_stands_for_one_thing(
    organization_of: Callable[..., Organization],
) -> None:
    buyer, other = organization_of("buyer"), organization_of("buyer", name="Acme")
    wanted = {"provider": "openmeter", "kind": "customer", "reference": "contract-1", "at": AT}
    first = services.request_reference(organization=buyer, **wanted)
    assert services.request_reference(organization=buyer, **wanted) == first
    with pytest.raises(Conflict):
        services.request_reference(organization=other, **wanted)
    active = services.mark_reference_active(reference=first, provider_id="01C", actor=SYSTEM, at=AT)
    assert services.mark_reference_active(reference=first, provider_id="01C", actor=SYSTEM, at=AT) == active
    with pytest.raises(Conflict):
        services.mark_reference_active(reference=first, provider_id="01D", actor=SYSTEM, at=AT)
    assert services.provider_id(buyer, "openmeter", "customer") == "01C"


def test_a_forgotten_request_is_a_finding() -> None:
    buyer = register("buyer")
    assert list(invariants.forgotten_references()) == []
    OutboxStream.objects.filter(group=GROUPS[0]).update(due_at=None)
    found = [finding.subject for finding in invariants.forgotten_references()]
    assert found == [f"provider_reference:{row.pk}" for row in buyer.references.order_by("pk")]
