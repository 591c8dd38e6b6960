"""Reading a contract at an instant, for whatever billing needs of its terms."""

from datetime import datetime
from uuid import UUID

from contracts.rules.fold import fold, timeline
from contracts.rules.state import ContractState
from contracts.services import contract_edits

RUNNING = ("active", "suspended")
ENDED = ("terminated", "expired", "cancelled")


def contract_state(contract_id: UUID, *, valid_at: datetime) -> ContractState:
    """The contract as it stands at `valid_at`, as known now; before its start, as it starts."""
    edits = contract_edits(contract_id)
    return fold(edits, valid_at=max(valid_at, edits[0].effective_at))


def live_since(contract_id: UUID) -> datetime | None:
    """When the contract went live for the first time."""
    for instant in timeline(contract_edits(contract_id)):
        if instant.state.status in RUNNING:
            return instant.at
    return None
