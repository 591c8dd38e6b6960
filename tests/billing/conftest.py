"""The worked example on real rows and real simulators, and short words for what the tests say often."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from django.db import connections

from billing import services
from billing.models import BillingAccount, Invoice, PayIn, SubscriptionSync
from billing.services.pay_ins import apply_incoming_payment
from billing.services.rate_cards import item_key
from billing.services.subscriptions import _prepare
from billing.services.usage import Accepted, Reading
from commerce import clock as business_clock
from commerce.actor import Actor
from commerce.clock import set_test_clock
from commerce.console.models import ReviewItem
from commerce.errors import CommerceError
from commerce.ids import uuid7
from commerce.invariants import REGISTRY
from commerce.money import Money
from commerce.outbox import append, drain
from commerce.outbox.models import OutboxEvent, OutboxStream
from commerce.parties.models import Organization, ProviderReference
from commerce.providers.modern_treasury import IncomingPayment
from contracts import services as contracts
from contracts.models import Contract
from ledger.models import LedgerTransaction
from ledger.services import balance
from tests.sandbox.conftest import INTERNAL_ACCOUNT, SIGNING_SECRET, Sandbox

MARCH = datetime(2027, 3, 1, tzinfo=UTC)
APRIL = datetime(2027, 4, 1, tzinfo=UTC)
CUT = APRIL + timedelta(hours=1)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
SYSTEM = Actor.system("test")
LOCAL = ["billing.account", "billing.collection"]
GROUPS = [*LOCAL, "billing.openmeter", "billing.modern_treasury"]
_numbers = count(1)


def usd(text: str) -> int:
    return Money.parse(text.replace(",", ""), "USD").minor


def holds(owner: Organization, kind: str) -> int:
    return balance(owner=owner.pk, kind=kind, currency="USD")


def wallet(owner: Organization) -> tuple[int, int, int]:
    """(available, set aside as downpayment, committed)"""
    available, downpayment, committed = (
        holds(owner, kind) for kind in ("AVAILABLE", "COMMITTED_DOWNPAYMENT", "COMMITTED")
    )
    return available, downpayment, committed


def work() -> None:
    """Deliver billing's events until none is left; what failed and waits is tried once more at the end.

    Without the simulators, what is meant for the providers stays where it is.
    """
    groups = GROUPS if settings.OPENMETER_WEBHOOK_SECRETS else LOCAL
    for _ in range(2):
        OutboxStream.objects.filter(due_at__isnull=False).update(due_at=LONG_AGO)
        while drain(groups=groups).handled:
            OutboxStream.objects.filter(due_at__isnull=False).update(due_at=LONG_AGO)


def parked() -> list[str]:
    return list(OutboxStream.objects.filter(parked_at__isnull=False).values_list("parked_reason", flat=True))


def waiting() -> list[str]:
    """Why streams of billing will be tried again."""
    return list(
        OutboxStream.objects.filter(due_at__isnull=False, group__in=GROUPS).values_list(
            "last_error", flat=True
        )
    )


def findings(code: str = "") -> list[str]:
    """What the invariants find wrong, as sentences."""
    return [
        finding.detail for check in REGISTRY if not code or check.code == code for finding in check.check()
    ]


def reviews(kind: str, *, resolved: bool = False) -> list[ReviewItem]:
    items = ReviewItem.objects.filter(kind=kind)
    return list(items if resolved else items.exclude(status="resolved"))


def happened(type_: str) -> int:
    return OutboxEvent.objects.filter(type=type_).count()


@dataclass
class Deal:
    """One contract of Acme's with Northwind."""

    contract: Contract
    servers: UUID
    burst: UUID

    @property
    def account(self) -> BillingAccount:
        """The newest owner's."""
        return BillingAccount.objects.filter(contract=self.contract).latest("owner_epoch")

    @property
    def sync(self) -> SubscriptionSync:
        """The newest owner's."""
        return SubscriptionSync.objects.filter(contract=self.contract).latest("owner_epoch")

    @property
    def status(self) -> str:
        return str(Contract.objects.get(pk=self.contract.pk).status)

    @property
    def invoice(self) -> Invoice:
        return Invoice.objects.get(contract=self.contract)

    def edit(self, operation: str, payload: dict[str, Any], **given: Any) -> None:
        arguments: dict[str, Any] = {
            "actor": SYSTEM, "at": now(), "idempotency_key": f"edit-{next(_numbers)}",
            "expected_version": None, "reason": "test", **given,
        }  # fmt: skip
        contracts.record_edit(contract_id=self.contract.pk, operation=operation, payload=payload, **arguments)

    def use(self, quantity: str, *, days: float = 1, id: str = "", at: datetime | None = None) -> Accepted:
        """Meter so many device-hours `days` into March."""
        reading = Reading(
            event_id=id or f"event-{next(_numbers)}",
            source="meter/1",
            line_id=self.burst,
            time=MARCH + timedelta(days=days),
            quantity=Decimal(quantity),
        )
        return services.accept_usage(
            contract_id=self.contract.pk, readings=[reading], actor=SYSTEM, at=at or now()
        )


