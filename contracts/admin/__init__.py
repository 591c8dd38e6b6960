"""Contracts in the console."""

from contracts.admin import bulk, catalog, pages, panels, platform_terms  # noqa: F401
