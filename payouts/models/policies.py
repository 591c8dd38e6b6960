"""How a payee is paid; its row is also what everything that pays one payee locks first."""

from django.db import models
from django.db.models import Q

from commerce.ids import uuid7
from commerce.parties.models import Organization, ProviderReference


class PayeePolicy(models.Model):
    """How a payee is paid. Its row lock puts everything that pays one payee in a line."""

    class Mode(models.TextChoices):
        AUTOMATIC = "automatic", "automatic, on release"
        SCHEDULED = "scheduled", "on a schedule"
        ON_REQUEST = "on_request", "on request"

    class Cadence(models.TextChoices):
        WEEKLY = "weekly"
        MONTHLY = "monthly"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.OneToOneField(Organization, on_delete=models.PROTECT, related_name="payee_policy")
    mode = models.CharField(max_length=12, choices=Mode.choices, default=Mode.AUTOMATIC)
    cadence = models.CharField(max_length=8, choices=Cadence.choices, blank=True, default="")
    day = models.PositiveSmallIntegerField(
        null=True, help_text="Weekly: 1 Monday to 7 Sunday. Monthly: day of the month, clamped."
    )
    minimum_minor = models.BigIntegerField(default=0, help_text="Smaller sums wait, in each currency.")
    due_at = models.DateTimeField(null=True, help_text="Business time of the next run, if one is due.")
    blocked_account = models.ForeignKey(
        ProviderReference,
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
        help_text="Payouts to this bank account came back; none goes there until somebody unblocks it.",
    )
    blocked_reason = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        verbose_name_plural = "payee policies"
        constraints = (
            models.CheckConstraint(
                condition=Q(mode="scheduled", day__isnull=False, due_at__isnull=False) & ~Q(cadence="")
                | ~Q(mode="scheduled") & Q(cadence="", day__isnull=True),
                name="policy_schedule_complete",
            ),
            models.CheckConstraint(
                condition=Q(day__isnull=True)
                | Q(cadence="weekly", day__range=(1, 7))
                | Q(cadence="monthly", day__range=(1, 31)),
                name="policy_day_in_range",
            ),
            models.CheckConstraint(condition=Q(minimum_minor__gte=0), name="policy_minimum_not_negative"),
        )
        indexes = (models.Index(fields=["due_at"], name="policy_due", condition=Q(due_at__isnull=False)),)
        permissions = (
            ("operate_payeepolicy", "Can change how a payee is paid and unblock its bank account"),
        )

    def __str__(self) -> str:
        return f"{self.organization}: {self.get_mode_display()}"
