"""What waits for a person: review items, which the system could not decide, and approvals, which a
second person must agree to before anything happens."""

from datetime import datetime
from typing import Any

from django.db import models
from django.db.models import F, Q
from django_fsm import FSMField, transition

from commerce.ids import uuid7
from commerce.money import Money


class ReviewStatus(models.TextChoices):
    OPEN = "open"
    CLAIMED = "claimed"
    SNOOZED = "snoozed"
    RESOLVED = "resolved"


class Resolution(models.TextChoices):
    FIXED = "fixed", "Fixed by us"
    PROVIDER_FIXED = "provider_fixed", "Fixed by the provider"
    ACCEPTED = "accepted", "Accepted as it is"
    NOT_AN_ISSUE = "not_an_issue", "Not an issue"
    CLEARED = "cleared", "Cleared by itself"


class ReviewItem(models.Model):
    """One question about one subject. There is at most one unresolved item per kind and subject."""

    aggregate_type = "review_item"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=60, help_text="What is wrong, e.g. invoice_mismatch.")
    subject_type = models.CharField(max_length=80, help_text="Model of the subject, e.g. billing.invoice.")
    subject_id = models.CharField(max_length=64)
    title = models.CharField(max_length=200)
    detail = models.TextField(blank=True, default="")
    evidence = models.JSONField(default=dict)
    value_minor = models.BigIntegerField(null=True, help_text="What is at stake, in minor units.")
    currency = models.CharField(max_length=5, blank=True, default="")
    status = FSMField(default=ReviewStatus.OPEN, choices=ReviewStatus.choices)
    assignee = models.CharField(max_length=150, blank=True, default="")
    claimed_at = models.DateTimeField(null=True, help_text="Business time.")
    snoozed_until = models.DateTimeField(null=True, help_text="Business time.")
    resolution = models.CharField(max_length=20, choices=Resolution.choices, blank=True, default="")
    note = models.TextField(blank=True, default="")
    opened_at = models.DateTimeField(help_text="Business time.")
    resolved_at = models.DateTimeField(null=True, help_text="Business time.")
    recorded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["kind", "subject_type", "subject_id"],
                name="review_item_open_once",
                condition=~models.Q(status="resolved"),
            ),
            models.CheckConstraint(
                condition=models.Q(status="resolved", resolved_at__isnull=False)
                | ~models.Q(status="resolved"),
                name="review_item_resolved_at",
            ),
            models.CheckConstraint(
                condition=models.Q(value_minor__isnull=True) | ~models.Q(currency=""),
                name="review_item_value_has_currency",
            ),
        )
        indexes = (
            models.Index(
                fields=["opened_at"], name="review_item_waiting", condition=~models.Q(status="resolved")
            ),
            models.Index(fields=["subject_id", "subject_type"], name="review_item_subject"),
        )
        permissions = (
            ("claim_reviewitem", "Can claim review items and give them back"),
            ("snooze_reviewitem", "Can snooze review items"),
            ("resolve_reviewitem", "Can resolve review items"),
        )

    def __str__(self) -> str:
        return self.title

    @property
    def value(self) -> Money | None:
        return None if self.value_minor is None else Money(self.value_minor, self.currency)

    def event_payload(self) -> dict[str, Any]:
        return {
            "review_item_id": str(self.pk),
            "kind": self.kind,
            "subject_type": self.subject_type,
            "subject_id": self.subject_id,
            "status": self.status,
            "resolution": self.resolution,
        }

    @transition(
        field=status,
        source=[ReviewStatus.OPEN, ReviewStatus.SNOOZED],
        target=ReviewStatus.CLAIMED,
        permission="console.claim_reviewitem",
        custom={"label": "Claim"},
    )
    def claim(self, *, by: str, claimed_at: datetime) -> None:
        self.assignee, self.claimed_at, self.snoozed_until = by, claimed_at, None

    @transition(
        field=status,
        source=ReviewStatus.CLAIMED,
        target=ReviewStatus.OPEN,
        permission="console.claim_reviewitem",
        custom={"label": "Give back"},
    )
    def give_back(self) -> None:
        self.assignee, self.claimed_at = "", None

    @transition(
        field=status,
        source=[ReviewStatus.OPEN, ReviewStatus.CLAIMED],
        target=ReviewStatus.SNOOZED,
        permission="console.snooze_reviewitem",
        custom={"label": "Snooze"},
    )
    def snooze(self, *, until: datetime) -> None:
        self.snoozed_until = until

    @transition(
        field=status,
        source=[ReviewStatus.OPEN, ReviewStatus.CLAIMED, ReviewStatus.SNOOZED],
        target=ReviewStatus.RESOLVED,
        permission="console.resolve_reviewitem",
        custom={"label": "Resolve", "event": "review_item.resolved"},
    )
    def resolve(self, *, code: str, note: str, resolved_at: datetime) -> None:
        self.resolution, self.note, self.resolved_at, self.snoozed_until = code, note, resolved_at, None


