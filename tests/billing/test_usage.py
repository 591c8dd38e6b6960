"""Usage: all of it or none, once per source and id, by those who may, and never lost when late."""

import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from billing import services
from billing.models import UsageBatch, UsageEvent
from billing.services.usage import Reading, metered
from commerce.api.services import issue_key
from commerce.errors import CommerceError, InvalidInput, StateConflict
from commerce.parties.models import Organization
from tests.billing.conftest import (
    APRIL,
    CUT,
    MARCH,
    SYSTEM,
    Deal,
    OpenMeter,
    World,
    make_world,
    now,
    parked,
    reviews,
    together,
    work,
)

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


class Api:
    """Sends usage with the key of one organization."""

    def __init__(self, organization: Organization) -> None:
        scopes = ("usage:read", "usage:write")
        _, self.plain = issue_key(
            organization=organization, scopes=scopes, label="test", actor=SYSTEM, at=MARCH
        )
        self.client = Client(raise_request_exception=False)

    def send(self, contract: Any, *events: Any) -> Any:
        body = {"contract_id": str(getattr(contract, "pk", contract)), "events": list(events)}
        headers = {"Idempotency-Key": str(uuid4()), "Authorization": f"Bearer {self.plain}"}
        return self.client.post(
            "/api/v1/usage-events/", json.dumps(body), "application/json", headers=headers
        )


def event(deal: Deal, **changes: Any) -> dict[str, Any]:
    data = {"line_id": str(deal.burst), "quantity": "8.0", **changes.pop("data", {})}
    return {
        "specversion": "1.0", "id": str(uuid4()), "source": "brokkr/eu-1", "time": "2027-03-01T00:00:00Z",
        "data": data, **changes,
    }  # fmt: skip


def faults(answer: Any) -> list[tuple[str, str]]:
    return [(error["pointer"], error["code"]) for error in answer.json()["errors"]]


@pytest.fixture
def deal(world: World) -> Deal:
    """A contract that runs; nobody follows it to OpenMeter here."""
    world.tell(world.payment("150,000.00"))
    deal = world.draft(downpayment="0")
    for stage in ("submit", "signed", "live"):
        deal.edit("activate", {"stage": stage})
    return deal


@pytest.fixture
def api(world: World) -> Api:
    return Api(world.platform)


def test_usage_is_accepted_and_counted_once(api: Api, deal: Deal) -> None:
    first = event(deal)
    answer = api.send(deal.contract, first, event(deal, type="h100_burst_hours"))
    assert (answer.status_code, answer.json()["accepted"], answer.json()["duplicates"]) == (202, 2, 0)
    again = api.send(deal.contract, first, event(deal))
    assert (again.json()["accepted"], again.json()["duplicates"]) == (1, 1)
    assert api.send(deal.contract, first).json() == {"accepted": 0, "duplicates": 1, "batch_id": None}
    assert metered(deal.contract.pk, deal.burst, MARCH, APRIL) == Decimal(24)
    assert UsageBatch.objects.count() == 2


@pytest.mark.parametrize(
    ("quantity", "pointer"),
    [
        (text, "/events/1/data/quantity")
        for text in ("0", "-1", "NaN", "Infinity", "1e400", "1E5", "0.0000000001", "1000000000001", "1_0",
                     "٣", "", "eight")
    ],
)  # fmt: skip
def test_a_quantity_that_is_none_is_named_and_nothing_is_written(
    api: Api, deal: Deal, quantity: str, pointer: str
) -> None:
    answer = api.send(deal.contract, event(deal), event(deal, data={"quantity": quantity}))
    assert answer.status_code in (400, 422)
    assert [pointer for pointer, _ in faults(answer)] == [pointer]
    assert UsageEvent.objects.count() == UsageBatch.objects.count() == 0


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"time": "2027-03-01T00:00:00"}, "/events/0/time"),
        ({"time": "2027-02-28T23:59:59Z"}, "/events/0/time"),
        ({"time": "2027-03-01T00:05:01Z"}, "/events/0/time"),
        ({"specversion": "0.3"}, "/events/0/specversion"),
        ({"id": ""}, "/events/0/id"),
        ({"id": "a\x00b"}, "/events/0/id"),
        ({"id": "x" * 201}, "/events/0/id"),
        ({"source": ""}, "/events/0/source"),
        ({"type": "other_meter"}, "/events/0/type"),
        ({"data": {"line_id": "no"}}, "/events/0/data/line_id"),
        ({"data": {"line_id": str(uuid4())}}, "/events/0/data/line_id"),
        ({"data": {"colour": "red"}}, "/events/0/data/colour"),
        ({"subject": "acme"}, "/events/0/subject"),
    ],
)
def test_each_field_is_checked_and_named(api: Api, deal: Deal, changes: dict[str, Any], pointer: str) -> None:
    answer = api.send(deal.contract, event(deal, **changes))
    assert answer.status_code in (400, 422), answer.json()
    assert [found for found, _ in faults(answer)] == [pointer]
    assert UsageEvent.objects.count() == 0


