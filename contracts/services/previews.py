"""What an operation or a batch would do: recorded by the same code, looked at, and rolled back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from commerce.actor import Actor
from commerce.ids import uuid7
from contracts.rules import fold
from contracts.rules.cautions import cautions
from contracts.rules.fold import Instant
from contracts.rules.lines import Difference
from contracts.rules.state import ContractState, difference
from contracts.services.admission import Planned
from contracts.services.bills import changed_bills
from contracts.services.edits import OperationRequest, contract_edits, record


@dataclass(frozen=True)
class Preview:
    """What would change, seen at `effective_at`, the earliest instant that any of the edits touches.

    `changed_before` and `changed_after` map JSON pointers to values; `timeline` is what would follow from
    there, `was` what follows now. `bills` is what changes of each line in each billing period, from the
    first one touched to the one after the present. `approval` says why two people must agree, if they must;
    `warnings` what else should be known before it is recorded.
    """

    effective_at: datetime
    before: ContractState
    after: ContractState
    changed_before: dict[str, Any]
    changed_after: dict[str, Any]
    planned: list[Planned]
    timeline: list[Instant]
    was: list[Instant]
    bills: list[Difference]
    approval: list[str]
    warnings: list[str]


def preview_edit(
    *,
    contract_id: UUID,
    operation: str,
    payload: Any,
    actor: Actor,
    at: datetime,
    expected_version: int | None,
    effective_at: datetime | None = None,
    reason: str = "",
) -> Preview:
    """`record_edit` with the same refusals, rolled back; that two people must agree is said, not refused."""
    request = OperationRequest(operation, payload, effective_at, reason)
    return _preview(contract_id, [request], actor, at, expected_version, pointer="")


def preview_edits(
    *,
    contract_id: UUID,
    operations: Sequence[OperationRequest],
    actor: Actor,
    at: datetime,
    expected_version: int | None,
    agreed: bool = False,
) -> Preview:
    """`record_edits`, likewise; `agreed` as when an approval has them recorded, at the instants it names."""
    return _preview(
        contract_id, operations, actor, at, expected_version, pointer="/operations/{}", agreed=agreed
    )


def _preview(
    contract_id: UUID,
    operations: Sequence[OperationRequest],
    actor: Actor,
    at: datetime,
    expected_version: int | None,
    *,
    pointer: str,
    agreed: bool = False,
) -> Preview:
    with transaction.atomic():
        result = record(
            contract_id,
            operations,
            actor=actor,
            at=at,
            idempotency_key=f"preview:{uuid7()}",
            expected_version=expected_version,
            pointer=pointer,
            approved=True,
            agreed=agreed,
        )
        after = contract_edits(contract_id)
        transaction.set_rollback(True)
    before = after[: -len(result.planned)]  # of the same instant: nobody else could record under the lock
    since = min(plan.edit.effective_at for plan in result.planned)
    was, will = fold.timeline(before), fold.timeline(after)
    old, new = fold.at_instant(was, since), fold.at_instant(will, since)
    bills = changed_bills(contract_id, was, will, since=since, at=at)
    steps = [(plan.edit, plan.before, plan.after) for plan in result.planned]
    return Preview(
        since,
        old,
        new,
        *difference(old, new),
        planned=result.planned,
        timeline=[instant for instant in will if instant.at >= since],
        was=[instant for instant in was if instant.at >= since],
        bills=bills,
        approval=[plan.approval for plan in result.planned if plan.approval],
        warnings=cautions(after, steps, bills, at),
    )
