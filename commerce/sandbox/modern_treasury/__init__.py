"""Modern Treasury: parties and accounts, payment orders, returns, incoming payments, events."""

from commerce.sandbox.modern_treasury import parties, payments
from commerce.sandbox.modern_treasury.base import refusal, router

seed = parties.seed

__all__ = ["parties", "payments", "refusal", "router", "seed"]
