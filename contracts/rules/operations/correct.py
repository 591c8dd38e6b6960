"""correct: void an earlier edit, replace it, or take it up again. The latest correction of a target wins.

The fold reads a correction when it resolves the log; to the state it does nothing by itself. A
correction is never the target of another: to undo one, its target is reinstated or corrected anew.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from commerce.errors import Conflict, FieldError, InvalidInput, NotFound
from contracts.rules import schema
from contracts.rules.operations.base import Operation, operation
from contracts.rules.operations.create import Create
from contracts.rules.schema import Between
from contracts.rules.state import ContractState

UNSIGNED = frozenset({"none", "draft", "pending_signature"})
_BUYER = "Its buyer has signed it: transfer the ownership instead."
_SELLER = "Its seller has signed it: transfer the ownership instead."


@dataclass(frozen=True)
class Replacement:
    """What the target says instead: its operation's payload, and another instant if one is given."""

    payload: dict[str, Any]
    effective_at: datetime | None = None
    op_version: int = 1


@dataclass(frozen=True)
class Correct:
    """What was billed otherwise than the log then says is posted as a difference."""

    target_seq: Annotated[int, Between(1, 1_000_000)]
    mode: Literal["void", "replace", "reinstate"]
    replacement: Replacement | None = None


@operation
class CorrectOperation(Operation):
    name, label = "correct", "Correct"
    op_version = 2
    permission = "contracts.correct_contract"
    reason_required = True
    payload = Correct

    def allowed(self, payload: Correct) -> frozenset[str]:
        return frozenset(
            {
                "draft", "pending_signature", "pending_activation", "active", "suspended", "expired",
                "terminated", "cancelled",
            }
        )  # fmt: skip

    def needs_approval(self, state: ContractState, payload: Correct, at: datetime) -> str:
        if state.status in UNSIGNED:
            return ""
        return "What was recorded of a signed contract is corrected by two people."

    def apply(self, state: ContractState, payload: Correct, at: datetime) -> ContractState:
        return state

    def event(self, payload: Correct, before: ContractState) -> str:
        return "contract.corrected"


def check_correction(payload: Correct, log: Iterable[tuple[int, str]]) -> None:
    """Raise unless the target may be corrected so; `log` has (seq, operation) of every edit known."""
    operations = dict(log)
    name = operations.get(payload.target_seq)

    def refuse(kind: type[InvalidInput] | type[Conflict], code: str, detail: str, field: str) -> None:
        raise kind(detail, pointer=f"/{field}", code=code)

    if name is None:
        raise NotFound(
            f"The contract has no edit #{payload.target_seq}.", pointer="/target_seq", code="target_not_found"
        )
    if name == "correct":
        refuse(
            Conflict,
            "target_is_correction",
            f"Edit #{payload.target_seq} is a correction itself; correct or reinstate its target.",
            "target_seq",
        )
    if name == "create" and payload.mode == "void":
        refuse(Conflict, "cannot_void_create", "A contract's first edit can be replaced, not voided.", "mode")
    if (payload.mode == "replace") != (payload.replacement is not None):
        refuse(
            InvalidInput,
            "replacement_misplaced",
            "A replacement belongs to mode replace, and to no other.",
            "replacement",
        )


def check_replacement(operation: str, old: Any, new: Any, *, signed: bool) -> None:
    """Raise where the target's payload `new` takes back what is not to be taken back of `old`.

    A contract keeps its number and its currency; what was `signed`, its buyer and its first lines, which
    others rest on, with their sellers.
    """
    if signed and operation == "add_product" and new.seller_id != old.seller_id:
        raise schema.invalid([FieldError("/seller_id", "seller_fixed", _SELLER)])
    if operation == "create" and (faults := list(_create_faults(old, new, signed))):
        raise schema.invalid(faults)


def _create_faults(old: Create, new: Create, signed: bool) -> Iterator[FieldError]:
    if new.number != old.number:
        yield FieldError("/number", "number_fixed", f"The contract is {old.number} to its parties.")
    if new.currency != old.currency:
        yield FieldError("/currency", "currency_fixed", f"The contract is in {old.currency}.")
    if not signed:
        return
    if new.buyer_id != old.buyer_id:
        yield FieldError("/buyer_id", "buyer_fixed", _BUYER)
    sellers = {line.line_id: line.seller_id for line in old.lines}
    for i, line in enumerate(new.lines):
        if sellers.get(line.line_id, line.seller_id) != line.seller_id:
            yield FieldError(f"/lines/{i}/seller_id", "seller_fixed", _SELLER)
    dropped = {line.line_id for line in old.lines} - {line.line_id for line in new.lines}
    if dropped:
        names = ", ".join(sorted(str(line_id) for line_id in dropped))
        yield FieldError("/lines", "line_dropped", f"It was signed with {names}: remove a line instead.")
