"""OpenMeter's words: what we send and what we read, checked where it enters.

Answers become frozen dataclasses with the fields we use; `raw` keeps the whole for display and for
read-modify-write. Unknown fields and states pass, missing or misshapen ones of ours do not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from commerce.providers import http
from commerce.providers.openmeter.rate_cards import RateCard, bills_as
from commerce.providers.openmeter.wire import Json, instant

NAME = "openmeter"


@dataclass(frozen=True)
class Customer:
    id: str
    key: str
    name: str
    currency: str
    raw: Json = field(repr=False, compare=False)


@dataclass(frozen=True)
class Meter:
    """How usage events of one type add up. `value_property` is a JSONPath into the event's data."""

    slug: str
    event_type: str
    value_property: str
    aggregation: str = "SUM"
    group_by: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> Json:
        return {
            "slug": self.slug,
            "eventType": self.event_type,
            "aggregation": self.aggregation,
            "valueProperty": self.value_property,
            "groupBy": dict(self.group_by),
        }


@dataclass(frozen=True)
class Feature:
    """What a rate card prices. A usage price needs one with a meter, of which `filters` picks the
    groups that count; keys are [a-z0-9_]."""

    key: str
    name: str
    meter_slug: str = ""
    filters: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> Json:
        body: Json = {"key": self.key, "name": self.name}
        if self.meter_slug:
            body["meterSlug"] = self.meter_slug
        if self.filters:
            body["meterGroupByFilters"] = dict(self.filters)
        return body


@dataclass(frozen=True)
class SubscriptionItem:
    """Ids of items change with every edit; `phase_key` and `key` are what lasts."""

    id: str
    key: str
    phase_key: str
    name: str
    active_from: datetime | None
    active_to: datetime | None
    raw: Json = field(repr=False, compare=False)

    def bills_as(self, card: RateCard) -> bool:
        """Whether it costs exactly what `card` says."""
        return bills_as(self.raw, card)


@dataclass(frozen=True)
class Subscription:
    """`items` is filled when one subscription is read, and empty in lists.

    `period_end` is where its current billing period ends, as far as it tells.
    """

    id: str
    customer_id: str
    status: str
    currency: str
    active_from: datetime
    active_to: datetime | None
    period_end: datetime | None
    metadata: dict[str, str]
    items: tuple[SubscriptionItem, ...]
    raw: Json = field(repr=False, compare=False)

    @property
    def current_items(self) -> tuple[SubscriptionItem, ...]:
        """The items that are served now, or will be: those without an end."""
        return tuple(item for item in self.items if item.active_to is None)


@dataclass(frozen=True)
class Usage:
    """One CloudEvent. `id` and `source` together are its identity; decimals in `data` are strings."""

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    data: Mapping[str, str]

    def as_json(self) -> Json:
        return {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
            "time": instant(self.time),
            "data": dict(self.data),
        }


@dataclass(frozen=True)
class InvoiceLine:
    """`net` is before tax, with discounts and commitments. The item of `item_id` has the card's key."""

    id: str
    name: str
    feature_key: str
    period_start: datetime
    period_end: datetime
    quantity: Decimal | None
    metered_quantity: Decimal | None
    net: Decimal
    total: Decimal
    subscription_id: str
    item_id: str
    raw: Json = field(repr=False, compare=False)


@dataclass(frozen=True)
class Invoice:
    """`extended_status` is the machine's own state, such as "issuing.syncing"."""

    id: str
    number: str
    status: str
    extended_status: str
    failed: bool
    currency: str
    customer_id: str
    customer_key: str
    period_start: datetime | None
    period_end: datetime | None
    issued_at: datetime | None
    due_at: datetime | None
    updated_at: datetime
    net: Decimal
    taxes: Decimal
    total: Decimal
    invoicing_app: str
    validation_issues: tuple[str, ...]
    lines: tuple[InvoiceLine, ...]
    raw: Json = field(repr=False, compare=False)

    @property
    def subscription_ids(self) -> frozenset[str]:
        return frozenset(line.subscription_id for line in self.lines if line.subscription_id)


def _when(row: Json, name: str) -> datetime | None:
    value = row.get(name)
    if not value:
        return None
    when = datetime.fromisoformat(value)
    if when.tzinfo is None:
        raise ValueError(f"{name} has no offset")
    return when.astimezone(UTC)


