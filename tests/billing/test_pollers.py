"""Pollers and the lines to providers: what is paused or does not answer is left alone."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from billing import tasks
from commerce.outbox import services as relay
from commerce.outbox.models import Circuit
from tests.billing.conftest import CUT, SYSTEM, OpenMeter, World, now

POLLERS = [
    ("openmeter", tasks.poll_invoices),
    ("openmeter", tasks.check_drift),
    ("modern_treasury", tasks.poll_incoming_payments),
]


@pytest.mark.parametrize(("lane", "poll"), POLLERS)
def test_a_paused_or_open_line_is_not_polled_and_its_probe_is_left_to_the_relay(
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
    poll()
    assert openmeter.requests() == asked, "asked although the circuit is open"
    assert Circuit.objects.get(lane=lane).open_until == due, "took the probe"

    Circuit.objects.filter(lane=lane).update(opened_at=None, open_until=None)
    poll()
    assert openmeter.requests() > asked


def test_a_poller_stops_at_the_first_that_finds_nobody_there(openmeter: OpenMeter, world: World) -> None:
    for _ in range(3):
        world.live()
    openmeter.fault("GET", "subscriptions", "error", status=503, count=1)
    asked = openmeter.requests()
    assert tasks.check_drift() == 0
    assert openmeter.requests() == asked + 1
    assert not Circuit.objects.exclude(opened_at=None).exists()
    assert tasks.check_drift() == 3
