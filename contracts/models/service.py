"""What machines and contracts report of units, and what that comes to now.

`ServiceEvent` is the truth and append-only; `UnitStatus` is its fold at `projected_at`, kept in the same
transaction. A unit is looked at per line that it serves: sold again, it begins anew.
"""

from datetime import datetime
from typing import Any

from django.db import models
from django.db.models import Q

from commerce.ids import uuid7
from commerce.parties.models import Organization
from contracts.models.log import Contract
from contracts.rules.service import REPORTED, VOID, WORST_FIRST

_WORDS = {state: state.replace("_", " ").capitalize() for state in REPORTED}


class ServiceEvent(models.Model):
    """One report on a unit, known by its reporter, its source and the source's own id.

    A correction says what another should have said.
    """

    append_only = True
    own_guards = ("guard_corrects",)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    contract = models.ForeignKey(Contract, models.PROTECT, related_name="service_events", db_index=False)
    line_id = models.UUIDField()
    unit_id = models.CharField(max_length=120, help_text="As the data centre names it.")
    at = models.DateTimeField(help_text="Business time from which it was so.")
    received_at = models.DateTimeField(help_text="Business time at which we were told.")
    recorded_at = models.DateTimeField(help_text="Database time.")
    state = models.CharField(max_length=20, choices=list(_WORDS.items()))
    source = models.CharField(max_length=120)
    source_event_id = models.CharField(max_length=200)
    corrects = models.ForeignKey(
        "self", models.PROTECT, null=True, blank=True, related_name="corrections", db_index=False
    )
    detail = models.JSONField(default=dict)
    actor = models.CharField(max_length=200)
    reporter = models.ForeignKey(
        Organization, models.PROTECT, null=True, blank=True, related_name="+", db_index=False,
        help_text="Whose key reported it; nobody's when we did.",
    )  # fmt: skip

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=["unit_id", "source", "source_event_id", "reporter"],
                nulls_distinct=False,
                name="service_event_once",
            ),
            models.CheckConstraint(condition=Q(state__in=REPORTED), name="service_event_state_known"),
            models.CheckConstraint(
                condition=~Q(state=VOID) | Q(corrects__isnull=False), name="service_event_void_corrects"
            ),
        )
        indexes = (
            models.Index(fields=["contract", "line_id", "unit_id", "at"], name="service_event_of_unit"),
            models.Index(fields=["contract", "-id"], name="service_event_of_contract"),
            models.Index(
                fields=["corrects"], name="service_event_corrects", condition=Q(corrects__isnull=False)
            ),
            models.Index(fields=["state", "-id"], name="service_event_by_state"),
        )
        permissions = (("record_serviceevent", "Can report what units are doing"),)

    def __str__(self) -> str:
        return f"{self.unit_id}: {self.get_state_display().lower()}"


class UnitStatusQuerySet(models.QuerySet["UnitStatus"]):
    def due(self, at: datetime) -> "UnitStatusQuerySet":
        """Units that the clock has overtaken, longest overdue first."""
        return self.filter(next_due_at__lte=at).order_by("next_due_at")


class UnitStatus(models.Model):
    """A unit on a line, as its reports have it; never set by hand."""

    class State(models.TextChoices):
        DOWN = "down", "Down"
        ACCESS_BLOCKED = "access_blocked", "Access blocked"
        DEGRADED = "degraded", "Degraded"
        MAINTENANCE = "maintenance", "Maintenance"
        PROVISIONING = "provisioning", "Provisioning"
        IN_SERVICE = "in_service", "In service"
        NOT_STARTED = "not_started", "Not started"
        DEPROVISIONING = "deprovisioning", "Deprovisioning"
        RELEASED = "released", "Released"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    contract = models.ForeignKey(Contract, models.PROTECT, related_name="units", db_index=False)
    line_id = models.UUIDField()
    unit_id = models.CharField(max_length=120)
    state = models.CharField(max_length=20, choices=State.choices, default=State.NOT_STARTED.value)
    since = models.DateTimeField(null=True, blank=True)
    first_at = models.DateTimeField(null=True, blank=True, help_text="Of the first report that counts.")
    irregular = models.PositiveIntegerField(
        default=0, help_text="Reports that no declared transition leads to."
    )
    serving = models.BooleanField(
        default=False, help_text="It has begun its service and not ended it, whatever failed in between."
    )
    projected_at = models.DateTimeField(help_text="Business instant whose state this row shows.")
    next_due_at = models.DateTimeField(
        null=True, blank=True, help_text="When the state may change without a new report."
    )

    objects = UnitStatusQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "unit statuses"
        constraints = (
            models.UniqueConstraint(fields=["contract", "line_id", "unit_id"], name="unit_status_once"),
            models.CheckConstraint(condition=Q(state__in=WORST_FIRST), name="unit_status_state_known"),
        )
        indexes = (
            models.Index(fields=["unit_id"], name="unit_status_of_unit", opclasses=["text_pattern_ops"]),
            models.Index(fields=["state", "-id"], name="unit_status_by_state"),
            models.Index(
                fields=["next_due_at"], name="unit_status_due", condition=Q(next_due_at__isnull=False)
            ),
        )

    def __str__(self) -> str:
        return self.unit_id

    @property
    def track(self) -> tuple[Any, Any, str]:
        """What a fold is of: this unit on this line of this contract."""
        return self.contract_id, self.line_id, self.unit_id