def now() -> datetime:
    return business_clock.now()


@dataclass
class World:
    """Acme rents from Northwind through Bridge; Southwind sells too."""

    platform: Organization
    acme: Organization
    northwind: Organization
    southwind: Organization
    bridge: Organization
    virtual_account: str = "va-acme"

    def payment(self, amount: str, **changes: Any) -> IncomingPayment:
        """What Modern Treasury would say about a wire to Acme's virtual account."""
        given = {
            "id": f"ipd-{next(_numbers)}", "status": "completed", "reconciliation_status": "reconciled",
            "type": "wire", "direction": "credit", "amount": Money(usd(amount), "USD"),
            "virtual_account_id": self.virtual_account, "internal_account_id": INTERNAL_ACCOUNT,
            "as_of_date": "2027-03-01", "payer": "Acme", **changes,
        }  # fmt: skip
        return IncomingPayment(**given)

    def tell(self, payment: IncomingPayment, at: datetime | None = None) -> PayIn | None:
        return apply_incoming_payment(payment=payment, actor=SYSTEM, at=at or now())

    def pay_in(self, amount: str) -> PayIn:
        """A wire arrives and everything it sets off happens."""
        row = self.tell(self.payment(amount))
        assert row
        work()
        return row

    def draft(
        self,
        *,
        downpayment: str = "10,000.00",
        buyer: Organization | None = None,
        sellers: tuple[Organization, ...] = (),
        servers: int = 2,
        start: datetime = MARCH,
        payment: dict[str, Any] | None = None,
        **more: Any,
    ) -> Deal:
        """`more` goes into the payload as it is."""
        line_ids = [uuid7(), uuid7()]
        seller, metering = (*sellers, self.northwind, self.northwind)[:2]
        commitment = {"downpayment": {"amount_minor": usd(downpayment), "currency": "USD"}}
        payload: dict[str, Any] = {
            "buyer_id": str((buyer or self.acme).pk),
            "currency": "USD",
            "start_at": start.isoformat(),
            "term": {"kind": "fixed", "months": 12},
            "billing": {"anchor_day": 1, "cadence": "P1M", "when": "in_arrears"},
            "terms": {
                "payment": {"net_days": 14, "grace_days": 3, "collection": "wallet_auto", **(payment or {})},
                "tax": {"rate": "0.0825"},
                "settlement": {
                    "fee_rate": "0.125",
                    "partner_id": str(self.bridge.pk),
                    "partner_share": "0.05",
                    "seasoning_days": 7,
                },
                **({"commitment": commitment} if usd(downpayment) else {}),
            },
            "lines": [
                {
                    "line_id": str(line_ids[0]), "product": "h100-server", "seller_id": str(seller.pk),
                    "quantity": servers, "price": {"model": "unit", "rate": "18000.00"},
                },
                {
                    "line_id": str(line_ids[1]), "product": "h100-burst", "seller_id": str(metering.pk),
                    "quantity": 1, "price": {"model": "unit", "rate": "2.00"},
                },
            ],
        }  # fmt: skip
        made = contracts.create_contract(
            payload=payload | more, actor=SYSTEM, at=now(), idempotency_key=f"create-{next(_numbers)}"
        )
        return Deal(made.contract, *line_ids)

    def signed(self, **terms: Any) -> Deal:
        deal = self.draft(**terms)
        for stage in ("submit", "signed"):
            deal.edit("activate", {"stage": stage})
        work()
        return deal

    def live(self, *, fund: str = "150,000.00", **terms: Any) -> Deal:
        """A funded contract that runs; OpenMeter follows when the events are worked off."""
        if usd(fund):
            self.pay_in(fund)
        deal = self.signed(**terms)
        deal.edit("activate", {"stage": "live"})
        work()
        return deal


@pytest.fixture
def clock(settings: Any, tmp_path: Any) -> Callable[[datetime], None]:
    settings.CLOCK_FILE = str(tmp_path / "clock")
    set_test_clock(MARCH)
    return set_test_clock


@pytest.fixture
def world(db: None, clock: Any) -> World:
    return make_world()


