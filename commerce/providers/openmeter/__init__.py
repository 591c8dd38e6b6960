"""OpenMeter (API v1): a thin httpx client, typed, without the vendor's SDK.

Amounts are decimal strings on the wire and `Decimal` here, instants end in Z; nothing is retried.
"""

from commerce.providers.openmeter.client import INVOICE_STATUSES, TRIGGERS, OpenMeter, Prepared, client
from commerce.providers.openmeter.rate_cards import (
    FlatFee,
    PackagePrice,
    RateCard,
    Tier,
    TieredPrice,
    UnitPrice,
    UsageFee,
    carries,
)
from commerce.providers.openmeter.types import (
    NAME,
    Customer,
    Feature,
    Invoice,
    InvoiceLine,
    Meter,
    Subscription,
    SubscriptionItem,
    Usage,
)
from commerce.providers.openmeter.webhook import read_webhook, signature
from commerce.providers.openmeter.wire import decimal, instant

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
    "PackagePrice",
    "Prepared",
    "RateCard",
    "Subscription",
    "SubscriptionItem",
    "Tier",
    "TieredPrice",
    "UnitPrice",
    "Usage",
    "UsageFee",
    "carries",
    "client",
    "decimal",
    "instant",
    "read_webhook",
    "signature",
]
