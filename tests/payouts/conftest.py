"""The worked example from the paid invoice on, and short words for what the tests say often."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from commerce.actor import Actor
from commerce.console.demo_users import ensure_demo_users
from commerce.ids import uuid7
from commerce.money import Money
from commerce.outbox import drain
from commerce.outbox.models import OutboxStream
from commerce.parties.models import Organization, ProviderReference
from commerce.providers.modern_treasury import PaymentOrder, Return
from commerce.states import transition
from ledger.rules import recipes
from ledger.services import balance, post, release_due
from payouts import services
from payouts.models import Payout, Settlement
from tests.sandbox.conftest import INTERNAL_ACCOUNT, Sandbox

PAID = datetime(2027, 4, 1, 12, tzinfo=UTC)
SEASONED = PAID + timedelta(days=7)
SYSTEM = Actor.system("test")
LOCAL_GROUPS = ["payouts.settlement", "payouts.policy"]
EVERYTHING = [*LOCAL_GROUPS, "payouts.modern_treasury", "payouts.poll"]


def usd(text: str) -> Money:
    return Money.parse(text.replace(",", ""), "USD")


def holds(owner: Organization, kind: str) -> Money:
    return Money(balance(owner=owner.pk, kind=kind, currency="USD"), "USD")


def organization(name: str, *roles: str, bank_account: bool = True) -> Organization:
    row = Organization.objects.create(name=name, slug=name.lower(), roles=list(roles))
    if bank_account and row.is_payee:
        add_account(row)
    return row


def add_account(payee: Organization, at: datetime = PAID) -> ProviderReference:
    row = ProviderReference.objects.create(
        organization=payee,
        provider="modern_treasury",
        kind="external_account",
        reference=f"account:{uuid7()}",
        requested_at=at,
    )
    fresh = {"provider_id": f"ea-{row.pk}", "details": {"last4": "6789"}, "activated_at": at}
    row = transition(row, "activate", actor=SYSTEM, at=at, **fresh)
    drain(groups=LOCAL_GROUPS)
    return row


@dataclass
class World:
    """Acme's invoice has just been collected: 39,186.50 USD, of which Northwind and Bridge get a share."""

    platform: Organization
    acme: Organization
    northwind: Organization
    bridge: Organization
    invoices: int = 0

    def collect(
        self, *, seller: str = "31,675.00", partner: str = "226.25", days: int = 7, **changes: Any
    ) -> dict[str, Any]:
        """Post a collection as billing does and return the payload of its `invoice.paid`."""
        self.invoices += 1
        number = f"INV-{self.invoices}"
        tax, fee = usd("2,986.50"), usd("4,298.75")
        payees = {self.northwind.pk: usd(seller), self.bridge.pk: usd(partner)}
        total = sum(payees.values(), start=tax + fee)
        post(
            entries=recipes.fund_wallet(platform=self.platform.pk, buyer=self.acme.pk, amount=total),
            key=f"{number}:fund", source="test", recipe="fund_wallet", at=PAID, actor=SYSTEM,
        )  # fmt: skip
        zero = Money.zero("USD")
        collection = post(
            entries=recipes.collect(
                platform=self.platform.pk, buyer=self.acme.pk, from_downpayment=zero, from_committed=zero,
                from_available=total, tax=tax, fee=fee, payees=payees,
            ),
            key=f"{number}:collect", source="test", recipe="collect", at=PAID, actor=SYSTEM,
        )  # fmt: skip
        legs = [("tax", self.platform, tax), ("fee", self.platform, fee)]
        legs += [("partner", self.bridge, usd(partner)), ("seller", self.northwind, usd(seller))]
        payload = {
            "invoice_id": str(uuid7()),
            "number": number,
            "contract_id": str(uuid7()),
            "contract_number": "C-1",
            "buyer_id": str(self.acme.pk),
            "currency": "USD",
            "total_minor": total.minor,
            "status": "paid",
            "tax_minor": tax.minor,
            "fee_minor": fee.minor,
            "transaction_id": str(collection.pk),
            "paid_at": PAID.isoformat(),
            "seasoning_days": days,
            "legs": [
                {"kind": kind, "payee_id": str(payee.pk), "amount_minor": amount.minor}
                for kind, payee, amount in legs
            ],
        }
        return payload | changes

    def settle(self, **kwargs: Any) -> Settlement:
        settlement = services.plan_settlement(invoice=self.collect(**kwargs), actor=SYSTEM, at=PAID)
        assert settlement
        return settlement

    def release(self, at: datetime = SEASONED) -> None:
        """Let the ledger release what is due, and everybody here hear of it."""
        release_due(at=at, actor=SYSTEM)
        drain(groups=LOCAL_GROUPS)

    def payout(self, payee: Organization | None = None) -> Payout:
        """The newest payout of a payee, Northwind's when nobody is named."""
        return Payout.objects.filter(payee=payee or self.northwind).latest("id")

    def paid_through(self, *statuses: str, code: str = "", payee: Organization | None = None) -> Payout:
        """A payee's newest payout, submitted, after the bank has told of these order statuses in turn."""
        payout = self.submitted(payee)
        for status in statuses:
            payout = tell(payout, status, code=code if status == "returned" else "")
        return payout

    def submitted(self, payee: Organization | None = None) -> Payout:
        payout = self.payout(payee)
        if payout.status == "approved":
            now = datetime.now(UTC)
            payout = transition(payout, "submit", actor=SYSTEM, at=SEASONED, when=SEASONED, now=now)
        return payout


