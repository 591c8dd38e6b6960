"""Edits that two people must agree to: one asks for exactly these operations, another has them recorded."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from commerce.actor import Actor
from commerce.console.approvals import Operation, register_operation, request_approval
from commerce.console.models import Approval, ApprovalStatus
from commerce.errors import InvalidInput
from contracts.models import Contract, ContractEdit
from contracts.rules.operations import named
from contracts.services.admission import Planned
from contracts.services.edits import OperationRequest, record_edits
from contracts.services.previews import preview_edits

OPERATION = "contracts.edit"
CHECKER = "contracts.approve_edit"
MAKER = "contracts.edit_contract"


def request_edits(
    *,
    contract_id: UUID,
    operations: Sequence[OperationRequest],
    expected_version: int,
    actor: Actor,
    at: datetime,
    reason: str,
    key: str | None = None,
) -> Approval:
    """Ask a second person to agree; nothing is recorded yet. Refuses what recording would refuse.

    `reason` is that of each operation which has none of its own.
    """
    operations = [replace(asked, reason=asked.reason or reason) for asked in operations]
    preview = preview_edits(
        contract_id=contract_id, operations=operations, actor=actor, at=at, expected_version=expected_version
    )
    if not preview.approval:
        raise InvalidInput("None of this needs a second person; record it.", code="no_approval_needed")
    return request_approval(
        operation=OPERATION,
        arguments={
            "contract_id": str(contract_id),
            "expected_version": expected_version,
            "why": preview.approval,
            "operations": [
                asked.to_json() | _as_seen(asked, plan)
                for asked, plan in zip(operations, preview.planned, strict=True)
            ],
        },
        subject_type="contracts.contract",
        subject_id=contract_id,
        reason=reason,
        actor=actor,
        at=at,
        key=key,
    )


def _as_seen(asked: OperationRequest, plan: Planned) -> dict[str, Any]:
    """What is agreed to is the instant that the maker saw, whatever "now" or the period's end is by then."""
    return {} if asked.operation == "correct" else {"effective_at": plan.edit.effective_at.isoformat()}


def _contract(approval: Approval) -> Contract:
    return Contract.objects.get(pk=approval.arguments["contract_id"])


def _requests(approval: Approval) -> list[OperationRequest]:
    return [OperationRequest.from_json(item) for item in approval.arguments["operations"]]


def _run(*, approval: Approval, actor: Actor, at: datetime) -> ContractEdit:
    result = record_edits(
        contract_id=_contract(approval).pk,
        operations=_requests(approval),
        actor=actor,
        at=at,
        idempotency_key=f"approval:{approval.pk}",
        expected_version=approval.arguments["expected_version"],
        approval=approval,
    )
    return result.edits[-1]


def _describe(approval: Approval) -> str:
    contract = _contract(approval)
    what = ", ".join(
        f"{named(asked.operation).label.lower()}"
        + (f" from {asked.effective_at:%Y-%m-%d %H:%M} UTC" if asked.effective_at else "")
        for asked in _requests(approval)
    )
    return f"Contract {contract.number}, version {approval.arguments['expected_version']}: {what}."


def _overtaken(approval: Approval) -> str:
    contract = _contract(approval)
    if (
        approval.status != ApprovalStatus.PENDING
        or contract.version == approval.arguments["expected_version"]
    ):
        return ""
    return f"Contract {contract.number} has been edited since: it is at version {contract.version}."


register_operation(
    Operation(
        name=OPERATION,
        label="Edit a contract",
        maker=MAKER,
        checker=CHECKER,
        run=_run,
        describe=_describe,
        overtaken=_overtaken,
    )
)
