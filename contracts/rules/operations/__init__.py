"""The operations of a contract, one class each; importing this package fills the registry."""

from contracts.rules.operations import (
    activate,
    commitment,
    correct,
    create,
    discounts,
    financing,
    holds,
    prices,
    products,
    renew,
    terminate,
    terms,
    transfer,
)
from contracts.rules.operations.base import NAMES, REGISTRY, Operation, check_allowed, named

__all__ = [
    "NAMES", "REGISTRY", "Operation", "activate", "check_allowed", "commitment", "correct", "create",
    "discounts", "financing", "holds", "named", "prices", "products", "renew", "terminate", "terms",
    "transfer",
]  # fmt: skip
