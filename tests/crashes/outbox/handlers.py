"""Effects in each lane as they should be, and two that are wrong on purpose.

Whoever kills sees in `hands`, one byte of shared memory for each worker, what a worker had in hand.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from django.db import transaction

from commerce.money import Money
from commerce.outbox import on
from commerce.outbox.models import OutboxEvent
from commerce.providers import modern_treasury
from tests.crashes.outbox.events import MISHANDLED, ORDERED, TOLD
from tests.crashes.outbox.models import Delivery, Effect

LOCAL, BATCH, BANK = "crashes.local", "crashes.batch", "crashes.bank"
FRESH_KEY, CURSOR_FIRST = "crashes.fresh_key", "crashes.cursor_first"
IN_HAND = ("", LOCAL, BATCH, BANK, FRESH_KEY, CURSOR_FIRST)
EFFECT_SECONDS = 0.002

_hands: Any = bytearray(1)
_slot = 0


def report_to(hands: Any, slot: int) -> None:
    global _hands, _slot
    _hands, _slot = hands, slot
    _hands[_slot] = 0


@contextmanager
def _in_hand(group: str) -> Iterator[None]:
    _hands[_slot] = IN_HAND.index(group)
    try:
        yield
    finally:
        _hands[_slot] = 0


@on(TOLD, ORDERED, group=LOCAL)
def count(event: OutboxEvent) -> None:
    with _in_hand(LOCAL):
        _count(LOCAL, [event])


@on(TOLD, ORDERED, group=BATCH, batch=True)
def count_all(events: list[OutboxEvent]) -> None:
    with _in_hand(BATCH):
        _count(BATCH, events)


@on(ORDERED, group=BANK, provider=modern_treasury.NAME)
def pay(event: OutboxEvent) -> None:
    """As payouts do: look first, and send under a key that was stored with the event."""
    with _in_hand(BANK):
        reference = reference_of(BANK, event.aggregate_id, event.sequence)
        found = modern_treasury.client().find_payment_order(reference) is not None
        Delivery.objects.create(reference=reference, found=found, worker=os.getpid())
        if not found:
            _order(reference, event, key=event.key)


@on(MISHANDLED, group=FRESH_KEY, provider=modern_treasury.NAME)
def pay_without_looking(event: OutboxEvent) -> None:
    """A control: a new key for each attempt, and no look."""
    with _in_hand(FRESH_KEY):
        reference = reference_of(FRESH_KEY, event.aggregate_id, event.sequence)
        _order(reference, event, key=str(uuid4()))


@on(MISHANDLED, group=CURSOR_FIRST)
def count_too_late(event: OutboxEvent) -> None:
    """A control: the cursor has moved when the effect begins."""

    def later() -> None:
        with _in_hand(CURSOR_FIRST):
            time.sleep(5 * EFFECT_SECONDS)
            _count(CURSOR_FIRST, [event])

    transaction.on_commit(later)


def reference_of(group: str, aggregate: str, sequence: int) -> str:
    return f"{group}/{aggregate}/{sequence}"


def _count(group: str, events: list[OutboxEvent]) -> None:
    Effect.objects.bulk_create(
        Effect(group=group, aggregate=event.aggregate_id, sequence=event.sequence, worker=os.getpid())
        for event in events
    )
    time.sleep(EFFECT_SECONDS)


def _order(reference: str, event: OutboxEvent, *, key: str) -> None:
    bank = modern_treasury.client()
    bank.create_payment_order(
        external_id=reference,
        amount=Money(event.payload["amount_minor"], "USD"),
        receiving_account_id=bank.internal_account_id,
        key=key,
    )
