"""Modern Treasury: parties and accounts, payment orders, returns, incoming payments, events."""

from commerce.sandbox.modern_treasury import bank, incoming, parties, payments
from commerce.sandbox.modern_treasury.base import refusal, router

seed = parties.seed

__all__ = ["bank", "incoming", "parties", "payments", "refusal", "router", "seed"]
