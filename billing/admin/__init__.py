"""Billing in the console."""

from billing.admin import pages, subscriptions  # noqa: F401
