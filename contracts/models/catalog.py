"""What can be rented out."""

from django.db import models
from django.db.models import Q

from commerce.ids import uuid7


class Product(models.Model):
    """What can be rented: by the month, or by metered use."""

    class Kind(models.TextChoices):
        RECURRING = "recurring", "Recurring"
        USAGE = "usage", "Usage"

    class Unit(models.TextChoices):
        SERVER_MONTH = "server_month", "server-month"
        DEVICE_HOUR = "device_hour", "device-hour"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    code = models.SlugField(max_length=60, unique=True)
    name = models.CharField(max_length=120)
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
                condition=Q(kind="usage") & ~Q(meter="") | Q(kind="recurring", meter=""),
                name="usage_products_have_a_meter",
                violation_error_message="A usage product needs a meter, a recurring one has none.",
            ),
        )

    def __str__(self) -> str:
        return self.name
