"""Contracts in the console."""

from contracts.admin import agreeing, bulk, catalog, pages, panels, platform_terms, schedule, service  # noqa: F401
