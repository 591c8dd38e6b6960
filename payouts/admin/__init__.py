"""Payouts in the console."""

from payouts.admin import pages, panels  # noqa: F401