def order(payout: Payout, status: str, *, code: str = "", **changes: Any) -> PaymentOrder:
    """What Modern Treasury would say about a payout's order."""
    id_ = f"po-{payout.pk}"
    found = PaymentOrder(
        id=id_,
        external_id=payout.external_id,
        status=status,
        reconciliation_status="unreconciled",
        type="ach",
        direction="credit",
        amount=payout.amount,
        receiving_account_id=str(payout.account.provider_id),
        failure_reason="",
        current_return=returned(payout, code) if code else None,
    )
    return replace(found, **changes)


def returned(payout: Payout, code: str, **changes: Any) -> Return:
    found = Return(
        id=f"ret-{payout.pk}",
        status="completed",
        type="ach_noc" if code.startswith("C") else "ach",
        code=code,
        reason="No Account",
        returnable_type="payment_order",
        returnable_id=f"po-{payout.pk}",
        amount=payout.amount,
    )
    return replace(found, **changes)


def tell(payout: Payout, status: str, *, at: datetime = SEASONED, code: str = "", **changes: Any) -> Payout:
    word = order(payout, status, code=code, **changes)
    return services.record_order(payout_id=payout.pk, order=word, actor=SYSTEM, at=at)


@pytest.fixture
def world(db: None) -> World:
    return make_world()


def make_world() -> World:
    return World(
        platform=Organization.objects.platform(),
        acme=organization("Acme", "buyer"),
        northwind=organization("Northwind", "seller"),
        bridge=organization("Bridge", "partner"),
    )


@pytest.fixture
def person(django_user_model: Any) -> Callable[..., Actor]:
    """An actor for a user who holds these permissions of payouts."""
    from django.contrib.auth.models import Permission

    def make(name: str, *codenames: str) -> Actor:
        user = django_user_model.objects.create_user(name)
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        return Actor.for_user(django_user_model.objects.get(pk=user.pk))

    return make


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    running = Sandbox(tmp_path_factory.mktemp("bank"))
    yield running
    running.kill()


@pytest.fixture
def bank(process, settings):
    process.reset()
    process.control.delete("/faults")
    settings.MODERN_TREASURY_BASE_URL = f"{process.url}/modern-treasury"
    settings.MODERN_TREASURY_ORGANIZATION_ID, settings.MODERN_TREASURY_API_KEY = "org", "key"
    settings.MODERN_TREASURY_INTERNAL_ACCOUNT_ID = INTERNAL_ACCOUNT
    settings.POLL_SECONDS = 0.001
    return process


def open_account(bank: Sandbox, world: World, number: str) -> None:
    """Give Northwind's bank account this number at the bank."""
    account = {
        "party_type": "business",
        "routing_details": [{"routing_number_type": "aba", "routing_number": "121141822"}],
        "account_details": [{"account_number": number}],
    }
    made = bank.mt.post("/counterparties", json={"name": "Northwind", "accounts": [account]})
    world.northwind.references.update(provider_id=made.json()["accounts"][0]["id"])


@pytest.fixture
def ready(bank, world):
    """Northwind's payout of 31,675.00 USD is approved and not sent yet; Bridge is paid on request."""
    services.set_policy(organization=world.bridge, mode="on_request", actor=SYSTEM, at=SEASONED)
    open_account(bank, world, "123456789")
    world.settle()
    world.release()
    return world


def orders(bank: Sandbox) -> list:
    return bank.effects()["modern_treasury"]["payment_order"]


def fault(bank: Sandbox, kind: str, path: str = "payment_orders", **more) -> None:
    rule = {"provider": "modern_treasury", "kind": kind, "path": path, **more}
    assert bank.control.post("/faults", json=rule).status_code == 201


@pytest.fixture
def browser(db: None) -> Callable[[str], Client]:
    passwords = ensure_demo_users()

    def log_in(name: str) -> Client:
        client = Client()
        assert client.login(username=name, password=passwords[name])
        return client

    return log_in


@pytest.fixture
def parked(ready: Any, bank: Any) -> OutboxStream:
    """The bank refuses to talk to us about orders; Northwind's payout stands at its being sent."""
    fault(bank, "error", method="POST", status=403, count=0)
    drain(groups=EVERYTHING)
    return OutboxStream.objects.get(parked_at__isnull=False)


def text(page: Any) -> str:
    assert page.status_code == 200, page.status_code
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.content.decode()))


def link(page: Any, pattern: str) -> str:
    found = re.search(rf'href="({pattern})"', page.content.decode())
    assert found, f"no link {pattern}"
    return found[1].replace("&amp;", "&")


def press(client: Client, url: str, **fields: str) -> Any:
    """Open the confirmation, then confirm what it says."""
    shown = client.get(url)
    said = text(shown)
    seen = re.search(r'name="fingerprint" value="([0-9a-f]{64})"', shown.content.decode())
    assert seen, said
    answer = client.post(url, {"reason": "As agreed with the bank.", "fingerprint": seen[1], **fields})
    assert answer.status_code == 302, text(answer) if answer.status_code == 200 else answer.status_code
    return said