class ApprovalStatus(models.TextChoices):
    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Approval(models.Model):
    """One request to run one registered operation. What was asked and by whom never changes; once it
    is decided nothing does."""

    aggregate_type = "approval"
    updatable_only = (
        "status", "checker", "checker_name", "decided_at", "decision", "result_type", "result_id",
    )  # fmt: skip
    own_guards = ("guard_decided",)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    operation = models.CharField(max_length=60, help_text="Name in the registry, e.g. ledger.reverse.")
    title = models.CharField(max_length=120, help_text="The operation in words.")
    subject_type = models.CharField(max_length=80, help_text="Model of the subject, e.g. billing.invoice.")
    subject_id = models.CharField(max_length=64)
    arguments = models.JSONField(default=dict)
    sha256 = models.CharField(max_length=64, help_text="Of operation, subject and arguments.")
    key = models.CharField(
        max_length=200, blank=True, default="", help_text="The requester's name for it, if any; once."
    )
    reason = models.TextField()
    value_minor = models.BigIntegerField(null=True, help_text="What is at stake, in minor units.")
    currency = models.CharField(max_length=5, blank=True, default="")
    status = FSMField(default=ApprovalStatus.PENDING, choices=ApprovalStatus.choices)
    maker = models.CharField(max_length=120)
    maker_name = models.CharField(max_length=150)
    requested_at = models.DateTimeField(help_text="Business time, like the following.")
    expires_at = models.DateTimeField()
    checker = models.CharField(max_length=120, blank=True, default="", help_text="Who approved or rejected.")
    checker_name = models.CharField(max_length=150, blank=True, default="")
    decided_at = models.DateTimeField(null=True)
    decision = models.TextField(blank=True, default="", help_text="Why it was decided so.")
    result_type = models.CharField(max_length=80, blank=True, default="", help_text="Model of what it made.")
    result_id = models.CharField(max_length=64, blank=True, default="")
    recorded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["operation", "subject_type", "subject_id", "sha256"],
                name="approval_pending_once",
                condition=Q(status="pending"),
            ),
            models.UniqueConstraint(fields=["key"], name="approval_key_once", condition=~Q(key="")),
            models.CheckConstraint(
                condition=Q(checker="") | ~Q(checker=F("maker")), name="approval_maker_is_not_checker"
            ),
            models.CheckConstraint(
                condition=~Q(checker__startswith="system:"), name="approval_checker_is_no_system"
            ),
            models.CheckConstraint(
                condition=Q(status="pending", decided_at__isnull=True, checker="")
                | Q(status__in=["approved", "rejected"], decided_at__isnull=False) & ~Q(checker="")
                | Q(status__in=["expired", "cancelled"], decided_at__isnull=False, checker=""),
                name="approval_decided_by_somebody",
            ),
            models.CheckConstraint(
                condition=~Q(status="approved") | Q(decided_at__lt=F("expires_at")),
                name="approval_approved_in_time",
            ),
            models.CheckConstraint(
                condition=Q(expires_at__gt=F("requested_at")), name="approval_expires_later"
            ),
            models.CheckConstraint(condition=~Q(reason=""), name="approval_has_reason"),
            models.CheckConstraint(
                condition=Q(result_type="", result_id="")
                | Q(status="approved") & ~Q(result_type="") & ~Q(result_id=""),
                name="approval_result_when_approved",
            ),
            models.CheckConstraint(
                condition=Q(value_minor__isnull=True) | ~Q(currency=""), name="approval_value_has_currency"
            ),
        )
        indexes = (
            models.Index(fields=["subject_type", "subject_id", "-id"], name="approval_subject"),
            models.Index(fields=["status", "-id"], name="approval_by_status"),
            models.Index(fields=["expires_at"], name="approval_waiting", condition=Q(status="pending")),
        )

    def __str__(self) -> str:
        return f"{self.title}, requested by {self.maker_name}"

    @property
    def value(self) -> Money | None:
        return None if self.value_minor is None else Money(self.value_minor, self.currency)

    def event_payload(self) -> dict[str, Any]:
        return {
            "approval_id": str(self.pk),
            "operation": self.operation,
            "subject_type": self.subject_type,
            "subject_id": self.subject_id,
            "sha256": self.sha256,
            "status": self.status,
            "maker": self.maker,
            "checker": self.checker,
            "result_type": self.result_type,
            "result_id": self.result_id,
        }

    @transition(
        field=status,
        source=ApprovalStatus.PENDING,
        target=ApprovalStatus.APPROVED,
        custom={"label": "Approve", "event": "approval.approved"},
    )
    def approve(
        self, *, by: str, by_name: str, decided_at: datetime, why: str, result: models.Model | None
    ) -> None:
        self.checker, self.checker_name = by, by_name
        self.decided_at, self.decision = decided_at, why
        if result is not None:
            self.result_type, self.result_id = result._meta.label_lower, str(result.pk)

    @transition(
        field=status,
        source=ApprovalStatus.PENDING,
        target=ApprovalStatus.REJECTED,
        custom={"label": "Reject", "event": "approval.rejected"},
    )
    def reject(self, *, by: str, by_name: str, decided_at: datetime, why: str) -> None:
        self.checker, self.checker_name = by, by_name
        self.decided_at, self.decision = decided_at, why

    @transition(
        field=status,
        source=ApprovalStatus.PENDING,
        target=ApprovalStatus.CANCELLED,
        custom={"label": "Cancel", "event": "approval.cancelled"},
    )
    def cancel(self, *, decided_at: datetime, why: str) -> None:
        self.decided_at, self.decision = decided_at, why

    @transition(
        field=status,
        source=ApprovalStatus.PENDING,
        target=ApprovalStatus.EXPIRED,
        custom={"label": "Expire", "event": "approval.expired"},
    )
    def expire(self, *, decided_at: datetime) -> None:
        self.decided_at = decided_at