def test_every_faulty_event_of_a_request_is_listed(api: Api, deal: Deal) -> None:
    recurring = event(deal, data={"line_id": str(deal.servers), "quantity": "0"})
    answer = api.send(deal.contract, recurring, event(deal), event(deal, time="2027-02-01T00:00:00Z"))
    assert faults(answer) == [
        ("/events/0/data/line_id", "line_not_found"),
        ("/events/0/data/quantity", "quantity_invalid"),
        ("/events/2/time", "time_out_of_range"),
    ]


def test_a_thousand_events_and_not_one_more(api: Api, deal: Deal) -> None:
    assert api.send(deal.contract).status_code in (400, 422)
    assert api.send(deal.contract, *[event(deal) for _ in range(1001)]).status_code in (400, 422)
    assert api.send(deal.contract, *[event(deal) for _ in range(1000)]).status_code == 202
    assert UsageEvent.objects.count() == 1000


def test_an_id_with_other_content_is_refused_and_the_first_stands(api: Api, deal: Deal) -> None:
    first = event(deal, id="one")
    api.send(deal.contract, first)
    answer = api.send(deal.contract, event(deal), event(deal, id="one", data={"quantity": "9"}))
    assert (answer.status_code, faults(answer)) == (422, [("/events/1/id", "event_id_reused")])
    assert [row.quantity for row in UsageEvent.objects.all()] == [Decimal(8)]


def test_a_number_written_otherwise_and_a_time_with_another_offset_are_the_same_event(
    api: Api, deal: Deal
) -> None:
    api.send(deal.contract, event(deal, id="one"))
    same = event(deal, id="one", time="2027-03-01T02:00:00+02:00", data={"quantity": "8.000"})
    assert api.send(deal.contract, same).json()["duplicates"] == 1


def test_the_same_id_of_another_source_is_another_event(api: Api, deal: Deal) -> None:
    """CloudEvents: source and id together identify."""
    api.send(deal.contract, event(deal, id="one"))
    answer = api.send(
        deal.contract,
        event(deal, id="one", source="brokkr/eu-2", data={"quantity": "5"}),
        event(deal, id="two"),
        event(deal, id="two", source="brokkr/eu-2"),
    )
    assert (answer.status_code, answer.json()["accepted"]) == (202, 3)
    assert metered(deal.contract.pk, deal.burst, MARCH, APRIL) == Decimal(29)


def test_one_id_twice_in_a_request_is_refused(api: Api, deal: Deal) -> None:
    answer = api.send(deal.contract, event(deal, id="one"), event(deal, id="one"))
    assert faults(answer) == [("/events/0/id", "event_id_twice"), ("/events/1/id", "event_id_twice")]


def test_another_contracts_line_and_event_are_not_this_ones(api: Api, world: World, deal: Deal) -> None:
    other = world.draft(downpayment="0")
    for stage in ("submit", "signed", "live"):
        other.edit("activate", {"stage": stage})
    answer = api.send(deal.contract, event(other))
    assert faults(answer) == [("/events/0/data/line_id", "line_not_found")]
    api.send(other.contract, event(other, id="one"))
    assert faults(api.send(deal.contract, event(deal, id="one"))) == [("/events/0/id", "event_id_reused")]


def test_who_may_meter(world: World, deal: Deal) -> None:
    """A seller its own contracts; a buyer never writes its own bill; others do not know of it."""
    assert Api(world.northwind).send(deal.contract, event(deal)).status_code == 202
    for organization in (world.acme, world.southwind, world.bridge):
        answer = Api(organization).send(deal.contract, event(deal))
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), organization
    assert UsageEvent.objects.count() == 1


def test_of_two_sellers_each_meters_its_own_lines(world: World) -> None:
    world.tell(world.payment("150,000.00"))
    deal = world.draft(downpayment="0", sellers=(world.southwind, world.northwind))
    for stage in ("submit", "signed", "live"):
        deal.edit("activate", {"stage": stage})
    assert faults(Api(world.southwind).send(deal.contract, event(deal))) == [
        ("/events/0/data/line_id", "line_not_found")
    ]
    assert Api(world.northwind).send(deal.contract, event(deal)).status_code == 202


