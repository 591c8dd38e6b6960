"""The fold: a contract's state at any valid instant, as known at any instant.

Edits are sorted by the instant they take effect, ties by order of recording; the clock adds what
nobody records (a fixed term that runs out). Total and deterministic for any prefix of the log.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from commerce.errors import CommerceError
from contracts.rules import schema
from contracts.rules.operations import REGISTRY, check_allowed, named
from contracts.rules.operations.base import RUNNING
from contracts.rules.state import ContractState, evolve

FOLD_VERSION = 1
NOTHING = ContractState()


@dataclass(frozen=True)
class Edit:
    """One row of the log; `payload` is the operation's dataclass, already parsed."""

    seq: int
    operation: str
    payload: Any
    effective_at: datetime
    recorded_at: datetime
    reason: str = ""
    actor: str = ""
    id: UUID | None = None
    op_version: int = 1


@dataclass(frozen=True)
class Instant:
    """The state from `at` on, and the edits that brought it about (none when the clock did)."""

    at: datetime
    state: ContractState
    edits: tuple[Edit, ...]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.at, self.state))


def load(operation: str, payload: dict[str, Any]) -> Any:
    """A stored payload as its dataclass."""
    return schema.load(named(operation).payload, payload)


def in_order(edits: Iterable[Edit], known_at: datetime | None = None) -> list[Edit]:
    """The edits known at `known_at`, in the order in which they take effect."""
    known = (edit for edit in edits if known_at is None or edit.recorded_at <= known_at)
    return sorted(known, key=lambda edit: (edit.effective_at, edit.seq))


def fold(edits: Iterable[Edit], *, valid_at: datetime, known_at: datetime | None = None) -> ContractState:
    """The state at `valid_at` as known at `known_at` (now when absent); status "none" before create."""
    known = in_order(edits, known_at)
    state = NOTHING
    for edit in known:
        if edit.effective_at > valid_at:
            break
        state = apply(_by_clock(state, edit.effective_at), edit)
    return evolve(_by_clock(state, valid_at), version=len(known))


def timeline(edits: Iterable[Edit], known_at: datetime | None = None) -> list[Instant]:
    """Every instant at which the state changes, in order, with the state from there on."""
    known = in_order(edits, known_at)
    version = len(known)
    found: list[Instant] = []
    state = NOTHING
    for edit in known:
        found += _expiry(state, edit.effective_at, version)
        state = evolve(apply(_by_clock(state, edit.effective_at), edit), version=version)
        same = found.pop().edits if found and found[-1].at == edit.effective_at else ()
        found.append(Instant(edit.effective_at, state, (*same, edit)))
    return found + _expiry(state, None, version)


def walk(
    edits: Iterable[Edit], known_at: datetime | None = None
) -> Iterator[tuple[Edit, ContractState, ContractState]]:
    """Each edit in the order in which they take effect, with the state before and after it."""
    state = NOTHING
    for edit in in_order(edits, known_at):
        before = _by_clock(state, edit.effective_at)
        state = apply(before, edit)
        yield edit, before, state


def apply(state: ContractState, edit: Edit) -> ContractState:
    """One step of the fold; never refuses."""
    return REGISTRY[edit.operation].apply(state, edit.payload, edit.effective_at)


def check(state: ContractState, edit: Edit) -> None:
    """Raise unless `edit` may take effect on `state`: the refusals that recording asks for."""
    operation = REGISTRY[edit.operation]
    check_allowed(operation, state, edit.payload, edit.effective_at)
    operation.check(state, edit.payload, edit.effective_at)


def broken_by(later: Iterable[Edit], state: ContractState) -> list[tuple[Edit, CommerceError]]:
    """Which of the edits that lie later in valid time are no longer admitted when `state` goes before."""
    broken = []
    for edit in in_order(later):
        state = _by_clock(state, edit.effective_at)
        try:
            check(state, edit)
        except CommerceError as error:
            broken.append((edit, error))
        state = apply(state, edit)
    return broken


def _by_clock(state: ContractState, at: datetime) -> ContractState:
    if state.end_at is not None and state.status in RUNNING and at >= state.end_at:
        return evolve(state, status="expired", holds=())
    return state


def _expiry(state: ContractState, before: datetime | None, version: int) -> list[Instant]:
    """The clock's own change between `state` and `before`, if there is one."""
    if state.end_at is None or state.status not in RUNNING or (before and before <= state.end_at):
        return []
    return [Instant(state.end_at, evolve(_by_clock(state, state.end_at), version=version), ())]
