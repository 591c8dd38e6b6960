"""Usage: accepted once, kept, and forwarded to OpenMeter as CloudEvents.

A request is accepted whole or refused whole. Resending an event is harmless; the same id with other
content is refused. What is stored here is what re-rating counts, independently of the provider.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import transaction
from django.db.models import Sum

from billing.models import SubscriptionSync, UsageBatch, UsageEvent
from billing.services.terms import contract_state
from commerce.actor import Actor
from commerce.crash import crash_point
from commerce.errors import FieldError, InvalidInput, NotFound, Retryable
from commerce.outbox import append
from commerce.providers import openmeter
from commerce.providers.openmeter import Usage
from contracts.models import Contract

MOST_EVENTS = 1000
MAX_QUANTITY = Decimal(10) ** 12
AHEAD = timedelta(minutes=5)


@dataclass(frozen=True)
class Reading:
    """One CloudEvent as a door has parsed it: quantity in the product's unit, time aware."""

    event_id: str
    source: str
    line_id: UUID
    time: datetime
    quantity: Decimal
    meter: str = ""

    @property
    def fingerprint(self) -> str:
        content = [str(self.line_id), self.time.isoformat(), format(self.quantity.normalize(), "f")]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True)
class Accepted:
    """How many events were new, and how many had been accepted before."""

    accepted: int
    duplicates: int
    batch_id: UUID | None


@transaction.atomic
def accept_usage(
    *, contract_id: UUID | str, readings: Sequence[Reading], actor: Actor, at: datetime
) -> Accepted:
    """Validate and store usage of one contract. InvalidInput lists every faulty event by pointer."""
    contract = Contract.objects.filter(pk=contract_id).first()
    if contract is None:
        raise NotFound("There is no such contract.", pointer="/contract_id")
    if not 1 <= len(readings) <= MOST_EVENTS:
        raise InvalidInput(f"Send 1 to {MOST_EVENTS} events.", pointer="/events", code="limit_exceeded")
    meters = _validate(contract, readings, at)
    known = dict(
        UsageEvent.objects.filter(
            source__in={r.source for r in readings}, event_id__in=[r.event_id for r in readings]
        ).values_list("event_id", "fingerprint")
    )
    changed = [
        FieldError(f"/events/{i}/id", "event_id_reused", "This id was accepted with other content.")
        for i, r in enumerate(readings)
        if known.get(r.event_id, r.fingerprint) != r.fingerprint
    ]
    if changed:
        raise InvalidInput("An event id was used before with other content.", errors=changed)
    new = [r for r in readings if r.event_id not in known]
    if not new:
        return Accepted(0, len(readings), None)
    batch = UsageBatch.objects.create(contract=contract, received_at=at)
    rows = UsageEvent.objects.bulk_create(
        [
            UsageEvent(
                batch=batch,
                contract=contract,
                line_id=r.line_id,
                source=r.source,
                event_id=r.event_id,
                meter=meters[r.line_id],
                time=r.time,
                quantity=r.quantity,
                fingerprint=r.fingerprint,
            )
            for r in new
        ],
        ignore_conflicts=True,
    )
    append(
        "usage_batch",
        batch.id,
        "usage.accepted",
        {"batch_id": str(batch.id), "contract_id": str(contract.id), "events": len(rows)},
        at=at,
        actor=actor,
    )
    return Accepted(len(new), len(readings) - len(new), batch.id)


def _validate(contract: Contract, readings: Sequence[Reading], at: datetime) -> dict[UUID, str]:
    """The meter of each line that was named; every fault in one InvalidInput."""
    state = contract_state(contract.id, valid_at=at)
    meters = {line.line_id: line.meter for line in state.lines.values() if line.kind == "usage"}
    twice = {id_ for id_, count in Counter(r.event_id for r in readings).items() if count > 1}
    faults = []
    for i, r in enumerate(readings):
        if r.line_id not in meters:
            faults.append(
                FieldError(f"/events/{i}/data/line_id", "line_not_found", "Not a usage line of the contract.")
            )
        elif r.meter and r.meter != meters[r.line_id]:
            faults.append(
                FieldError(
                    f"/events/{i}/type", "meter_mismatch", f"The line is metered by {meters[r.line_id]}."
                )
            )
        if not 0 < r.quantity <= MAX_QUANTITY or r.quantity != round(r.quantity, 9):
            faults.append(
                FieldError(
                    f"/events/{i}/data/quantity",
                    "quantity_invalid",
                    "A quantity is positive, at most 10^12, with at most 9 decimals.",
                )
            )
        if r.time < contract.start_at or r.time > at + AHEAD:
            faults.append(
                FieldError(
                    f"/events/{i}/time",
                    "time_out_of_range",
                    "Usage lies between the contract's start and now.",
                )
            )
        if r.event_id in twice:
            faults.append(
                FieldError(f"/events/{i}/id", "event_id_twice", "The id occurs twice in this request.")
            )
    if faults:
        raise InvalidInput("Some events are not valid; none was accepted.", errors=faults)
    return meters


def forward_usage(*, batch_id: UUID | str, at: datetime) -> None:
    """Send a batch to OpenMeter, which drops what it has seen before (same source and id)."""
    batch = UsageBatch.objects.select_related("contract__subscription_sync").get(pk=batch_id)
    if batch.forwarded_at:
        return
    sync: SubscriptionSync | None = getattr(batch.contract, "subscription_sync", None)
    if sync is None or not sync.customer_id:
        raise Retryable("The contract's customer is not at OpenMeter yet.")
    events = [
        Usage(
            id=event.event_id,
            source=event.source,
            type=event.meter,
            subject=sync.customer_key,
            time=event.time,
            data={"line_id": event.line_id.hex, "quantity": format(event.quantity.normalize(), "f")},
        )
        for event in batch.events.order_by("id")
    ]
    crash_point("billing.before_usage")
    openmeter.client().ingest(events)
    crash_point("billing.after_usage")
    UsageBatch.objects.filter(pk=batch.pk).update(forwarded_at=at)


def metered(contract_id: UUID, line_id: UUID, start: datetime, end: datetime) -> Decimal:
    """The quantity accepted for a line in [start, end)."""
    found = UsageEvent.objects.filter(
        contract_id=contract_id, line_id=line_id, time__gte=start, time__lt=end
    ).aggregate(total=Sum("quantity"))
    return found["total"] or Decimal(0)
