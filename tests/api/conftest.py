"""Two deals that have nothing to do with each other, from contract to payout, and keys for everybody."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.apps import apps
from django.db import connection, transaction
from django.test import Client

from billing.models import BillingAccount, Invoice, InvoiceLine, PayIn
from commerce.api.scopes import PLATFORM_ONLY, SCOPES
from commerce.api.services import issue_key
from commerce.console.exports import request_export
from commerce.console.models import Approval, Export
from commerce.ids import uuid7
from commerce.outbox import drain
from commerce.parties.models import Organization
from commerce.webhooks import services as webhooks
from commerce.webhooks.models import WebhookMessage
from contracts import services as contracts
from contracts.models import Contract, Offer
from ledger.models import LedgerAccount, LedgerTransaction
from payouts import services as payees
from payouts.models import Payout, Settlement
from tests.contracts.conftest import create, edit
from tests.payouts.conftest import PAID, SYSTEM, World, organization

# What a request may leave behind although it was refused: its answer, and when a key was last used.
_NOT_COUNTED = {"api_idempotencykey", "api_apikey"}


class Api:
    """Calls as one organization's key would, with every scope that it may have."""

    def __init__(self, owner: Organization, *scopes: str) -> None:
        allowed = set(SCOPES) if "platform" in owner.roles else set(SCOPES) - PLATFORM_ONLY
        _, self.plain = issue_key(
            organization=owner, scopes=scopes or sorted(allowed), label="key", actor=SYSTEM, at=PAID
        )
        self.client = Client(raise_request_exception=False)

    def __call__(
        self, method: str, path: str, body: Any = None, *, raw: bytes | str | None = None, **headers: str
    ) -> Any:
        """`headers` with underscores for dashes; an empty one is left out."""
        given = {"Authorization": f"Bearer {self.plain}", "Idempotency_Key": str(uuid4()), **headers}
        named = {name.replace("_", "-"): value for name, value in given.items() if value}
        content_type = named.pop("Content-Type", "application/json")
        content = raw if raw is not None else b"" if body is None else json.dumps(body)
        return self.client.generic(method, f"/api/v1/{path}", content, content_type, headers=named)


@dataclass
class Deal:
    """One contract and everything that came of it."""

    buyer: Organization
    seller: Organization
    partner: Organization
    contract: Contract
    account: BillingAccount
    invoice: Invoice
    pay_in: PayIn
    settlement: Settlement
    payout: Payout
    approval: Approval
    servers: str
    burst: str
    export: Export

    @property
    def webhook(self) -> WebhookMessage:
        return WebhookMessage.objects.filter(endpoint__organization=self.buyer).earliest("id")

    @property
    def offer(self) -> Offer:
        """The seller's draft."""
        return Offer.objects.get(seller=self.seller, version=1)

    @property
    def leg(self) -> Any:
        return self.settlement.legs.get(kind="seller")

    @property
    def wallet(self) -> LedgerAccount:
        return LedgerAccount.objects.get(owner=self.buyer, kind="AVAILABLE")

    @property
    def funding(self) -> LedgerTransaction:
        return LedgerTransaction.objects.filter(recipe="fund_wallet", entries__account=self.wallet).latest(
            "id"
        )

    @property
    def collection(self) -> LedgerTransaction:
        return LedgerTransaction.objects.get(recipe="collect", entries__account=self.wallet)


@pytest.fixture(scope="module")
def deals(django_db_setup: None, django_db_blocker: Any) -> Iterator[tuple[Deal, Deal]]:
    """Made once a module, in a transaction around those of its tests."""
    with django_db_blocker.unblock(), transaction.atomic():
        yield make_deal("Acme", "Northwind", "Bridge"), make_deal("Umbrella", "Southwind", "Tunnel")
        transaction.set_rollback(True)


@pytest.fixture
def ours(deals: tuple[Deal, Deal], db: None, clock: Callable[..., None]) -> Deal:
    clock(PAID)
    return deals[0]


@pytest.fixture
def theirs(deals: tuple[Deal, Deal], ours: Deal) -> Deal:
    return deals[1]


@pytest.fixture
def platform(db: None) -> Api:
    return Api(Organization.objects.platform())


