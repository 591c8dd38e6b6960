"""Whom the run pays: payees with an account at the simulated bank, and more money than all payouts take."""

from datetime import UTC, datetime

from django.core.management import call_command

from commerce.actor import Actor
from commerce.money import Money
from commerce.parties.models import Organization, ProviderReference
from commerce.providers import modern_treasury
from commerce.states import transition
from ledger import services as ledger
from ledger.rules import recipes
from payouts.models import PayeePolicy

PAYEES = 5
PLENTY = Money(10**12, "USD")
ACTOR = Actor.system("crashes")


def migrate() -> None:
    call_command("migrate", run_syncdb=True, verbosity=0)


def open_accounts() -> None:
    for number in range(PAYEES):
        payee = Organization.objects.create(name=f"Payee {number}", slug=f"payee-{number}", roles=["seller"])
        PayeePolicy.objects.create(organization=payee, mode=PayeePolicy.Mode.ON_REQUEST)
        _open_account(payee, datetime.now(UTC))


def _open_account(payee: Organization, at: datetime) -> None:
    bank, name = modern_treasury.client(), payee.name
    party = bank.create_counterparty(external_id=name, name=name, email="", metadata={}, key=f"{name}:party")
    account = bank.create_external_account(
        external_id=name,
        counterparty_id=party.id,
        party_name=name,
        account_number="123456789",
        routing_number="021000021",
        routing_number_type="aba",
        account_type="checking",
        metadata={},
        key=f"{name}:account",
    )
    row = ProviderReference.objects.create(
        organization=payee,
        provider=modern_treasury.NAME,
        kind="external_account",
        reference=f"account:{payee.pk}",
        requested_at=at,
    )
    found = {"provider_id": account.id, "details": {"last4": account.last4}, "activated_at": at}
    transition(row, "activate", actor=ACTOR, at=at, **found)
    platform = Organization.objects.platform().pk
    ledger.post(
        entries=recipes.return_payout(platform=platform, payee=payee.pk, amount=PLENTY),
        key=f"{name}:funds",
        source="crashes",
        recipe="return_payout",
        at=at,
        actor=ACTOR,
    )
