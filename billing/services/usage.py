"""Usage: accepted once, kept, and forwarded to OpenMeter as CloudEvents.

A request is accepted whole or refused whole. Resending an event is harmless; the same id with other
content is refused. What is stored here is what re-rating counts, independently of the provider.
Usage of a period that was invoiced already is kept, and a person is told that it is not billed.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Q, Sum

from billing.models import Invoice, SubscriptionSync, UsageBatch, UsageEvent
from billing.services.terms import ENDED, RUNNING, contract_state, owner_at
from commerce.actor import Actor
from commerce.console.services import open_review
from commerce.crash import crash_point
from commerce.errors import FieldError, InvalidInput, NotFound, Retryable, StateConflict
from commerce.outbox import append
from commerce.parties.models import Organization
from commerce.providers import openmeter
from commerce.providers.openmeter import Usage
from contracts.models import Contract
from contracts.rules.state import ContractState, LineState
from contracts.services import contract_edits

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
    def key(self) -> tuple[str, str]:
        """What identifies a CloudEvent."""
        return self.source, self.event_id

    @property
    def fingerprint(self) -> str:
        time = self.time.astimezone(UTC).isoformat()
        content = [str(self.line_id), time, format(self.quantity.normalize(), "f")]
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
    meters = _validate(contract, readings, actor, at)
    batch = UsageBatch.objects.create(contract=contract, received_at=at)
    new = _store(batch, readings, meters)
    if not new:
        batch.delete()
        return Accepted(0, len(readings), None)
    _report_late(contract, batch, new, actor=actor, at=at)
    append(
        "usage_batch",
        batch.id,
        "usage.accepted",
        {"batch_id": str(batch.id), "contract_id": str(contract.id), "events": len(new)},
        at=at,
        actor=actor,
    )
    return Accepted(len(new), len(readings) - len(new), batch.id)


def _store(batch: UsageBatch, readings: Sequence[Reading], meters: dict[UUID, str]) -> list[Reading]:
    """Insert what is new and return it. Insert first, then look: somebody may send the same just now.

    Always in the order of the keys, so that two such requests wait for each other and never both.
    """
    UsageEvent.objects.bulk_create(
        [
            UsageEvent(
                batch=batch,
                contract_id=batch.contract_id,
                line_id=r.line_id,
                source=r.source,
                event_id=r.event_id,
                meter=meters[r.line_id],
                time=r.time,
                quantity=r.quantity,
                fingerprint=r.fingerprint,
            )
            for r in sorted(readings, key=lambda r: r.key)
        ],
        ignore_conflicts=True,
    )
    stored = {
        (row.source, row.event_id): row
        for row in UsageEvent.objects.filter(
            source__in={r.source for r in readings}, event_id__in={r.event_id for r in readings}
        )
    }
    changed = [
        FieldError(f"/events/{i}/id", "event_id_reused", "This id was accepted with other content.")
        for i, r in enumerate(readings)
        if (stored[r.key].contract_id, stored[r.key].fingerprint) != (batch.contract_id, r.fingerprint)
    ]
    if changed:
        raise InvalidInput("An event id was used before with other content.", errors=changed)
    return [r for r in readings if stored[r.key].batch_id == batch.id]


def _validate(contract: Contract, readings: Sequence[Reading], actor: Actor, at: datetime) -> dict[UUID, str]:
    """The meter of each line that was named; every fault in one InvalidInput."""
    state = contract_state(contract.id, valid_at=at)
    if state.status not in (*RUNNING, *ENDED) or state.status == "cancelled":
        raise StateConflict(
            f"Contract {contract.number} is {state.status}: nothing is metered before it is active.",
            code="contract_not_active",
            state=state.status,
        )
    lines = {line.line_id: line for line in state.lines.values() if _may_meter(actor, line)}
    times = Counter(r.key for r in readings)
    faults = [
        FieldError(f"/events/{i}/{pointer}", code, detail)
        for i, r in enumerate(readings)
        for pointer, code, detail in _faults(r, state, lines.get(r.line_id), times[r.key], at)
    ]
    if faults:
        raise InvalidInput("Some events are not valid; none was accepted.", errors=faults)
    return {line.line_id: line.meter for line in lines.values()}


def _may_meter(actor: Actor, line: LineState) -> bool:
    """A seller meters its own lines, the platform all."""
    own = actor.organization_id in (None, line.seller_id, Organization.objects.platform().pk)
    return line.kind == "usage" and own


def _faults(
    reading: Reading, state: ContractState, line: LineState | None, times: int, at: datetime
) -> Iterator[tuple[str, str, str]]:
    if line is None:
        yield "data/line_id", "line_not_found", "Not a usage line of the contract."
    elif reading.meter and reading.meter != line.meter:
        yield "type", "meter_mismatch", f"The line is metered by {line.meter}."
    quantity = reading.quantity
    if not (quantity.is_finite() and 0 < quantity <= MAX_QUANTITY and quantity == round(quantity, 9)):
        detail = "A quantity is a positive decimal, at most 10^12, with at most 9 decimals."
        yield "data/quantity", "quantity_invalid", detail
    end = min(state.end_at or at + AHEAD, at + AHEAD)
    if not (state.start_at or at) <= reading.time <= end:
        yield "time", "time_out_of_range", "Usage lies between the contract's start and now, or its end."
    if times > 1:
        yield "id", "event_id_twice", "This source and id occur twice in the request."


def _report_late(
    contract: Contract, batch: UsageBatch, new: Sequence[Reading], *, actor: Actor, at: datetime
) -> None:
    """Usage of a period whose invoice has its lines already is on no invoice: a person is told.

    The shared lock waits for an invoice that is being verified, and lets other usage in meanwhile.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM billing_billingaccount WHERE contract_id = %s FOR SHARE", [contract.pk])
    within = Q(period_start__lte=max(r.time for r in new), period_end__gt=min(r.time for r in new))
    closed = Invoice.objects.filter(within, contract=contract, verified_at__isnull=False)
    for invoice in closed.exclude(status="voided"):
        late = [r for r in new if invoice.period_start <= r.time < invoice.period_end]
        if late:
            open_review(
                kind="late_usage",
                subject_type="billing.invoice",
                subject_id=invoice.id,
                title=f"Usage arrived after {invoice.number} was closed",
                detail="It is stored and on no invoice. Usage that follows for this period adds to it.",
                evidence={
                    "batch": str(batch.id),
                    "events": len(late),
                    "quantity": format(sum((r.quantity for r in late), Decimal(0)).normalize(), "f"),
                },
                actor=actor,
                at=at,
            )


