"""OpenMeter (API v1): a thin httpx client, typed, without the vendor's SDK.

Amounts are decimal strings on the wire and `Decimal` here, instants end in Z; nothing is retried.
"""

from commerce.providers.openmeter.client import INVOICE_STATUSES, TRIGGERS, OpenMeter, Prepared, client
from commerce.providers.openmeter.types import (
    NAME,
    Customer,
    Feature,
    FlatFee,
    Invoice,
    InvoiceLine,
    Meter,
    RateCard,
    Subscription,
    SubscriptionItem,
    UnitPrice,
    Usage,
    decimal,
    instant,
)
from commerce.providers.openmeter.webhook import read_webhook, signature

__all__ = [
    "INVOICE_STATUSES",
    "NAME",
    "TRIGGERS",
    "Customer",
    "Feature",
    "FlatFee",
    "Invoice",
    "InvoiceLine",
    "Meter",
    "OpenMeter",
    "Prepared",
    "RateCard",
    "Subscription",
    "SubscriptionItem",
    "UnitPrice",
    "Usage",
    "client",
    "decimal",
    "instant",
    "read_webhook",
    "signature",
]
