"""What operations would do, before anybody confirms them: states, bills, warnings, and who must agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.safestring import SafeString

from commerce.actor import Actor
from commerce.console.charts import table
from commerce.console.format import badge, instant
from contracts import services
from contracts.admin.bills import shown_differences
from contracts.admin.comparing import differing
from contracts.admin.titles import title_of
from contracts.admin.words import Change, changed, names_of, shown_changes
from contracts.models import Contract
from contracts.rules.fold import Instant
from contracts.rules.state import ContractState, digest
from contracts.services import OperationRequest, Preview

STRETCHES_SHOWN = 6


@dataclass(frozen=True)
class Stretch:
    """From when to when the contract would be another than it is now, and how."""

    start: datetime
    end: datetime | None
    changes: SafeString


@dataclass(frozen=True)
class Outlook:
    """`seen` is a hash of everything here that does not move with the clock alone."""

    before: ContractState
    after: ContractState
    steps: SafeString
    stretches: Sequence[Stretch]
    more: int
    bills: SafeString
    warnings: Sequence[str]
    approval: Sequence[str]
    seen: str


def outlook(
    *,
    contract: Contract,
    operations: Sequence[OperationRequest],
    actor: Actor,
    at: datetime,
    expected_version: int,
    agreed: bool = False,
) -> Outlook:
    """Raises what recording would raise, with `agreed` what an approval of it would."""
    preview = services.preview_edits(
        contract_id=contract.pk,
        operations=operations,
        actor=actor,
        at=at,
        expected_version=expected_version,
        agreed=agreed,
    )
    was, will = (
        _from_there(preview.before, preview.was, preview),
        _from_there(preview.after, preview.timeline, preview),
    )
    found = differing(was, will)
    names = names_of(*(state for _, _, *states in found for state in states))
    said = [(start, end, changed(old, new, names)) for start, end, old, new in found]
    return Outlook(
        before=preview.before,
        after=preview.after,
        steps=_steps(preview),
        stretches=[
            Stretch(start, end, shown_changes(changes))
            for start, end, changes in _merged(said)[:STRETCHES_SHOWN]
        ],
        more=max(0, len(_merged(said)) - STRETCHES_SHOWN),
        bills=shown_differences(preview.bills, preview.after.currency),
        warnings=preview.warnings,
        approval=preview.approval,
        seen=_seen(preview, operations),
    )


def _from_there(state: ContractState, instants: Sequence[Instant], preview: Preview) -> list[Instant]:
    """A timeline that begins with the state at the first instant that anything touches."""
    return [Instant(preview.effective_at, state, ()), *instants]


def _steps(preview: Preview) -> SafeString:
    rows = [
        (
            title_of(plan.edit.operation, plan.edit.payload),
            instant(plan.edit.effective_at),
            badge(plan.before.status),
            badge(plan.after.status),
        )
        for plan in preview.planned
    ]
    return table(["Operation", "Takes effect", "Status before", "Status after"], rows)


def _merged(
    found: Sequence[tuple[datetime, datetime | None, list[Change]]],
) -> list[tuple[datetime, datetime | None, list[Change]]]:
    """Neighbours that say the same, as one."""
    merged: list[tuple[datetime, datetime | None, list[Change]]] = []
    for start, end, changes in found:
        if merged and merged[-1][1] == start and merged[-1][2] == changes:
            start = merged.pop()[0]
        merged.append((start, end, changes))
    return merged


def _seen(preview: Preview, operations: Sequence[OperationRequest]) -> str:
    """Instants that are "now" move between preview and confirmation; nothing else may."""
    now = {
        plan.edit.effective_at.isoformat().replace("+00:00", "Z")
        for asked, plan in zip(operations, preview.planned, strict=True)
        if asked.effective_at is None
    }

    def still(values: dict[str, Any]) -> dict[str, Any]:
        return {
            pointer: "now" if value in now else value for pointer, value in values.items() if _plain(value)
        }

    return digest(
        {
            "version": preview.before.version,
            "before": still(preview.changed_before),
            "after": still(preview.changed_after),
            "approval": list(preview.approval),
            "operations": [(asked.operation, asked.payload) for asked in operations],
        }
    )


def _plain(value: Any) -> bool:
    """Lists of objects hold instants of their own."""
    return not isinstance(value, list | dict)
