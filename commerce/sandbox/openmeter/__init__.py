"""OpenMeter v1: customers, catalogue, events, subscriptions, billing and custom invoicing."""

from commerce.sandbox.openmeter import catalogue, events, invoices, notifications, subscriptions
from commerce.sandbox.openmeter.base import problem, router

seed = catalogue.seed

__all__ = ["catalogue", "events", "invoices", "notifications", "problem", "router", "seed", "subscriptions"]
