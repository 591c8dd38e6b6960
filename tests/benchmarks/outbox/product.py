"""What subscribers of the product do with events, at their rate: one by one in the relay, and the set-based
one, webhooks, which is none of the relay's groups."""

import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from django.db import transaction

from commerce.actor import Actor
from commerce.ids import uuid7
from commerce.outbox import append, catalog, relay
from commerce.parties.models import Organization
from commerce.webhooks import services
from commerce.webhooks.fan_out import fan_out
from commerce.webhooks.models import PendingEvent, WebhookMessage
from payouts.models import Settlement

MANY = 10**9
PER_COMMIT = 100
SETTLEMENT = "payouts.settlement"
ACTOR = Actor.system("benchmark")

logging.getLogger().setLevel(logging.WARNING)  # what the services log would bury the progress


def settle(events: int) -> float:
    """Paid invoices per second that become settlements with their legs and releases, in the lane `local`."""
    platform, seller = Organization.objects.platform(), _organization("seller")
    example = _example("invoice.paid")
    whose = {"tax": platform, "fee": platform}
    legs = [leg | {"payee_id": str(whose.get(leg["kind"], seller).pk)} for leg in example["legs"]]
    buyer = {"buyer_id": str(_organization("buyer").pk), "legs": legs}
    ids = [str(uuid7()) for _ in range(events)]
    _append(
        "invoice", "invoice.paid", ((id_, example | buyer | {"invoice_id": id_}) for id_ in ids), SETTLEMENT
    )
    began = time.perf_counter()
    relay.drain(groups=[SETTLEMENT], limit=MANY, seconds=MANY)
    passed = time.perf_counter() - began
    if Settlement.objects.filter(invoice_id__in=ids).count() != events:
        raise RuntimeError("Some invoices were not settled.")
    return events / passed


def tell(events: int) -> float:
    """Events per second that become a webhook message each."""
    owner = _organization("seller")
    endpoint, _ = services.create_endpoint(
        organization=owner,
        url="https://hooks.example.com/",
        event_types=["organization.suspended"],
        actor=ACTOR,
        at=datetime.now(UTC),
    )
    payload = owner.event_payload()
    _append("organization", "organization.suspended", ((str(owner.pk), payload) for _ in range(events)))
    began = time.perf_counter()
    fan_out(at=datetime.now(UTC), limit=MANY)
    passed = time.perf_counter() - began
    if PendingEvent.objects.exists() or endpoint.messages.count() != events:
        raise RuntimeError("Some events became no message.")
    WebhookMessage.objects.all().delete()
    services.delete_endpoint(endpoint=endpoint, actor=ACTOR, at=datetime.now(UTC))
    return events / passed


def _organization(role: str) -> Organization:
    name = str(uuid7())
    return Organization.objects.create(name=name, slug=name, roles=[role])


def _example(type_: str) -> dict[str, Any]:
    known = catalog.event_type(type_)
    assert known is not None
    return known.example


def _append(kind: str, type_: str, told: Iterable[tuple[str, dict[str, Any]]], *groups: str) -> None:
    """Events that these groups alone hear of, by the hundred."""
    left = list(told)
    for start in range(0, len(left), PER_COMMIT):
        with transaction.atomic():
            for id_, payload in left[start : start + PER_COMMIT]:
                append(kind, id_, type_, payload, at=datetime.now(UTC), actor=ACTOR, only=groups or None)
