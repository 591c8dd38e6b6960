"""The processes of a run: workers that drain until they are killed, and writers that remember each answer.

Imported once by the server that they are forked from, so that a new one is there at once.
"""

import logging
import os
import random
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.db import InterfaceError, OperationalError, close_old_connections, transaction

from commerce.actor import Actor
from commerce.errors import CommerceError
from commerce.money import Money
from commerce.outbox import append
from commerce.outbox.claims import publish_left
from commerce.outbox.models import OutboxEvent
from commerce.outbox.relay import drain
from commerce.parties.models import Organization
from payouts.services import request_payout
from tests.crashes.outbox import handlers
from tests.crashes.outbox.events import AGGREGATE, MISHANDLED, ORDERED, TOLD

LANES = ["local", "batch", "modern_treasury"]
AGGREGATES = 60
ENOUGH = 200  # undelivered events, at which a writer waits
ROLLED_BACK = 0.1
ACTOR = Actor.system("crashes")
LOST_CONNECTION = (OperationalError, InterfaceError)


class _TakenBack(Exception):
    """What such a transaction appended never happened."""


def work(hands: Any, slot: int) -> None:
    """Drain all lanes, as the tasks of a Celery worker do it, until somebody kills us."""
    logging.disable(logging.WARNING)
    parent = os.getppid()
    handlers.report_to(hands, slot)
    while os.getppid() == parent:
        with suppress(*LOST_CONNECTION):
            drain(lanes=random.sample(LANES, len(LANES)), seconds=2)
            publish_left()
        close_old_connections()
        time.sleep(0.02)


def write(seed: str, answers: str, stop: Any) -> None:
    """Append until told to stop; every event whose commit was answered has its line in `answers`."""
    logging.disable(logging.WARNING)
    parent, dice = os.getppid(), random.Random(seed)
    payees = list(Organization.objects.filter(slug__startswith="payee-"))
    with Path(answers).open("a") as said:
        while not stop.is_set() and os.getppid() == parent:
            try:
                for line in _write_some(dice, payees):
                    said.write(line + "\n")
                said.flush()
                if OutboxEvent.objects.filter(published_at__isnull=True).count() > ENOUGH:
                    time.sleep(0.1)
            except _TakenBack:
                continue
            except (*LOST_CONNECTION, CommerceError):
                close_old_connections()
                time.sleep(0.05)


def _write_some(dice: random.Random, payees: list[Organization]) -> list[str]:
    """A few events of one aggregate, or a payout; what a reader finds of it, once it is committed."""
    if dice.random() < 0.05:
        now = datetime.now(UTC)
        amount = Money(dice.randrange(100, 999), "USD")
        payout = request_payout(payee=dice.choice(payees), currency="USD", amount=amount, actor=ACTOR, at=now)
        return [f"payout/{payout.external_id}"]
    aggregate = f"{dice.randrange(AGGREGATES):03}"
    with transaction.atomic():
        events = [_append(dice, aggregate) for _ in range(dice.randrange(1, 4))]
        if dice.random() < ROLLED_BACK:
            raise _TakenBack
    return [f"{event.type}/{event.aggregate_id}/{event.sequence}" for event in events]


def _append(dice: random.Random, aggregate: str) -> OutboxEvent:
    [type_] = dice.choices([TOLD, ORDERED, MISHANDLED], weights=[60, 30, 10])
    payload = {"amount_minor": dice.randrange(100, 999)}
    return append(AGGREGATE, aggregate, type_, payload, at=datetime.now(UTC), actor=ACTOR)