def test_an_unknown_contract_is_not_found(api: Api, deal: Deal) -> None:
    assert api.send(uuid4(), event(deal)).status_code == 404


def test_a_contract_that_does_not_run_yet_takes_no_usage(api: Api, world: World) -> None:
    deal = world.draft()
    answer = api.send(deal.contract, event(deal))
    assert (answer.status_code, answer.json()["code"]) == (409, "contract_not_active")


def test_after_its_end_a_contract_takes_only_usage_from_before(world: World, deal: Deal, clock: Any) -> None:
    clock(MARCH + 10 * HOUR)
    deal.edit("terminate", {"cause": "mutual"})
    clock(MARCH + 20 * HOUR)
    assert deal.use("1", days=0.2).accepted == 1
    with pytest.raises(InvalidInput):
        deal.use("1", days=0.5)
    cancelled = world.draft()
    cancelled.edit("terminate", {"cause": "mutual"})
    with pytest.raises(StateConflict):
        cancelled.use("1", days=0.8)


def test_usage_is_forwarded_once(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    openmeter.at(MARCH + 48 * HOUR)
    openmeter.fault("POST", "events", "timeout_after_effect", count=1)
    deal.use("10", id="one")
    deal.use("10", id="two")
    work()
    services.forward_usage(batch_id=UsageBatch.objects.first().pk, at=now())  # type: ignore[union-attr]
    assert openmeter.counts("usage_event") == {"one": 1, "two": 1}
    assert not UsageBatch.objects.filter(forwarded_at=None).exists()
    assert parked() == []


def test_usage_waits_for_the_customer(openmeter: OpenMeter, world: World) -> None:
    world.pay_in("150,000.00")
    deal = world.signed()
    deal.edit("activate", {"stage": "live"})
    deal.use("10", id="one", days=0)
    openmeter.fault("POST", "customers$", "error", status=503, count=1)
    work()
    work()
    assert openmeter.counts("usage_event") == {"one": 1}
    assert parked() == []


def test_usage_for_an_invoiced_period_is_kept_and_a_person_is_told(
    openmeter: OpenMeter, world: World
) -> None:
    deal = world.live()
    openmeter.at(CUT)
    openmeter.tell()
    total = deal.invoice.total_minor
    deal.use("10", days=3)
    deal.use("5", days=4)
    work()
    [item] = reviews("late_usage")
    assert (item.subject_id, item.evidence["quantity"]) == (str(deal.invoice.pk), "10")
    assert deal.invoice.total_minor == total
    assert metered(deal.contract.pk, deal.burst, MARCH, APRIL) == Decimal(15)


def test_usage_before_the_invoice_is_closed_is_on_it(openmeter: OpenMeter, world: World) -> None:
    deal = world.live()
    openmeter.at(APRIL)
    openmeter.tell()
    deal.use("10", days=3)
    work()
    openmeter.at(CUT)
    openmeter.tell()
    assert reviews("late_usage") == []
    assert deal.invoice.net_minor == 3_602_000


@pytest.mark.django_db(transaction=True)
def test_the_same_events_sent_at_once_in_any_order_are_counted_once(clock: Any) -> None:
    world = make_world()
    deal = world.draft(downpayment="0")
    for stage in ("submit", "signed", "live"):
        deal.edit("activate", {"stage": stage})
    readings = [Reading(f"e{n}", "meter", deal.burst, MARCH, Decimal(1)) for n in range(200)]

    def send(events: list[Reading]) -> Callable[[], Any]:
        return lambda: services.accept_usage(
            contract_id=deal.contract.pk, readings=events, actor=SYSTEM, at=MARCH
        )

    changed = [Reading(r.event_id, r.source, r.line_id, r.time, Decimal(2)) for r in readings]
    results = together(send(readings), send(readings[::-1]), send(readings[50:]), send(changed))
    good = [result for result in results if not isinstance(result, CommerceError)]
    assert sum(result.accepted for result in good) == UsageEvent.objects.count() == 200
    assert (
        sum(result.duplicates for result in good)
        == sum(
            len(events)
            for events, result in zip((readings, readings, readings[50:], changed), results, strict=True)
            if result in good
        )
        - 200
    )
    quantities = set(UsageEvent.objects.values_list("quantity", flat=True))
    assert len(quantities) == 1, "one content won, wholly"
