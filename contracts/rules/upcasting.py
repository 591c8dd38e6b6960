"""Stored payloads of older versions, read as today's: one pure step per operation and version.

Rows of the log are never rewritten. A version that this code does not know makes a contract readable
by nobody but a newer release: `UnknownVersion` says so instead of guessing.
"""

from collections.abc import Callable
from typing import Any

from commerce.errors import CommerceError
from contracts.rules import schema
from contracts.rules.operations import named

Payload = dict[str, Any]
Step = Callable[[Payload], Payload]

_steps: dict[tuple[str, int], Step] = {}


class UnknownVersion(CommerceError):
    """The log was written by a newer release."""

    status = 409
    code = "unknown_op_version"


def upcaster(operation: str, version: int) -> Callable[[Step], Step]:
    """Register a step from `version` of an operation's payload to the next one."""

    def register(step: Step) -> Step:
        _steps[operation, version] = step
        return step

    return register


def load(operation: str, payload: Payload, op_version: int = 1) -> Any:
    """A stored payload as its operation's dataclass of today."""
    op = named(operation)
    if op_version > op.op_version:
        raise UnknownVersion(
            f"Version {op_version} of {operation} is newer than this release knows ({op.op_version})."
        )
    for version in range(op_version, op.op_version):
        payload = _steps[operation, version](payload)
    return schema.load(op.payload, payload)


@upcaster("correct", 1)
def _without_money(payload: Payload) -> Payload:
    """Whether a difference was posted could be said once, and was never asked."""
    return {name: value for name, value in payload.items() if name != "money"}
