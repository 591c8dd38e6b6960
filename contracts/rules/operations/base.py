"""What an operation is, and the registry that the log, the doors and the forms read.

An operation names its payload schema, the statuses it is allowed in, its precondition and its
effect. `check` refuses and is asked when an edit is recorded; `apply` is total and never refuses,
because it also runs on edits that a later correction has made moot.
"""

from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar

from commerce.errors import InvalidInput, StateConflict
from contracts.rules.state import ContractState

P = TypeVar("P")

NAMES = (
    "create", "activate", "add_product", "remove_product", "change_quantity", "change_price",
    "apply_discount", "set_commitment", "attach_financing", "change_terms", "renew", "suspend",
    "resume", "terminate", "transfer_ownership", "correct",
)  # fmt: skip
EDITABLE = frozenset({"draft", "pending_activation", "active", "suspended"})
RUNNING = frozenset({"active", "suspended"})

REGISTRY: dict[str, "Operation[Any]"] = {}


class Operation(Generic[P]):
    """Base of every operation; subclasses are registered under `name` by `@operation`."""

    name: ClassVar[str]
    label: ClassVar[str]
    op_version: ClassVar[int] = 1
    permission: ClassVar[str] = "contracts.edit_contract"
    reason_required: ClassVar[bool] = False
    before_clock: ClassVar[bool] = False
    """Whether it comes before what the clock does at the same instant: a renewal precedes the expiry."""
    payload: type[P]

    def allowed(self, payload: P) -> frozenset[str]:
        """Statuses at `effective_at` in which the operation may be recorded."""
        return EDITABLE

    def refused_as(self, state: ContractState) -> str:
        """The code under which a status is refused that is not allowed."""
        return "invalid_state"

    def effective_at(self, payload: P, state: ContractState, at: datetime) -> datetime | None:
        """The instant that the payload itself fixes (such as the period's end), or None."""
        return None

    def needs_approval(self, state: ContractState, payload: P, at: datetime) -> str:
        """Why a second person has to agree, in words; empty when nobody has to."""
        return ""

    def check(self, state: ContractState, payload: P, at: datetime) -> None:
        """Raise when the state at `at` does not admit the payload; pointers are relative to it."""

    def check_recorded(self, state: ContractState, payload: P, at: datetime) -> None:
        """Raise when it is too late to record this at `at`, whenever it takes effect; `state` is of then."""

    def apply(self, state: ContractState, payload: P, at: datetime) -> ContractState:
        raise NotImplementedError

    def event(self, payload: P, before: ContractState) -> str:
        raise NotImplementedError

    def buyer_may(self, payload: P, state: ContractState) -> bool:
        """Whether the contract's buyer may record this through its own API key."""
        return False


def operation(cls: type[Operation[Any]]) -> type[Operation[Any]]:
    REGISTRY[cls.name] = cls()
    return cls


def named(name: str) -> Operation[Any]:
    """The operation of that name. InvalidInput (unknown_operation) for any other."""
    if name not in REGISTRY:
        raise InvalidInput(
            f"{name!r} is not an operation; known are {', '.join(REGISTRY)}.",
            pointer="/operation",
            code="unknown_operation",
        )
    return REGISTRY[name]


def check_allowed(op: Operation[P], state: ContractState, payload: P, at: datetime) -> None:
    """StateConflict (invalid_state) naming the status at `at` and the statuses that would do."""
    allowed = op.allowed(payload)
    if state.status not in allowed:
        raise StateConflict(
            f"The contract is {state.status.replace('_', ' ')} at {at:%Y-%m-%d %H:%M} UTC; "
            f"{op.label.lower()} needs it to be {' or '.join(sorted(allowed)).replace('_', ' ')}.",
            code=op.refused_as(state),
            contract_status=state.status,
            allowed=sorted(allowed),
        )
