"""From a paid invoice to money at the bank: each event names the one that caused it."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction
from django.test import Client

from commerce.logs import bound
from commerce.outbox import append, drain, traces
from commerce.outbox.models import OutboxEvent
from payouts import services
from tests.payouts.conftest import EVERYTHING, PAID, SEASONED, SYSTEM, link, open_account, orders, text

pytestmark = pytest.mark.django_db


@pytest.fixture
def paid(bank: Any, world: Any) -> OutboxEvent:
    """The invoice was paid in a request; workers and the clock have done the rest."""
    services.set_policy(organization=world.bridge, mode="on_request", actor=SYSTEM, at=SEASONED)
    open_account(bank, world, "123456789")
    payload = world.collect()
    with bound(request_id="the-buyers-request"), transaction.atomic():
        event = append("invoice", payload["invoice_id"], "invoice.paid", payload, at=PAID)
    drain(groups=EVERYTHING)
    world.release()
    drain(groups=EVERYTHING)
    return event


def chain(event: OutboxEvent) -> list[str]:
    return [event.type, *(cause.type for cause in traces.causes(event))]


def test_every_event_that_a_handler_appends_names_its_cause(paid: OutboxEvent, bank: Any) -> None:
    assert len(orders(bank)) == 1
    (sent,) = OutboxEvent.objects.filter(type="payout.in_transit")
    assert chain(sent) == ["payout.in_transit", "payout.approved", "ledger.released"]
    (planned,) = traces.consequences(paid)
    assert chain(planned) == ["settlement.planned", "invoice.paid"]
    assert planned.headers["request_id"] == "the-buyers-request"
    by_people_and_the_clock = OutboxEvent.objects.exclude(headers__has_key="causation_id")
    assert {event.type for event in by_people_and_the_clock} == {
        "provider_reference.activated", "payee_policy.changed", "invoice.paid", "ledger.released",
    }  # fmt: skip


def test_the_console_shows_the_chain_from_either_end(
    paid: OutboxEvent, browser: Callable[[str], Client]
) -> None:
    client = browser("viewer")
    (planned,) = traces.consequences(paid)
    page = client.get(f"/admin/outbox/outboxevent/{planned.pk}/change/")
    said = text(page)
    shown = said[said.index("Causes and consequences") :]
    assert shown.index("invoice.paid #1") < shown.index("settlement.planned #1")
    caused = text(client.get(link(page, rf"/admin/outbox/outboxevent/{paid.pk}/change/")))
    shown = caused[caused.index("Causes and consequences") :]
    assert "this event invoice.paid #1" in shown
    assert "consequence settlement.planned #1" in shown
