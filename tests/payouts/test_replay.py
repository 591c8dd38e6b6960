"""Every paid invoice and every release told again: whoever has settled recognises its own effects."""

from typing import Any

import pytest
from django.db import transaction

from commerce.outbox import append, drain, replay
from commerce.outbox.models import OutboxEvent, OutboxStream
from commerce.outbox.replay import Selection
from ledger.models import LedgerEntry, LedgerTransaction
from payouts.models import Payout, Settlement, SettlementLeg
from tests.payouts.conftest import LOCAL_GROUPS, PAID, SYSTEM, World

pytestmark = pytest.mark.django_db


def state() -> list[Any]:
    return [
        list(Settlement.objects.order_by("pk").values()),
        list(SettlementLeg.objects.order_by("pk").values()),
        list(Payout.objects.order_by("pk").values()),
        list(LedgerTransaction.objects.order_by("pk").values_list("pk", "key")),
        LedgerEntry.objects.count(),
    ]


def test_everything_told_again_to_settlement_settles_nothing_twice(world: World) -> None:
    for number in range(3):
        payload = world.collect()
        with transaction.atomic():
            append("invoice", payload["invoice_id"], "invoice.paid", payload, at=PAID, actor=SYSTEM)
        drain(groups=LOCAL_GROUPS)
        assert Settlement.objects.count() == number + 1
    world.release()
    before = state()
    assert len(before[2]) > 0
    told = OutboxEvent.objects.count()

    made = replay.plan(Selection(groups=("payouts.settlement",)))
    invoices = sum(line.events for line in made.lines if line.type == "invoice.paid")
    assert (invoices, made.events > 3, "USD" in made.money) == (3, True, True)
    copied = replay.apply(made, actor=SYSTEM, at=PAID, reason="a drill")
    assert copied == made.events == OutboxEvent.objects.count() - told
    drain(groups=LOCAL_GROUPS)
    assert state() == before
    assert OutboxEvent.objects.count() == told + copied, "a copy has caused events"
    assert not OutboxStream.objects.filter(parked_at__isnull=False).exists()