def contract_payload(buyer: Organization, seller: Organization, partner: Organization) -> dict[str, Any]:
    return {
        "buyer_id": str(buyer.pk),
        "currency": "USD",
        "start_at": "2027-03-01T00:00:00Z",
        "term": {"kind": "fixed", "months": 12},
        "billing": {"anchor_day": 1, "cadence": "P1M", "when": "in_arrears"},
        "terms": {
            "payment": {"net_days": 14, "grace_days": 3},
            "tax": {"rate": "0.0825"},
            "settlement": {
                "fee_rate": "0.125",
                "partner_id": str(partner.pk),
                "partner_share": "0.05",
                "seasoning_days": 7,
            },
        },
        "lines": [
            {
                "line_id": str(uuid7()),
                "product": product,
                "seller_id": str(seller.pk),
                "quantity": quantity,
                "price": {"model": "unit", "rate": rate},
            }
            for product, quantity, rate in (("h100-server", 2, "18000.00"), ("h100-burst", 1, "2.00"))
        ],
    }


def make_deal(buyer_name: str, seller_name: str, partner_name: str) -> Deal:
    for code, kind, unit, meter in (
        ("h100-server", "recurring", "server_month", ""),
        ("h100-burst", "usage", "device_hour", "h100_burst_hours"),
    ):
        contracts.ensure_product(code=code, name=code, kind=kind, unit=unit, meter=meter, actor=SYSTEM)
    buyer, seller = organization(buyer_name, "buyer"), organization(seller_name, "seller")
    partner = organization(partner_name, "partner")
    payload = contract_payload(buyer, seller, partner)
    contract = create(payload).contract
    for stage in ("submit", "signed", "live"):
        contract = edit(contract, "activate", {"stage": stage}).contract
    drain(groups=["billing.account"])
    account = BillingAccount.objects.get(contract=contract)
    invoice = Invoice.objects.create(
        account=account,
        contract=contract,
        buyer=buyer,
        currency="USD",
        period_start=contract.start_at,
        period_end=PAID,
        provider_id=f"inv-{buyer_name}",
        provider_status="draft",
        provider_updated_at=PAID,
    )
    InvoiceLine.objects.create(
        invoice=invoice,
        line_id=payload["lines"][0]["line_id"],
        product="h100-server",
        kind="recurring",
        seller=seller,
        quantity=2,
        rate=18000,
        start=contract.start_at,
        end=PAID,
    )
    pay_in = PayIn.objects.create(
        buyer=buyer,
        provider="modern_treasury",
        provider_id=f"ip-{buyer_name}",
        rail="wire",
        amount_minor=3_918_650,
        currency="USD",
    )
    world = World(Organization.objects.platform(), buyer, seller, partner)
    world.invoices = Settlement.objects.count()
    payees.set_policy(organization=partner, mode="on_request", actor=SYSTEM, at=PAID, reason="test")
    settlement = world.settle(contract_id=str(contract.pk), invoice_id=str(invoice.pk))
    world.release()
    contracts.create_offer(
        payload={
            "seller_id": str(seller.pk),
            "code": "monthly",
            "product": "h100-server",
            "currency": "USD",
            "price": {"model": "unit", "rate": "18000.00"},
            "capacity": 10,
        },
        actor=SYSTEM,
        at=PAID,
    )
    endpoint, _ = webhooks.create_endpoint(
        organization=buyer,
        url="https://hooks.example.com/in",
        event_types=["invoice.paid"],
        actor=SYSTEM,
        at=PAID,
    )
    webhooks.send_test_event(endpoint=endpoint, actor=SYSTEM, at=PAID)
    approval = Approval.objects.create(
        operation="test.hold",
        title="Hold a settlement",
        subject_type="payouts.settlement",
        subject_id=str(settlement.pk),
        arguments={"buyer": buyer_name, "days": 3},
        reason="test",
        maker=str(SYSTEM),
        maker_name="test",
        requested_at=PAID,
        expires_at=PAID + timedelta(days=7),
    )
    return Deal(
        buyer,
        seller,
        partner,
        contract,
        account,
        invoice,
        pay_in,
        settlement,
        world.payout(),
        approval,
        payload["lines"][0]["line_id"],
        payload["lines"][1]["line_id"],
        request_export(
            source="ledger.entries",
            format="jsonl",
            parameters={},
            actor=SYSTEM,
            at=PAID,
            organization_id=buyer.pk,
        ),
    )


def contents() -> Mapping[str, tuple[int, str | None]]:
    """Every table with its number of rows and a digest of all of them: equal means untouched."""
    found = {}
    with connection.cursor() as cursor:
        for model in apps.get_models(include_auto_created=True):
            table = model._meta.db_table
            if table in _NOT_COUNTED or not model._meta.managed:
                continue
            cursor.execute(f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t")
            found[table] = cursor.fetchone()
    return found
