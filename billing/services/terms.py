"""Reading a contract at an instant, for whatever billing needs of its terms and owners."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Max, QuerySet

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


@dataclass(frozen=True)
class Owner:
    """One buyer's time of a contract: [since, until), without end when `until` is None.

    `epoch` counts the owners, and a correction may give one's number to another. `turn` counts the times
    of this buyer: what is kept of an owner is found by the buyer and the turn.
    """

    epoch: int
    buyer_id: UUID
    since: datetime
    turn: int = 1
    until: datetime | None = None

    @property
    def key(self) -> dict[str, Any]:
        """What finds the rows that are kept of this owner among those of its contract."""
        return {"buyer_id": self.buyer_id, "turn": self.turn}


def owners(edits: Sequence[Edit]) -> list[Owner]:
    """The buyers of a contract, one after the other, as known now."""
    found: list[Owner] = []
    for step in timeline(edits):
        if not found or found[-1].epoch != step.state.owner_epoch:
            if found:
                found[-1] = replace(found[-1], until=step.at)
            buyer_id = step.state.buyer_id
            turn = 1 + sum(owner.buyer_id == buyer_id for owner in found)
            found.append(Owner(step.state.owner_epoch, buyer_id, step.at, turn))
    return found


def owner_of(edits: Sequence[Edit], buyer_id: UUID, turn: int) -> Owner | None:
    """That time of that buyer; None when a correction has taken it away."""
    found = (owner for owner in owners(edits) if (owner.buyer_id, owner.turn) == (buyer_id, turn))
    return next(found, None)


def owner_at(edits: Sequence[Edit], at: datetime) -> Owner:
    """Whose time `at` is; the first owner's before the contract."""
    found = owners(edits)
    return next((owner for owner in reversed(found) if owner.since <= at), found[0])


def next_ordinal(rows: QuerySet[Any]) -> int:
    """The `owner_epoch` of another row of a contract's: no two owners ever have the same."""
    return (rows.aggregate(last=Max("owner_epoch"))["last"] or 0) + 1