def forward_usage(*, batch_id: UUID | str, at: datetime) -> None:
    """Send a batch to OpenMeter, which drops what it has seen before (same source and id).

    Usage belongs to the customer of whoever owned the contract at its time, however late it comes.
    """
    batch = UsageBatch.objects.get(pk=batch_id)
    if batch.forwarded_at:
        return
    edits = contract_edits(batch.contract_id)
    found = SubscriptionSync.objects.filter(contract_id=batch.contract_id).exclude(customer_id="")
    keys = {(sync.buyer_id, sync.turn): sync.customer_key for sync in found}
    stored = batch.events.order_by("id")
    owners = {event.pk: owner_at(edits, event.time) for event in stored}
    of = {pk: (owner.buyer_id, owner.turn) for pk, owner in owners.items()}
    if set(of.values()) - keys.keys():
        raise Retryable("The contract's customer is not at OpenMeter yet.")
    events = [
        Usage(
            id=event.event_id,
            source=event.source,
            type=event.meter,
            subject=keys[of[event.pk]],
            time=event.time,
            data={"line_id": event.line_id.hex, "quantity": format(event.quantity.normalize(), "f")},
        )
        for event in stored
    ]
    crash_point("billing.before_usage")
    openmeter.client().ingest(events)
    crash_point("billing.after_usage")
    UsageBatch.objects.filter(pk=batch.pk).update(forwarded_at=at)


def meter(
    contract_id: UUID, line_ids: Collection[UUID], marks: Collection[datetime]
) -> Callable[[UUID, datetime, datetime], Decimal]:
    """`metered` of many stretches: those between any two `marks` are read together when one is asked for."""
    ordered = sorted(marks)
    place = {mark: i for i, mark in enumerate(ordered)}
    totals: dict[tuple[UUID, int], Decimal] = {}
    read = False

    def usage(line_id: UUID, start: datetime, end: datetime) -> Decimal:
        nonlocal read
        if line_id not in line_ids or start not in place or end not in place:
            return metered(contract_id, line_id, start, end)
        if not read:
            totals.update(_between(contract_id, line_ids, ordered))
            read = True
        stretches = range(place[start], place[end])
        return sum((totals.get((line_id, i), Decimal(0)) for i in stretches), Decimal(0))

    return usage


def _between(
    contract_id: UUID, line_ids: Collection[UUID], marks: Sequence[datetime]
) -> dict[tuple[UUID, int], Decimal]:
    """The sum of each line from `marks[i]` until the next one, by line and i."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT line_id, width_bucket(time, %s::timestamptz[]) - 1, SUM(quantity)
               FROM billing_usageevent
               WHERE contract_id = %s AND line_id = ANY(%s::uuid[]) AND time >= %s AND time < %s
               GROUP BY 1, 2""",
            [list(marks), contract_id, list(line_ids), marks[0], marks[-1]],
        )
        return {(line_id, place): total for line_id, place, total in cursor.fetchall()}


def metered(contract_id: UUID, line_id: UUID, start: datetime, end: datetime) -> Decimal:
    """The quantity accepted for a line in [start, end)."""
    found = UsageEvent.objects.filter(
        contract_id=contract_id, line_id=line_id, time__gte=start, time__lt=end
    ).aggregate(total=Sum("quantity"))
    return found["total"] or Decimal(0)