class ExportFormat(models.TextChoices):
    CSV = "csv", "CSV"
    XLSX = "xlsx", "Excel (XLSX)"
    JSONL = "jsonl", "JSON lines"


class Export(models.Model):
    """A file of rows that somebody asked for. A worker writes it; the file goes, the row stays."""

    updatable_only = (
        "status", "rows_total", "rows_done", "attempts", "lease_token", "lease_until", "error", "size",
        "sha256", "totals", "completed_at", "expires_at",
    )  # fmt: skip

    class Status(models.TextChoices):
        REQUESTED = "requested"
        RUNNING = "running"
        COMPLETED = "completed"
        FAILED = "failed"
        EXPIRED = "expired"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    source = models.CharField(max_length=60, help_text="A registered source, e.g. ledger.entries.")
    format = models.CharField(max_length=8, choices=ExportFormat.choices)
    parameters = models.JSONField(default=dict)
    organization = models.ForeignKey(
        "parties.Organization",
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Only what belongs to it; everything when there is none.",
    )
    status = FSMField(default=Status.REQUESTED, choices=Status.choices)
    requested_by = models.CharField(max_length=150)
    requested_at = models.DateTimeField(help_text="Business time.")
    recorded_at = models.DateTimeField(auto_now_add=True)
    rows_total = models.BigIntegerField(null=True)
    rows_done = models.BigIntegerField(default=0)
    attempts = models.PositiveSmallIntegerField(default=0)
    lease_token = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True, help_text="System time.")
    error = models.TextField(blank=True, default="")
    size = models.BigIntegerField(null=True, help_text="Bytes.")
    sha256 = models.CharField(max_length=64, blank=True, default="", help_text="Of the file.")
    totals = models.JSONField(default=dict, help_text="Minor units per currency and column.")
    completed_at = models.DateTimeField(null=True, help_text="System time.")
    expires_at = models.DateTimeField(null=True, help_text="System time at which the file is removed.")

    class Meta:
        default_permissions = ("view",)
        permissions = (("request_export", "Can have exports made"),)
        constraints = (
            models.CheckConstraint(
                condition=~models.Q(status__in=["completed", "expired"])
                | (~models.Q(sha256="") & models.Q(completed_at__isnull=False, expires_at__isnull=False)),
                name="export_completed_has_its_file",
            ),
        )
        indexes = (
            models.Index(
                fields=["id"], name="export_due", condition=models.Q(status__in=["requested", "running"])
            ),
            models.Index(
                fields=["expires_at"], name="export_expiring", condition=models.Q(status="completed")
            ),
            models.Index(fields=["organization", "-id"], name="export_of_organization"),
        )

    def __str__(self) -> str:
        what = self.source.rpartition(".")[2].replace("_", " ").capitalize()
        return f"{what} as {self.get_format_display()}"

    @property
    def is_under_way(self) -> bool:
        return self.status in (self.Status.REQUESTED, self.Status.RUNNING)

    @property
    def filename(self) -> str:
        name = self.source.replace(".", "-").replace("_", "-")
        return f"{name}-{self.requested_at:%Y-%m-%d}-{str(self.pk)[-8:]}.{self.format}"

    @transition(field=status, source=Status.REQUESTED, target=Status.RUNNING)
    def begin(self) -> None:
        """A worker holds it; another begins again from the start if that one dies."""

    @transition(field=status, source=Status.RUNNING, target=Status.COMPLETED)
    def complete(
        self, *, rows: int, size: int, sha256: str, totals: Any, completed_at: datetime, expires_at: datetime
    ) -> None:
        self.rows_done = self.rows_total = rows
        self.size, self.sha256, self.totals = size, sha256, totals
        self.completed_at, self.expires_at = completed_at, expires_at
        self.lease_token = self.lease_until = None

    @transition(field=status, source=[Status.REQUESTED, Status.RUNNING], target=Status.FAILED)
    def fail(self, *, error: str) -> None:
        self.error = error
        self.lease_token = self.lease_until = None

    @transition(field=status, source=Status.COMPLETED, target=Status.EXPIRED)
    def expire(self) -> None:
        """The file is gone; its hash still tells whether a copy is the one we made."""
