"""Commitments: one is not lowered below what was used of it already."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from commerce.errors import Conflict
from contracts.models import Contract
from contracts.rules.fold import Instant
from contracts.rules.operations.commitment import SetCommitment
from contracts.rules.state import Commitment
from contracts.rules.windows import committed_of
from contracts.services.admission import Planned
from contracts.services.bills import desired


def keep_what_was_used(
    *, contract: Contract, was: Sequence[Instant], planned: Sequence[Planned], at: datetime, **_: Any
) -> None:
    """Conflict (reduction_below_used) when less is committed than the running window has used by then."""
    for i, plan in enumerate(planned):
        payload = plan.edit.payload
        if not isinstance(payload, SetCommitment) or payload.mode != "set":
            continue
        old = plan.before.commitments.get(payload.commitment_id)
        new = plan.after.commitments.get(payload.commitment_id)
        if old is None or new is None or not (new.amount_minor < old.amount_minor or new.units < old.units):
            continue
        used = _used(contract, was, old, plan, at)
        if used > (new.units if new.kind == "minimum_quantity" else new.amount_minor):
            operation = f"/operations/{i}" if len(planned) > 1 else ""
            field = "units" if new.kind == "minimum_quantity" else "amount_minor"
            raise Conflict(
                f"{used} were used by {plan.edit.effective_at:%Y-%m-%d %H:%M} UTC in the window that runs.",
                pointer=f"{operation}/payload/{field}",
                code="reduction_below_used",
                used=str(used),
            )


def _used(
    contract: Contract, was: Sequence[Instant], commitment: Commitment, plan: Planned, at: datetime
) -> Decimal:
    """What the window that runs has used before the edit: metered units, or minor units net of discounts."""
    until = plan.edit.effective_at
    for committed in committed_of(was, until + timedelta(microseconds=1)):
        place = committed.at(until)
        if committed.commitment != commitment or place is None:
            continue
        start = committed.windows[place].start
        lines = [
            line
            for line in (desired(contract.pk, start=start, end=until, at=at) if start < until else [])
            if line.line_id and commitment.covers(line.line_id)
        ]
        if commitment.kind == "minimum_quantity":
            return sum((line.quantity for line in lines if line.kind == "usage"), Decimal(0))
        return Decimal(
            sum(line.net_minor for line in lines if line.kind in ("recurring", "usage", "discount"))
        )
    return Decimal(0)
