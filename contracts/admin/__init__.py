"""Contracts in the console."""

from contracts.admin import bulk, catalog, pages, panels, platform_terms, service  # noqa: F401