def _due(row: Json, name: str) -> datetime:
    value = _when(row, name)
    if value is None:
        raise KeyError(name)
    return value


def _number(row: Json, name: str) -> Decimal:
    value = row[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a decimal string")
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError(f"{name} is not finite")
    return number


def _net(totals: Json) -> Decimal:
    """What is owed without tax. Their `amount` leaves discounts and commitments out."""
    return _number(totals, "total") - _number(totals, "taxesTotal")


def read_customer(row: Json) -> Customer:
    try:
        return Customer(row["id"], row.get("key") or "", row["name"], row.get("currency") or "", row)
    except KeyError:
        raise http.malformed(NAME, "a customer that is none") from None


def read_subscription(row: Json) -> Subscription:
    try:
        return Subscription(
            id=row["id"],
            customer_id=row["customerId"],
            status=row["status"],
            currency=row["currency"],
            active_from=_due(row, "activeFrom"),
            active_to=_when(row, "activeTo"),
            period_end=_when((row.get("alignment") or {}).get("currentAlignedBillingPeriod") or {}, "to"),
            metadata=dict(row.get("metadata") or {}),
            items=tuple(
                SubscriptionItem(
                    id=item["id"],
                    key=item["key"],
                    phase_key=phase["key"],
                    name=item["name"],
                    active_from=_when(item, "activeFrom"),
                    active_to=_when(item, "activeTo"),
                    raw=item,
                )
                for phase in row.get("phases") or []
                for item in _all_items(phase)
            ),
            raw=row,
        )
    except (KeyError, TypeError, ValueError):
        raise http.malformed(NAME, f"a subscription that is none: {row.get('id')!r}") from None


def _all_items(phase: Json) -> list[Json]:
    """Current and former items of a phase, so that an old invoice line still finds its own."""
    timelines = phase.get("itemTimelines") or {}
    items = [*(phase.get("items") or []), *(item for line in timelines.values() for item in line)]
    return list({item["id"]: item for item in items}.values())


def _line(row: Json) -> InvoiceLine:
    period, card, subscription = row["period"], row.get("rateCard") or {}, row.get("subscription") or {}
    return InvoiceLine(
        id=row["id"],
        name=row["name"],
        feature_key=card.get("featureKey") or row.get("featureKey") or "",
        period_start=_due(period, "from"),
        period_end=_due(period, "to"),
        quantity=_number(row, "quantity") if row.get("quantity") is not None else None,
        metered_quantity=_number(row, "meteredQuantity") if row.get("meteredQuantity") is not None else None,
        net=_net(row["totals"]),
        total=_number(row["totals"], "total"),
        subscription_id=(subscription.get("subscription") or {}).get("id", ""),
        item_id=(subscription.get("item") or {}).get("id", ""),
        raw=row,
    )


def read_invoice(row: Json) -> Invoice:
    try:
        details, totals, customer = row["statusDetails"], row["totals"], row["customer"]
        period = row.get("period") or {}
        apps = (row.get("workflow") or {}).get("apps") or {}
        return Invoice(
            id=row["id"],
            number=row["number"],
            status=row["status"],
            extended_status=details["extendedStatus"],
            failed=details["failed"] is True,
            currency=row["currency"],
            customer_id=customer.get("id") or "",
            customer_key=customer.get("key") or "",
            period_start=_when(period, "from"),
            period_end=_when(period, "to"),
            issued_at=_when(row, "issuedAt"),
            due_at=_when(row, "dueAt"),
            updated_at=_due(row, "updatedAt"),
            net=_net(totals),
            taxes=_number(totals, "taxesTotal"),
            total=_number(totals, "total"),
            invoicing_app=(apps.get("invoicing") or {}).get("type", ""),
            validation_issues=tuple(
                f"{issue.get('code')}: {issue.get('message')}" for issue in row.get("validationIssues") or []
            ),
            lines=tuple(_line(line) for line in row.get("lines") or [] if not line.get("deletedAt")),
            raw=row,
        )
    except (KeyError, TypeError, ValueError, AttributeError, InvalidOperation):
        raise http.malformed(NAME, f"an invoice that is none: {row.get('id')!r}") from None
