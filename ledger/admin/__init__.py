"""The ledger in the console. Everything is read-only but what services do: releases, and periods."""

from ledger.admin import accounts, archives, periods, releases, reports  # noqa: F401
from ledger.admin.transactions import postings

__all__ = ["postings"]
