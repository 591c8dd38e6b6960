"""Reading a contract at an instant, for whatever billing needs of its terms."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from contracts.rules.fold import Edit, fold, timeline
from contracts.rules.state import ContractState
from contracts.services import contract_edits

RUNNING = ("active", "suspended")
ENDED = ("terminated", "expired", "cancelled")


def contract_state(contract_id: UUID, *, valid_at: datetime) -> ContractState:
    """The contract as it stands at `valid_at`, as known now; before its start, as it starts."""
    return state_of(contract_edits(contract_id), valid_at=valid_at)


def state_of(edits: Sequence[Edit], *, valid_at: datetime) -> ContractState:
    """`contract_state` of a log that is at hand."""
    return fold(edits, valid_at=max(valid_at, edits[0].effective_at))


def live_since(edits: Sequence[Edit]) -> datetime | None:
    """When the contract went live for the first time."""
    return next((step.at for step in timeline(edits) if step.state.status in RUNNING), None)
