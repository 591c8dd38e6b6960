"""Pollers and the lines to providers: what is paused or does not answer is left alone."""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest
from django.utils import timezone

from billing import tasks
from commerce.errors import Retryable
from commerce.outbox import services as relay
from commerce.outbox.breaker import LONGEST_PAUSE, hear, while_open
from commerce.outbox.models import Circuit, OutboxStream
from tests.billing.conftest import CUT, SYSTEM, OpenMeter, World, now

POLLERS = [
    ("openmeter", tasks.poll_invoices),
    ("openmeter", tasks.check_drift),
    ("modern_treasury", tasks.poll_incoming_payments),
]


@pytest.mark.parametrize(("lane", "poll"), POLLERS)
def test_a_paused_line_is_not_polled_nor_an_open_one_that_the_relay_has_something_for(
    openmeter: OpenMeter, world: World, lane: str, poll: Callable[[], int]
) -> None:
    world.live()
    openmeter.at(CUT)
    relay.pause_lane(lane=lane, actor=SYSTEM, at=now(), reason="does harm")
    asked = openmeter.requests()
    poll()
    assert openmeter.requests() == asked, "asked although the line is paused"

    relay.resume_lane(lane=lane, actor=SYSTEM, at=now())
    due = timezone.now() - timedelta(seconds=1)
    Circuit.objects.filter(lane=lane).update(opened_at=due, open_until=due)
    in_a_moment = timezone.now() + timedelta(minutes=1)
    stream = OutboxStream.objects.create(
        aggregate_type="thing", aggregate_id="1", group="g", lane=lane, due_at=in_a_moment, pending_since=due
    )
    poll()
    assert openmeter.requests() == asked, "asked although the circuit is open"
    assert Circuit.objects.get(lane=lane).open_until == due, "took the probe"

    stream.delete()
    poll()
    assert openmeter.requests() > asked
    assert Circuit.objects.get(lane=lane).opened_at is None, "nobody else would have asked"


def open_circuit(lane: str) -> None:
    """Its pause is over, and nothing in the lane will ever ask."""
    due = timezone.now() - timedelta(seconds=1)
    Circuit.objects.update_or_create(lane=lane, defaults={"opened_at": due, "open_until": due, "failures": 5})


@pytest.mark.parametrize("status", [429, 503])
def test_a_pollers_probe_that_finds_nobody_there_keeps_the_circuit_open_for_the_longest_pause(
    openmeter: OpenMeter, world: World, status: int
) -> None:
    world.live()
    for poll, path in ((tasks.check_drift, "subscriptions"), (tasks.poll_invoices, "billing/invoices")):
        open_circuit("openmeter")
        openmeter.fault("GET", path, "error", status=status, count=1)
        asked = openmeter.requests()
        with suppress(Retryable):
            poll()
        assert openmeter.requests() == asked + 1
        circuit = Circuit.objects.get(lane="openmeter")
        assert circuit.opened_at
        assert circuit.open_until
        pause = circuit.open_until - timezone.now()
        assert timedelta(seconds=LONGEST_PAUSE - 60) < pause <= timedelta(seconds=LONGEST_PAUSE)
        tasks.check_drift()
        tasks.poll_invoices()
        assert openmeter.requests() == asked + 1, "asked within the pause"


@pytest.mark.django_db(transaction=True)
def test_a_pollers_probe_that_did_not_ask_is_given_back() -> None:
    open_circuit("openmeter")
    assert list(while_open("openmeter", ["nothing", "to ask"])) == ["nothing", "to ask"]
    circuit = Circuit.objects.get()
    assert circuit.opened_at, "closed although nobody has answered"
    assert circuit.open_until
    assert circuit.open_until <= timezone.now(), "the next may ask at once"


@pytest.mark.django_db(transaction=True)
def test_one_poller_at_a_time_has_the_probe() -> None:
    open_circuit("openmeter")
    asking = while_open("openmeter", ["first", "second"])
    assert next(asking) == "first"
    assert list(while_open("openmeter", ["third"])) == []
    hear()
    assert next(asking) == "second"
    assert Circuit.objects.get().opened_at is None


def test_a_poller_stops_at_the_first_that_finds_nobody_there(openmeter: OpenMeter, world: World) -> None:
    for _ in range(3):
        world.live()
    openmeter.fault("GET", "subscriptions", "error", status=503, count=1)
    asked = openmeter.requests()
    assert tasks.check_drift() == 0
    assert openmeter.requests() == asked + 1
    assert not Circuit.objects.exclude(opened_at=None).exists()
    assert tasks.check_drift() == 3
