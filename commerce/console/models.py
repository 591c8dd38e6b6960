"""The manual queue: what the system cannot decide becomes one item that a person takes and resolves."""

from datetime import datetime
from typing import Any

from django.db import models
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
    currency = models.CharField(max_length=3, blank=True, default="")
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
