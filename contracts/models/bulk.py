"""One operation on many contracts: a plan that is stored and previewed first, then run row by row."""

from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django_fsm import FSMField, transition

from commerce.console.models import Approval
from commerce.ids import uuid7
from contracts.models.log import Contract
from contracts.rules.operations import NAMES


class BulkPlan(models.Model):
    """What is to be done, to which contracts, and how far it is. What was planned never changes."""

    updatable_only = (
        "status", "ready_at", "confirmed_at", "finished_at", "approval_id", "acts_as_id", "totals",
    )  # fmt: skip

    class Status(models.TextChoices):
        PREVIEWING = "previewing"
        READY = "ready"
        WAITING = "needs_approval", "needs approval"
        RUNNING = "running"
        COMPLETED = "completed"
        CANCELLED = "cancelled"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    operation = models.CharField(max_length=24, choices=[(name, name.replace("_", " ")) for name in NAMES])
    payload = models.JSONField(help_text="The operation's own fields, without the line's.")
    product = models.CharField(
        max_length=60, blank=True, default="", help_text="Of an operation on lines: those of this product."
    )
    effective_at = models.DateTimeField(null=True, help_text="Business time; when it runs if there is none.")
    reason = models.CharField(max_length=500)
    selection = models.JSONField(default=dict, help_text="How the contracts were chosen.")
    status = FSMField(max_length=20, default=Status.PREVIEWING, choices=Status.choices)
    size = models.PositiveIntegerField(help_text="Contracts in it.")
    totals = models.JSONField(
        default=dict, help_text="Currency → what a full period comes to before and after, in minor units."
    )
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    requested_at = models.DateTimeField(help_text="Business time.")
    ready_at = models.DateTimeField(null=True, help_text="Business time, as the following.")
    confirmed_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    approval = models.ForeignKey(Approval, models.PROTECT, null=True, related_name="+")
    acts_as = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", help_text="Who recorded it."
    )
    recorded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)
        default_permissions = ("view",)
        permissions = (
            ("request_bulkplan", "Can plan and run an operation on many contracts"),
            ("cancel_bulkplan", "Can stop an operation on many contracts"),
        )
        constraints = (
            models.CheckConstraint(condition=~Q(reason=""), name="bulk_plan_has_reason"),
            models.CheckConstraint(
                condition=~Q(status="running") | Q(confirmed_at__isnull=False, acts_as__isnull=False),
                name="bulk_plan_runs_as_somebody",
            ),
            models.CheckConstraint(
                condition=Q(approval__isnull=True) | Q(acts_as__isnull=True) | ~Q(acts_as=F("requested_by")),
                name="bulk_plan_approved_by_another",
            ),
        )
        indexes = (
            models.Index(
                fields=["id"], name="bulk_plan_due", condition=Q(status__in=["previewing", "running"])
            ),
            models.Index(fields=["status", "-id"], name="bulk_plan_by_status"),
        )

    def __str__(self) -> str:
        contracts = "contract" if self.size == 1 else "contracts"
        return f"{self.get_operation_display().capitalize()} on {self.size:,} {contracts}"

    @property
    def is_under_way(self) -> bool:
        return self.status in (self.Status.PREVIEWING, self.Status.RUNNING)

    @transition(field=status, source=Status.PREVIEWING, target=Status.READY)
    def previewed(self, *, ready_at: datetime, totals: dict[str, Any]) -> None:
        self.ready_at, self.totals = ready_at, totals

    @transition(field=status, source=Status.READY, target=Status.WAITING)
    def ask(self, *, approval: Approval) -> None:
        """A second person decides."""
        self.approval = approval

    @transition(field=status, source=Status.WAITING, target=Status.READY)
    def reopen(self) -> None:
        """Nobody agreed."""
        self.approval = None

    @transition(field=status, source=[Status.READY, Status.WAITING], target=Status.RUNNING)
    def begin(self, *, confirmed_at: datetime, acts_as: Any) -> None:
        """Workers record it, a row at a time."""
        self.confirmed_at, self.acts_as = confirmed_at, acts_as

    @transition(field=status, source=Status.RUNNING, target=Status.COMPLETED)
    def complete(self, *, finished_at: datetime) -> None:
        self.finished_at = finished_at

    @transition(
        field=status,
        source=[Status.PREVIEWING, Status.READY, Status.WAITING, Status.RUNNING],
        target=Status.CANCELLED,
    )
    def cancel(self, *, finished_at: datetime) -> None:
        """What was recorded until then stays."""
        self.finished_at = finished_at


class BulkPlanRow(models.Model):
    """One contract of a plan: what it would mean, and what became of it."""

    updatable_only = (
        "outcome", "detail", "version", "before_minor", "after_minor", "needs_approval", "seq", "done_at",
    )  # fmt: skip

    class Outcome(models.TextChoices):
        WAITING = "waiting"
        READY = "ready"
        EXCLUDED = "excluded"
        DONE = "done"
        FAILED = "failed"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    plan = models.ForeignKey(BulkPlan, models.PROTECT, related_name="rows")
    contract = models.ForeignKey(Contract, models.PROTECT, related_name="+")
    outcome = models.CharField(max_length=10, choices=Outcome.choices, default=Outcome.WAITING)
    detail = models.CharField(max_length=500, blank=True, default="", help_text="Why it was not done.")
    version = models.PositiveIntegerField(null=True, help_text="Of the contract, when it was previewed.")
    currency = models.CharField(max_length=3)
    before_minor = models.BigIntegerField(null=True, help_text="What a full period comes to, usage apart.")
    after_minor = models.BigIntegerField(null=True)
    needs_approval = models.CharField(
        max_length=300, blank=True, default="", help_text="Why two people must agree."
    )
    seq = models.PositiveIntegerField(null=True, help_text="The last edit that it made.")
    done_at = models.DateTimeField(null=True, help_text="Business time.")

    class Meta:
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(fields=["plan", "contract"], name="bulk_row_once"),
            models.CheckConstraint(
                condition=Q(outcome="done", seq__isnull=False, done_at__isnull=False)
                | (~Q(outcome="done") & Q(seq__isnull=True)),
                name="bulk_row_done_has_its_edit",
            ),
        )
        indexes = (models.Index(fields=["plan", "outcome", "id"], name="bulk_row_of_plan"),)
