"""When OpenMeter had what units in service are billed for: a difference that its delay makes is explained."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from billing.models import ServiceChange
from billing.services.terms import state_of
from contracts.services import contract_edits, line_service

_EVER = datetime.min.replace(tzinfo=UTC)


def note_service(*, contract_id: UUID, at: datetime) -> None:
    """Note how many units of each line billed from service were so, and since when, as OpenMeter has it now.

    An instant that was noted is looked at again: what was corrected since is a change of then, told now.
    """
    state = state_of(contract_edits(contract_id), valid_at=at)
    lines = [line.line_id for line in state.live_lines if line.bill_from == "in_service"]
    if not lines:
        return
    service = line_service(contract_id, at=at)
    noted = ServiceChange.objects.filter(contract_id=contract_id).values_list("line_id", "effective_at")
    rows = []
    for line_id in lines:
        spans = service.in_service(line_id, _EVER, at + timedelta.resolution)
        instants = {instant for line, instant in noted if line == line_id}
        instants |= {instant for span in spans for instant in (span.start, span.end) if instant <= at}
        for instant in sorted(instants):
            quantity = sum(span.quantity for span in spans if span.start <= instant < span.end)
            rows.append(
                ServiceChange(
                    contract_id=contract_id,
                    line_id=line_id,
                    quantity=quantity,
                    effective_at=instant,
                    applied_at=at,
                )
            )
    ServiceChange.objects.bulk_create(rows, ignore_conflicts=True)


def service_followed(contract_id: UUID) -> list[tuple[UUID, datetime, datetime]]:
    """Line, instant of the change, and when OpenMeter took it over."""
    changes = ServiceChange.objects.filter(contract_id=contract_id).order_by("effective_at")
    return list(changes.values_list("line_id", "effective_at", "applied_at"))
