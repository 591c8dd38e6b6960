"""What each line earned when, and when we knew it: the log's projection for questions asked in SQL."""

from django.contrib.postgres.fields import DateTimeRangeField
from django.db import models
from django.db.models import Q

from contracts.models.log import Contract


class LineSegment(models.Model):
    """One line at one quantity and price over `valid`, as known over `known`: never changed, only superseded.

    `share` is the part of its price that it earns. At no instant of either clock does a line have two: the
    migration's exclusion constraint keeps them apart.
    """

    updatable_only = ("known",)

    id = models.BigAutoField(primary_key=True)
    contract = models.ForeignKey(Contract, models.PROTECT, related_name="segments")
    line_id = models.UUIDField()
    valid = DateTimeRangeField(help_text="Business time, half-open; without end while nothing ends it.")
    known = DateTimeRangeField(help_text="Database time, half-open; without end while nothing supersedes it.")
    product_code = models.CharField(max_length=60)
    seller_id = models.UUIDField()
    buyer_id = models.UUIDField()
    quantity = models.PositiveIntegerField()
    share = models.DecimalField(max_digits=14, decimal_places=12)
    price = models.JSONField()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(share__gt=0, share__lte=1) & Q(quantity__gt=0), name="segment_earns"
            ),
            models.CheckConstraint(
                condition=Q(valid__isempty=False) & Q(known__isempty=False), name="segment_lasts"
            ),
        )
        indexes = (
            models.Index(fields=["contract"], name="segment_current", condition=Q(known__upper_inf=True)),
            models.Index(fields=["seller_id", "-id"], name="segment_of_seller"),
        )

    def __str__(self) -> str:
        return f"{self.quantity} × {self.product_code}"
