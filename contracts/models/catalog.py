"""What can be rented out, what sellers ask for it, and the units that contract lines have taken.

An offer is never rewritten: another price is another version of it, and its versions share one stock.
A trigger counts reservations into the stock, and a constraint keeps them within its capacity.
"""

from datetime import datetime
from typing import Any, ClassVar

from django.db import models
from django.db.models import F, Q
from django_fsm import FSMField, transition

from commerce.ids import uuid7
from commerce.parties.models import Organization
from contracts.models.log import Contract
from contracts.rules import schema
from contracts.rules.schema import instant
from contracts.rules.state import Price


class Product(models.Model):
    """What can be rented: by the month, by metered use, or once."""

    class Kind(models.TextChoices):
        RECURRING = "recurring", "Recurring"
        USAGE = "usage", "Usage"
        ONE_OFF = "one_off", "One-off"

    class Unit(models.TextChoices):
        SERVER_MONTH = "server_month", "server-month"
        GPU_MONTH = "gpu_month", "GPU-month"
        RACK_MONTH = "rack_month", "rack-month"
        GB_MONTH = "gb_month", "GB-month"
        DEVICE_HOUR = "device_hour", "device-hour"
        GPU_HOUR = "gpu_hour", "GPU-hour"
        GB = "gb", "GB"
        REQUEST = "request", "request"
        EACH = "each", "each"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    code = models.SlugField(max_length=60, unique=True)
    name = models.CharField(max_length=120)
    description = models.TextField(max_length=2000, blank=True, default="")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    unit = models.CharField(max_length=20, choices=Unit.choices)
    meter = models.CharField(
        max_length=64, blank=True, default="", help_text="Slug of the meter whose reading is billed."
    )
    active = models.BooleanField(default=True, help_text="Whether new lines may use it.")

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(kind="usage") & ~Q(meter="") | ~Q(kind="usage") & Q(meter=""),
                name="usage_products_have_a_meter",
                violation_error_message="A usage product needs a meter, others have none.",
            ),
        )

    def __str__(self) -> str:
        return self.name


class Stock(models.Model):
    """How many units a seller rents out under one offer, all versions together, and how many are taken."""

    updatable_only = ("capacity", "held", "committed")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    capacity = models.PositiveBigIntegerField(null=True, blank=True, help_text="Without limit when empty.")
    held = models.PositiveBigIntegerField(default=0)
    committed = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(capacity=None) | Q(capacity__gte=F("held") + F("committed")),
                name="stock_within_capacity",
            ),
        )

    @property
    def free(self) -> int | None:
        """Units that nobody has taken; None when there is no limit."""
        return None if self.capacity is None else self.capacity - self.held - self.committed


class Offer(models.Model):
    """One version of what a seller asks for a product. Lines keep what they were sold as."""

    aggregate_type: ClassVar[str] = "offer"
    updatable_only = ("status", "published_at", "withdrawn_at")

    class Status(models.TextChoices):
        DRAFT = "draft", "Draft"
        LIVE = "live", "Live"
        WITHDRAWN = "withdrawn", "Withdrawn"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    seller = models.ForeignKey(Organization, models.PROTECT, related_name="offers")
    product = models.ForeignKey(Product, models.PROTECT, related_name="offers")
    stock = models.ForeignKey(Stock, models.PROTECT, related_name="offers")
    code = models.SlugField(max_length=60, help_text="The seller's own name for it.")
    version = models.PositiveSmallIntegerField(default=1)
    supersedes = models.OneToOneField(
        "self", models.PROTECT, null=True, blank=True, related_name="superseded_by"
    )
    currency = models.CharField(max_length=3)
    price = models.JSONField()
    valid_from = models.DateTimeField(help_text="Lines may be added from then on.")
    valid_to = models.DateTimeField(null=True, blank=True, help_text="And no more from then on.")
    min_term_months = models.PositiveSmallIntegerField(null=True, blank=True)
    sla_policy = models.CharField(max_length=60, blank=True, default="")
    tax_code = models.CharField(max_length=60, blank=True, default="")
    terms = models.TextField(max_length=5000, blank=True, default="", help_text="In the seller's words.")
    status = FSMField(max_length=12, default=Status.DRAFT.value, choices=Status.choices)
    created_at = models.DateTimeField()
    published_at = models.DateTimeField(null=True, blank=True)
    withdrawn_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=["seller", "code", "version"], name="offer_version_once"),
            models.UniqueConstraint(fields=["stock"], condition=Q(status="live"), name="offer_live_once"),
            models.UniqueConstraint(fields=["stock"], condition=Q(status="draft"), name="offer_draft_once"),
            models.CheckConstraint(
                condition=Q(version=1, supersedes=None) | Q(version__gt=1, supersedes__isnull=False),
                name="offer_supersedes_one",
            ),
            models.CheckConstraint(
                condition=Q(valid_to=None) | Q(valid_to__gt=F("valid_from")), name="offer_window_sound"
            ),
            models.CheckConstraint(
                condition=Q(status="draft", published_at=None, withdrawn_at=None)
                | Q(status="live", published_at__isnull=False, withdrawn_at=None)
                | Q(status="withdrawn", withdrawn_at__isnull=False),
                name="offer_instants_follow_status",
            ),
        )
        indexes = (
            models.Index(fields=["status", "-id"], name="offer_by_status"),
            models.Index(fields=["seller", "-id"], name="offer_of_seller"),
            models.Index(fields=["product", "-id"], name="offer_of_product"),
        )
        permissions = (
            ("edit_offer", "Can create and revise offers"),
            ("publish_offer", "Can publish offers"),
            ("withdraw_offer", "Can withdraw offers"),
        )

    def __str__(self) -> str:
        return f"{self.code} v{self.version}"

    @property
    def asked(self) -> Price:
        """The price as a value."""
        return schema.load(Price, self.price)

    def event_payload(self) -> dict[str, Any]:
        return {
            "offer_id": str(self.pk),
            "seller_id": str(self.seller_id),
            "product": self.product.code,
            "code": self.code,
            "version": self.version,
            "supersedes": str(self.supersedes_id) if self.supersedes_id else None,
            "currency": self.currency,
            "price": self.price,
            "valid_from": instant(self.valid_from),
            "valid_to": instant(self.valid_to) if self.valid_to else None,
            "status": self.status,
        }

    @transition(
        field=status,
        source="draft",
        target="live",
        permission="contracts.publish_offer",
        custom={"event": "offer.published"},
    )
    def publish(self, *, published_at: datetime) -> None:
        """Lines may be sold on it."""
        self.published_at = published_at

    @transition(
        field=status,
        source=["draft", "live"],
        target="withdrawn",
        permission="contracts.withdraw_offer",
        custom={"event": "offer.withdrawn"},
    )
    def withdraw(self, *, withdrawn_at: datetime) -> None:
        """No new line may use it; lines that were sold on it go on."""
        self.withdrawn_at = withdrawn_at


