"""Contracts in the console."""

from contracts.admin import pages, panels, platform_terms  # noqa: F401
