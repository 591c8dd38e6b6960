"""Contracts in the console."""

from contracts.admin import pages, panels  # noqa: F401
