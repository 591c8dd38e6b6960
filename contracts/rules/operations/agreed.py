"""What the parties signed: lines, prices, discounts, commitments and loans; edits of these ask for it anew.

Before it is signed a contract is a draft, and everything in it begins with the contract.
"""

from datetime import datetime
from typing import TypeVar
from uuid import UUID

from commerce.errors import Conflict, InvalidInput, NotFound
from contracts.rules.operations.base import Operation
from contracts.rules.state import ContractState, LineState, Scope, evolve

P = TypeVar("P")


class AgreedOperation(Operation[P]):
    """Edits after signature ask the parties to sign again before the contract goes live."""

    def resigned(self, state: ContractState) -> ContractState:
        return evolve(state, needs_resign=True) if state.status == "pending_activation" else state


def live_line(state: ContractState, line_id: UUID, pointer: str = "/line_id") -> LineState:
    """The line. NotFound (line_not_found), or Conflict (line_not_live) when it was removed."""
    line = state.lines.get(line_id)
    if line is None:
        raise NotFound(f"The contract has no line {line_id}.", pointer=pointer, code="line_not_found")
    if not line.live:
        raise Conflict(f"Line {line_id} was removed.", pointer=pointer, code="line_not_live")
    return line


def lines_of(state: ContractState, scope: Scope, pointer: str = "/scope") -> list[LineState]:
    """The live lines that a scope names. NotFound or Conflict for one that is not, or for no line at all."""
    if scope == "all":
        return state.live_lines
    if not scope:
        raise NotFound("Name at least one line.", pointer=pointer, code="line_not_found")
    if len(set(scope)) < len(scope):
        raise InvalidInput("A line is named twice.", pointer=pointer, code="scope_invalid")
    return [live_line(state, line_id, f"{pointer}/{i}") for i, line_id in enumerate(scope)]


def begins(state: ContractState, at: datetime) -> datetime:
    """When what is agreed at `at` begins: not before the contract does."""
    return max(at, state.start_at) if state.start_at else at


def check_currency(state: ContractState, currency: str, pointer: str) -> None:
    """InvalidInput (currency_mismatch) for any but the contract's; "" is the contract's."""
    if currency not in ("", state.currency):
        raise InvalidInput(
            f"The contract is in {state.currency}, this is in {currency}.",
            pointer=pointer,
            code="currency_mismatch",
        )
