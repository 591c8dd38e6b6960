"""Lines that are billed from service: OpenMeter follows what their units do, and no others."""

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from billing import services
from billing.models import ServiceChange
from billing.services.rate_cards import item_key
from commerce.ids import uuid7
from contracts.models import ServiceEvent
from tests.billing.conftest import (
    CUT,
    MARCH,
    SYSTEM,
    Deal,
    OpenMeter,
    World,
    findings,
    now,
    parked,
    reviews,
    work,
)
from tests.contracts.test_service import record, report

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


@pytest.fixture
def deal(openmeter: OpenMeter, world: World) -> Deal:
    return world.live()


@pytest.fixture
def line(deal: Deal, world: World) -> UUID:
    """Two servers at 1,000 a month each, billed from service."""
    line = uuid7()
    product = {"product": "h100-server", "quantity": 2, "price": {"model": "unit", "rate": "1000"}}
    added = {"line_id": str(line), "seller_id": str(world.northwind.pk), "bill_from": "in_service", **product}
    deal.edit("add_product", added)
    work()
    return line


@pytest.fixture
def say(openmeter: OpenMeter, deal: Deal, line: UUID) -> Callable[..., None]:
    """A unit of the line is reported at an instant, by default when it happens; events are delivered."""

    def say(state: str, unit: str, at: datetime, told: datetime | None = None) -> None:
        openmeter.at(told or at)
        record(report(state, at, unit, contract_id=deal.contract.pk, line_id=line), at=now())
        work()

    return say


def test_units_reach_openmeter_when_they_come_into_service_and_go(
    openmeter: OpenMeter, deal: Deal, line: UUID, say: Callable[..., None]
) -> None:
    assert item_key(line) not in openmeter.items(deal)
    say("provisioning", "u-1", MARCH + 4 * DAY)
    assert item_key(line) not in openmeter.items(deal)
    say("in_service", "u-1", MARCH + 5 * DAY)
    assert item_key(line) in openmeter.items(deal)
    assert services.check_drift(sync_id=deal.sync.pk, actor=SYSTEM, at=now()).unexpected == []
    say("deprovisioning", "u-1", MARCH + 9 * DAY)
    assert item_key(line) not in openmeter.items(deal)
    assert parked() == []


def test_news_of_a_few_minutes_is_no_difference_and_later_news_has_its_reason(
    deal: Deal, line: UUID, say: Callable[..., None]
) -> None:
    def differs() -> list[list[str]]:
        drift = services.check_drift(sync_id=deal.sync.pk, actor=SYSTEM, at=now())
        return [row["reasons"] for row in drift.rows]

    say("in_service", "u-1", MARCH + 5 * DAY, told=MARCH + 5 * DAY + timedelta(minutes=5))
    assert differs() == []
    say("in_service", "u-2", MARCH + 6 * DAY, told=MARCH + 8 * DAY)
    late = "units that came into service or left it on 7 March, told later"
    assert differs() == [[late]]


def test_service_that_is_taken_back_has_its_reason(
    openmeter: OpenMeter, deal: Deal, line: UUID, say: Callable[..., None]
) -> None:
    say("in_service", "u-1", MARCH + 5 * DAY)
    wrong = ServiceEvent.objects.get(unit_id="u-1", state="in_service")
    openmeter.at(MARCH + 8 * DAY)
    void = report("void", MARCH + 5 * DAY, "u-1", corrects=wrong.source_event_id)
    record(void, at=now())
    work()
    assert item_key(line) not in openmeter.items(deal)
    drift = services.check_drift(sync_id=deal.sync.pk, actor=SYSTEM, at=now())
    assert drift.unexpected == []
    noted = ServiceChange.objects.order_by("applied_at").values_list("quantity", "effective_at", "applied_at")
    assert list(noted) == [(1, MARCH + 5 * DAY, MARCH + 5 * DAY), (0, MARCH + 5 * DAY, MARCH + 8 * DAY)]


def test_units_that_are_not_billed_from_service_send_nothing(openmeter: OpenMeter, deal: Deal) -> None:
    sent = openmeter.requests()
    record(report("in_service", now(), contract_id=deal.contract.pk, line_id=deal.servers), at=now())
    work()
    assert openmeter.requests() == sent


def test_what_a_sync_mends_is_asked_of_nobody(
    openmeter: OpenMeter, deal: Deal, line: UUID, say: Callable[..., None]
) -> None:
    say("in_service", "u-1", MARCH + 5 * DAY)
    answer = openmeter.sandbox.om.patch(
        f"/subscriptions/{deal.sync.subscription_id}",
        json={
            "timing": "immediate",
            "customizations": [{"op": "remove_item", "phaseKey": "default", "itemKey": item_key(line)}],
        },
    )
    assert answer.status_code == 200, answer.text
    services.check_due_drift(actor=SYSTEM, at=now())
    assert item_key(line) in openmeter.items(deal)
    assert reviews("subscription_drift") == []


def test_a_credit_for_missed_uptime_is_ours_and_expected_on_the_invoice(
    openmeter: OpenMeter, deal: Deal, world: World
) -> None:
    """9 of 1,488 hours down are 5 % of 36,000.00, which OpenMeter cannot give back on a line."""
    outage = MARCH + 10 * DAY
    units = [("in_service", MARCH, "u-1"), ("in_service", MARCH, "u-2"), ("down", outage, "u-1")]
    for state, at, unit in (*units, ("in_service", outage + timedelta(hours=9), "u-1")):
        record(
            report(state, at, unit, contract_id=deal.contract.pk, line_id=deal.servers), at=MARCH + 11 * DAY
        )
    openmeter.at(MARCH + 20 * DAY)
    assert services.check_drift(sync_id=deal.sync.pk, actor=SYSTEM, at=now()).rows == []
    openmeter.at(CUT)
    openmeter.tell()
    [difference] = deal.invoice.differences
    assert (difference["ours_minor"], difference["theirs_minor"]) == (3_420_000, 3_600_000)
    assert difference["expected"] == ["a credit for missed uptime"]
    assert deal.invoice.status == "draft", "money is for a person all the same"
    [item] = reviews("invoice_difference")
    assert "Expected: a credit for missed uptime." in item.detail

    services.accept_invoice(invoice=deal.invoice, actor=SYSTEM, at=now(), reason="they are owed it")
    work()
    lines = deal.invoice.lines.order_by("net_minor").values_list("kind", "net_minor", "tax_minor", "rate")
    assert list(lines) == [
        ("sla_credit", -180_000, -14_850, -1_800),
        ("recurring", 3_600_000, 297_000, 18_000),
    ]
    assert (deal.invoice.status, deal.invoice.paid_minor) == ("paid", 3_420_000 + 282_150)
    assert findings() == []