def make_world() -> World:
    for code, name, kind, unit, meter in (
        ("h100-server", "H100 server", "recurring", "server_month", ""),
        ("h100-burst", "H100 burst hours", "usage", "device_hour", "h100_burst_hours"),
    ):
        contracts.ensure_product(code=code, name=name, kind=kind, unit=unit, meter=meter, actor=SYSTEM)
    acme, northwind, southwind, bridge = (
        Organization.objects.create(name=name, slug=name.lower(), roles=[role])
        for name, role in (
            ("Acme", "buyer"), ("Northwind", "seller"), ("Southwind", "seller"), ("Bridge", "partner")
        )
    )  # fmt: skip
    world = World(Organization.objects.platform(), acme, northwind, southwind, bridge)
    ProviderReference.objects.create(
        organization=world.acme,
        provider="modern_treasury",
        kind="virtual_account",
        reference="virtual_account-acme",
        requested_at=MARCH,
        activated_at=MARCH,
        status="requested",
    )
    ProviderReference.objects.filter(organization=world.acme).update(
        provider_id=world.virtual_account, status="active"
    )
    return world


@dataclass
class OpenMeter:
    """The simulator, and what really happened there."""

    sandbox: Sandbox

    def at(self, instant: datetime) -> None:
        """Move everybody's clock; the provider does what falls due on the way."""
        self.sandbox.at(instant.isoformat())

    def effects(self, kind: str) -> list[dict[str, Any]]:
        return list(self.sandbox.effects()["openmeter"].get(kind, []))

    def counts(self, kind: str) -> dict[str, int]:
        return dict(self.sandbox.effects()["counts"].get(f"openmeter.{kind}", {}))

    def fault(self, method: str, path: str, kind: str, **more: Any) -> None:
        rule = {"provider": "openmeter", "method": method, "path": path, "kind": kind, **more}
        assert self.sandbox.control.post("/faults", json=rule).status_code == 201

    def requests(self) -> int:
        return len(self.sandbox.control.get("/requests").json())

    def items(self, deal: Deal) -> set[str]:
        """Keys of the items that OpenMeter serves now."""
        found = self.sandbox.om.get(f"/subscriptions/{deal.sync.subscription_id}").json()
        return {
            item["key"] for phase in found["phases"] for item in phase["items"] if not item.get("activeTo")
        }

    def invoice_ids(self) -> list[str]:
        return [row["id"] for row in self.effects("invoice")]

    def tell(self, provider_id: str = "") -> None:
        """A webhook about each invoice has arrived, and everything it sets off happens."""
        for id_ in [provider_id] if provider_id else self.invoice_ids():
            hint = {"provider": "openmeter", "object_id": id_, "delivery_id": "d", "event": "invoice.updated"}
            append("openmeter.invoice", id_, "openmeter.invoice_changed", hint, at=now())
        work()


@pytest.fixture(scope="session")
def simulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    running = Sandbox(tmp_path_factory.mktemp("billing"))
    yield running
    running.kill()


@pytest.fixture
def openmeter(simulators: Sandbox, clock: Any, settings: Any) -> Iterator[OpenMeter]:
    """Empty simulators without faults, our clients pointed at them, one clock for all."""
    simulators.reset()
    simulators.control.post("/webhooks", json={"lose": 1.0})
    simulators.control.delete("/faults")
    settings.CLOCK_FILE = str(simulators.clock_file)
    settings.OPENMETER_BASE_URL, settings.OPENMETER_TOKEN = f"{simulators.url}/openmeter", "token"
    settings.OPENMETER_WEBHOOK_SECRETS = [SIGNING_SECRET]
    settings.MODERN_TREASURY_BASE_URL = f"{simulators.url}/modern-treasury"
    settings.MODERN_TREASURY_ORGANIZATION_ID, settings.MODERN_TREASURY_API_KEY = "org", "key"
    settings.MODERN_TREASURY_INTERNAL_ACCOUNT_ID = INTERNAL_ACCOUNT
    _prepare.cache_clear()
    yield OpenMeter(simulators)
    simulators.control.delete("/faults")


def line_keys(deal: Deal) -> set[str]:
    return {item_key(deal.servers), item_key(deal.burst)}


def posted(recipe: str) -> int:
    return LedgerTransaction.objects.filter(recipe=recipe).count()


def together(*works: Callable[[], Any]) -> list[Any]:
    """Start all works at once; their results or errors, in order."""
    barrier = Barrier(len(works))

    def start(one: Callable[[], Any]) -> Any:
        try:
            barrier.wait(timeout=10)
            return one()
        except CommerceError as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(start, works))
