"""What a contract's log implies for later instants: its scheduled commands.

A row is made, moved and withdrawn in the transaction of the edit that implies it. Its unique `key` is
also the idempotency key of the edit that it records, so that nothing is ever done twice.
"""

from datetime import datetime
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django_fsm import FSMField, transition

from commerce.ids import uuid7
from contracts.models.log import Contract
from contracts.rules.operations import NAMES


class ScheduledCommandQuerySet(models.QuerySet["ScheduledCommand"]):
    def due(self, at: datetime) -> "ScheduledCommandQuerySet":
        """Commands whose instant has come and that nobody has carried out."""
        return self.filter(status=ScheduledCommand.Status.PLANNED, due_at__lte=at)


class ScheduledCommand(models.Model):
    """One thing to do for a contract at `due_at`, as of that instant however late it is done.

    `operation` is what it records in the log with `payload`; empty for one that only tells somebody.
    """

    aggregate_type: ClassVar[str] = "scheduled_command"
    updatable_only = (
        "due_at", "payload", "status", "attempts", "last_error", "retry_at", "result_seq", "planned_at",
        "finished_at",
    )  # fmt: skip

    class Kind(models.TextChoices):
        NOTICE = "notice", "Renewal notice"
        OPT_OUT = "opt_out", "Last moment to opt out"
        RESUME = "resume", "End of a suspension"
        RENEWAL = "renewal", "Renewal"
        ACTIVATION_TIMEOUT = "activation_timeout", "End of the wait for activation"

    class Status(models.TextChoices):
        PLANNED = "planned", "Planned"
        DONE = "done", "Done"
        SKIPPED = "skipped", "Skipped"
        BLOCKED = "blocked", "Blocked"
        CANCELLED = "cancelled", "Cancelled"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    key = models.CharField(max_length=120, unique=True)
    contract = models.ForeignKey(Contract, models.PROTECT, related_name="schedule", db_index=False)
    kind = models.CharField(max_length=24, choices=Kind.choices)
    due_at = models.DateTimeField(help_text="Business time as of which it is done.")
    operation = models.CharField(max_length=24, blank=True, default="")
    payload = models.JSONField(default=dict)
    status = FSMField(default=Status.PLANNED.value, choices=Status.choices, max_length=20)
    attempts = models.PositiveSmallIntegerField(default=0, help_text="How often it failed.")
    last_error = models.CharField(max_length=500, blank=True, default="")
    retry_at = models.DateTimeField(null=True, blank=True, help_text="System time of the next attempt.")
    result_seq = models.PositiveIntegerField(null=True, blank=True, help_text="The edit that it recorded.")
    planned_at = models.DateTimeField(help_text="Business time at which it was planned as it stands.")
    finished_at = models.DateTimeField(null=True, blank=True, help_text="Business time at which it ended.")
    recorded_at = models.DateTimeField(auto_now_add=True)

    objects = ScheduledCommandQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)
        default_permissions = ("view",)
        constraints = (
            models.CheckConstraint(
                condition=Q(status="planned", finished_at__isnull=True)
                | (~Q(status="planned") & Q(finished_at__isnull=False)),
                name="scheduled_command_ended_once",
            ),
            models.CheckConstraint(
                condition=Q(result_seq__isnull=True) | ~Q(status="planned"),
                name="scheduled_command_result_at_end",
            ),
            models.CheckConstraint(
                condition=Q(operation="") | Q(operation__in=NAMES), name="scheduled_command_operation"
            ),
        )
        indexes = (
            models.Index(
                fields=["due_at", "contract"], name="scheduled_command_due", condition=Q(status="planned")
            ),
            models.Index(fields=["contract", "due_at"], name="scheduled_command_of"),
            models.Index(fields=["status", "-id"], name="scheduled_command_by_status"),
            models.Index(fields=["kind", "-id"], name="scheduled_command_by_kind"),
        )
        permissions = (
            ("cancel_scheduledcommand", "Can skip scheduled commands"),
            ("retry_scheduledcommand", "Can try blocked commands again"),
        )

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.contract}"

    @transition(field=status, source="planned", target="done")
    def finish(self, finished_at: datetime, result_seq: int | None = None) -> None:
        """It was carried out."""
        self.finished_at, self.result_seq = finished_at, result_seq
        self.last_error, self.retry_at = "", None

    @transition(field=status, source="planned", target="blocked")
    def block(self, finished_at: datetime, error: str, result_seq: int | None = None) -> None:
        """A rule refused it; a person has been asked."""
        self.finished_at, self.result_seq = finished_at, result_seq
        self.last_error, self.retry_at = error[:500], None

    @transition(field=status, source=["planned", "blocked"], target="cancelled")
    def cancel(self, finished_at: datetime) -> None:
        """The log does not imply it any more."""
        self.finished_at, self.retry_at = finished_at, None

    @transition(
        field=status,
        source=["planned", "blocked"],
        target="skipped",
        permission="contracts.cancel_scheduledcommand",
    )
    def skip(self, finished_at: datetime) -> None:
        """A person decided that it is not done."""
        self.finished_at, self.retry_at = finished_at, None

    @transition(field=status, source="cancelled", target="planned")
    def plan_again(self, planned_at: datetime) -> None:
        """The log implies it once more."""
        self._reset(planned_at)

    @transition(
        field=status, source="blocked", target="planned", permission="contracts.retry_scheduledcommand"
    )
    def try_again(self, planned_at: datetime) -> None:
        """A person has put right what blocked it."""
        self._reset(planned_at)

    def _reset(self, planned_at: datetime) -> None:
        self.planned_at, self.finished_at, self.result_seq = planned_at, None, None
        self.attempts, self.retry_at = 0, None