class ReservationQuerySet(models.QuerySet["Reservation"]):
    def open(self) -> "ReservationQuerySet":
        return self.filter(status__in=Reservation.OPEN)

    def expired(self, at: datetime) -> "ReservationQuerySet":
        """Holds whose time has come, longest overdue first."""
        return self.filter(status="held", expires_at__lte=at).order_by("expires_at")


class Reservation(models.Model):
    """Units of an offer that one line of a contract has taken: held while it is drawn up, then committed."""

    aggregate_type: ClassVar[str] = "reservation"
    updatable_only = ("quantity", "status", "expires_at", "committed_at", "released_at")
    OPEN: ClassVar[tuple[str, ...]] = ("held", "committed")

    class Status(models.TextChoices):
        HELD = "held", "Held"
        COMMITTED = "committed", "Committed"
        RELEASED = "released", "Released"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    offer = models.ForeignKey(Offer, models.PROTECT, related_name="reservations")
    contract = models.ForeignKey(Contract, models.PROTECT, related_name="reservations")
    line_id = models.UUIDField()
    quantity = models.PositiveIntegerField()
    status = FSMField(max_length=12, default=Status.HELD.value, choices=Status.choices)
    held_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Of a hold.")
    committed_at = models.DateTimeField(null=True, blank=True)
    released_at = models.DateTimeField(null=True, blank=True)

    objects = ReservationQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=["contract", "line_id", "offer"],
                condition=Q(status__in=("held", "committed")),
                name="reservation_open_once",
            ),
            models.CheckConstraint(condition=Q(quantity__gte=1), name="reservation_quantity_positive"),
            models.CheckConstraint(
                condition=Q(status="held", expires_at__isnull=False)
                | (~Q(status="held") & Q(expires_at=None)),
                name="reservation_holds_expire",
            ),
        )
        indexes = (
            models.Index(fields=["expires_at"], name="reservation_expiring", condition=Q(status="held")),
            models.Index(fields=["offer", "-id"], name="reservation_of_offer"),
            models.Index(fields=["status", "-id"], name="reservation_by_status"),
        )
        permissions = (("release_reservation", "Can release held units"),)

    def __str__(self) -> str:
        return f"{self.quantity} × {self.offer}"

    @transition(field=status, source="held", target="committed")
    def commit(self, *, committed_at: datetime) -> None:
        """Every party has signed."""
        self.committed_at, self.expires_at = committed_at, None

    @transition(field=status, source=["held", "committed"], target="released")
    def release(self, *, released_at: datetime) -> None:
        """The line needs the units no longer, or the hold's time is over."""
        self.released_at, self.expires_at = released_at, None


class ReservedUnit(models.Model):
    """A unit of a seller that an open reservation names; gone when it is released."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    reservation = models.ForeignKey(Reservation, models.PROTECT, related_name="units")
    seller = models.ForeignKey(Organization, models.PROTECT, related_name="+")
    unit_id = models.CharField(max_length=200)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["seller", "unit_id"], name="unit_reserved_once"),)

    def __str__(self) -> str:
        return self.unit_id
