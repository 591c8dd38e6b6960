"""Parties, products and the contract of the worked example."""

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import UUID

import pytest

from commerce.actor import Actor
from commerce.ids import uuid7
from commerce.parties.models import Organization
from contracts import services
from contracts.models import Contract
from contracts.services import EditResult

MARCH = datetime(2027, 3, 1, tzinfo=UTC)
OPERATOR = Actor.system("test")
_keys = count(1)


@dataclass
class Parties:
    buyer: Organization
    seller: Organization
    other_seller: Organization
    partner: Organization


@pytest.fixture
def parties(db: None) -> Parties:
    services.ensure_product(
        code="h100-server", name="H100 server", kind="recurring", unit="server_month", actor=OPERATOR
    )
    services.ensure_product(
        code="h100-burst",
        name="H100 burst hours",
        kind="usage",
        unit="device_hour",
        meter="h100_burst_hours",
        actor=OPERATOR,
    )
    return Parties(
        *(
            Organization.objects.create(name=name, slug=name.lower(), roles=[role])
            for name, role in (
                ("Acme", "buyer"), ("Northwind", "seller"), ("Southwind", "seller"), ("Bridge", "partner")
            )
        )
    )  # fmt: skip


@pytest.fixture
def payload(parties: Parties) -> dict[str, Any]:
    """What an integration sends to open the contract of the worked example, downpayment apart."""
    seller = str(parties.seller.pk)
    return {
        "buyer_id": str(parties.buyer.pk),
        "currency": "USD",
        "start_at": "2027-03-01T00:00:00Z",
        "term": {"kind": "fixed", "months": 12},
        "billing": {"anchor_day": 1, "cadence": "P1M", "when": "in_arrears"},
        "terms": {
            "payment": {
                "net_days": 14, "grace_days": 3, "collection": "wallet_auto", "invoice_source": "openmeter"
            },
            "tax": {"rate": "0.0825"},
            "settlement": {
                "fee_rate": "0.125",
                "partner_id": str(parties.partner.pk),
                "partner_share": "0.05",
                "seasoning_days": 7,
            },
        },
        "lines": [
            {
                "line_id": str(uuid7()),
                "product": "h100-server",
                "seller_id": seller,
                "quantity": 2,
                "price": {"model": "unit", "rate": "18000.00"},
            },
            {
                "line_id": str(uuid7()),
                "product": "h100-burst",
                "seller_id": seller,
                "quantity": 1,
                "price": {"model": "unit", "rate": "2.00"},
            },
        ],
    }  # fmt: skip


@pytest.fixture
def draft(payload: dict[str, Any]) -> Contract:
    return create(payload).contract


@pytest.fixture
def active(draft: Contract) -> Contract:
    for stage in ("submit", "signed", "live"):
        draft = edit(draft, "activate", {"stage": stage}).contract
    return draft


@pytest.fixture
def servers(payload: dict[str, Any]) -> UUID:
    """The line of the two servers."""
    return UUID(payload["lines"][0]["line_id"])


def create(payload: dict[str, Any], **given: Any) -> EditResult:
    arguments = {"actor": OPERATOR, "at": MARCH, "idempotency_key": f"key-{next(_keys)}", **given}
    return services.create_contract(payload=payload, **arguments)


def edit(contract: Contract, operation: str, payload: dict[str, Any], **given: Any) -> EditResult:
    arguments: dict[str, Any] = {
        "actor": OPERATOR, "at": MARCH, "idempotency_key": f"key-{next(_keys)}", "expected_version": None,
        **given,
    }  # fmt: skip
    return services.record_edit(contract_id=contract.pk, operation=operation, payload=payload, **arguments)
