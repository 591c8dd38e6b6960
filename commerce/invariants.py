"""The registry behind `manage.py verify`: what must be true of the database at any time.

A check is a generator of findings, set-based and bounded in time; it reads and never repairs.
The codes are those of docs/operations.md (I1 the ledger sums to zero, I2 nobody overdrawn, …).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One violation: the row it concerns ("table:id") and a sentence an operator understands."""

    subject: str
    detail: str
    data: dict[str, Any] = field(default_factory=dict)


Check = Callable[[], Iterator[Finding]]


@dataclass(frozen=True)
class Invariant:
    code: str
    title: str
    check: Check


REGISTRY: list[Invariant] = []


def invariant(code: str, title: str) -> Callable[[Check], Check]:
    """Register a check under an invariant's code; several checks may share one code."""

    def register(check: Check) -> Check:
        REGISTRY.append(Invariant(code, title, check))
        return check

    return register
