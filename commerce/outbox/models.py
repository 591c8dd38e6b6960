"""The transactional outbox: an append-only log of events and one cursor per stream and group.

A stream is one aggregate's events in order (`sequence` has no gaps). `OutboxStream` with an empty
group is the aggregate's head: it hands out sequence numbers, and its row lock makes the order of
sequence the order of commit. Every other row is one subscriber group's cursor, lease and back-off.
`OutboxFailure` remembers each delivery that failed, `OutboxSkip` each that two people gave up,
`Circuit` whether a provider answers at all.
"""

from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.fields.json import KT

from commerce.ids import uuid7


class OutboxEvent(models.Model):
    """What happened. Only `published_at` is ever written later, once, when every effect has succeeded."""

    updatable_only = ("published_at",)
    own_guards = ("guard_kept",)

    id = models.BigAutoField(primary_key=True)
    event_id = models.UUIDField(unique=True, default=uuid7, editable=False)
    aggregate_type = models.CharField(max_length=40)
    aggregate_id = models.CharField(max_length=64)
    sequence = models.BigIntegerField()
    type = models.CharField(max_length=80)
    version = models.PositiveSmallIntegerField(default=1)
    payload = models.JSONField()
    headers = models.JSONField(default=dict)
    occurred_at = models.DateTimeField(help_text="Business time.")
    recorded_at = models.DateTimeField(auto_now_add=True)
    published_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["aggregate_type", "aggregate_id", "sequence"], name="event_sequence_once"
            ),
            models.CheckConstraint(condition=models.Q(sequence__gte=1), name="event_sequence_positive"),
        )
        indexes = (
            models.Index(fields=["type", "-id"], name="event_by_type"),
            models.Index(
                fields=["id"], name="event_unpublished", condition=models.Q(published_at__isnull=True)
            ),
            models.Index(
                KT("headers__causation_id"),
                name="event_by_cause",
                condition=models.Q(headers__has_key="causation_id"),
            ),
        )

    group: str = ""

    def __str__(self) -> str:
        return f"{self.type} #{self.sequence} of {self.aggregate_type} {self.aggregate_id}"

    @property
    def key(self) -> str:
        """The same for every delivery of this event to this group: an idempotency key for providers."""
        return f"{self.event_id}:{self.group}" if self.group else str(self.event_id)

    def event_payload(self) -> dict[str, Any]:
        return dict(self.payload)


class OutboxStream(models.Model):
    """A group's cursor on one aggregate. `due_at` is NULL when there is nothing to do, else the instant
    from which a worker may claim it: its back-off's end, or, while `lease_token` is set, its lease's."""

    id = models.BigAutoField(primary_key=True)
    aggregate_type = models.CharField(max_length=40)
    aggregate_id = models.CharField(max_length=64)
    group = models.CharField(max_length=60, help_text="Empty for the head, which counts the events.")
    lane = models.CharField(
        max_length=40, blank=True, default="", help_text="Who drains it: local, batch or a provider's name."
    )
    cursor = models.BigIntegerField(default=0, help_text="Sequence of the last event dealt with.")
    pending_since = models.DateTimeField(
        null=True, help_text="No event after the cursor was recorded before; NULL when there is none."
    )
    due_at = models.DateTimeField(null=True)
    lease_token = models.UUIDField(null=True)
    attempts = models.PositiveIntegerField(default=0)
    last_error = models.TextField(blank=True, default="")
    last_tried_at = models.DateTimeField(null=True)
    parked_at = models.DateTimeField(null=True)
    parked_reason = models.TextField(blank=True, default="")

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["aggregate_type", "aggregate_id", "group"], name="stream_once"),
            models.CheckConstraint(
                condition=models.Q(parked_at__isnull=True)
                | models.Q(due_at__isnull=True, lease_token__isnull=True),
                name="parked_stream_is_not_due",
            ),
            models.CheckConstraint(
                condition=models.Q(due_at__isnull=True) | models.Q(pending_since__isnull=False),
                name="due_stream_has_events",
            ),
            models.CheckConstraint(
                condition=models.Q(lease_token__isnull=True) | models.Q(due_at__isnull=False),
                name="leased_stream_has_an_end",
            ),
        )
        indexes = (
            models.Index(
                fields=["lane", "due_at"], name="stream_due", condition=models.Q(due_at__isnull=False)
            ),
            models.Index(
                fields=["parked_at"], name="stream_parked", condition=models.Q(parked_at__isnull=False)
            ),
            models.Index(
                fields=["lane"], name="stream_parked_in", condition=models.Q(parked_at__isnull=False)
            ),
        )
        permissions = (("operate_outboxstream", "Can retry, park, resume and replay streams"),)

    def __str__(self) -> str:
        return f"{self.aggregate_type} {self.aggregate_id} → {self.group or 'head'}"


class OutboxFailure(models.Model):
    """One delivery that failed: what an operator reads before deciding about a stream."""

    append_only = True

    id = models.BigAutoField(primary_key=True)
    stream = models.ForeignKey(
        OutboxStream,
        on_delete=models.DO_NOTHING,
        related_name="failures",
        db_constraint=False,
        db_index=False,
    )
    event_id = models.UUIDField()
    type = models.CharField(max_length=80)
    group = models.CharField(max_length=60)
    attempt = models.PositiveIntegerField(help_text="Counted from 1 since the stream last went on.")
    error = models.TextField()
    retryable = models.BooleanField()
    failed_at = models.DateTimeField()

    class Meta:
        indexes = (
            models.Index(fields=["stream", "-id"], name="failure_by_stream"),
            models.Index(fields=["event_id"], name="failure_by_event"),
        )

    def __str__(self) -> str:
        return f"{self.type} to {self.group}, attempt {self.attempt}"


class OutboxSkip(models.Model):
    """One event that a group was never given, because two people agreed on it."""

    append_only = True

    id = models.BigAutoField(primary_key=True)
    stream = models.ForeignKey(
        OutboxStream, on_delete=models.DO_NOTHING, related_name="skips", db_constraint=False, db_index=False
    )
    event_id = models.UUIDField()
    sequence = models.BigIntegerField()
    type = models.CharField(max_length=80)
    group = models.CharField(max_length=60)
    error = models.TextField(help_text="What the stream was parked for.")
    reason = models.TextField()
    requested_by = models.CharField(max_length=120)
    approved_by = models.CharField(max_length=120)
    skipped_at = models.DateTimeField(help_text="Business time.")
    recorded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        default_permissions = ("view",)
        permissions = (("approve_skip", "Can agree that a stream goes on without an event"),)
        constraints = (
            models.UniqueConstraint(fields=["event_id", "group"], name="skip_once"),
            models.CheckConstraint(
                condition=models.Q(requested_by__startswith="user:", approved_by__startswith="user:")
                & ~models.Q(requested_by=models.F("approved_by")),
                name="skip_by_two_people",
            ),
            models.CheckConstraint(condition=~models.Q(reason=""), name="skip_has_reason"),
        )
        indexes = (models.Index(fields=["stream", "-id"], name="skip_by_stream"),)

    def __str__(self) -> str:
        return f"{self.type} #{self.sequence} skipped for {self.group}"


class Circuit(models.Model):
    """Whether a lane's provider answers. While `open_until` is set, nothing but one probe is sent to it.

    `failures` and `streams` count what failed in a row and where; `trips`, how often the probe failed.
    """

    lane = models.CharField(max_length=40, primary_key=True)
    failures = models.PositiveIntegerField(default=0)
    streams = ArrayField(models.BigIntegerField(), default=list)
    trips = models.PositiveIntegerField(default=0)
    opened_at = models.DateTimeField(null=True)
    open_until = models.DateTimeField(null=True)
    last_error = models.TextField(blank=True, default="")
    paused_at = models.DateTimeField(null=True, help_text="A person stopped the lane; only a person goes on.")
    paused_reason = models.TextField(blank=True, default="")

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=models.Q(opened_at__isnull=True, open_until__isnull=True)
                | models.Q(opened_at__isnull=False, open_until__isnull=False),
                name="open_circuit_has_an_end",
            ),
        )

    def __str__(self) -> str:
        return self.lane


class OutboxArchive(models.Model):
    """A month of events and failures left for files, or came back; the latest row says where events begin."""

    append_only = True

    class Step(models.TextChoices):
        REMOVED = "removed"
        RESTORED = "restored"

    id = models.BigAutoField(primary_key=True)
    month = models.DateField(help_text="Of recording: its first day.")
    step = models.CharField(max_length=10, choices=Step.choices)
    horizon = models.DateTimeField(help_text="From here on, nothing recorded before it is present.")
    events = models.BigIntegerField()
    first_id = models.BigIntegerField(null=True)
    last_id = models.BigIntegerField(null=True)
    events_sha256 = models.CharField(max_length=64, help_text="Of the file's content, uncompressed.")
    failures = models.BigIntegerField()
    failures_sha256 = models.CharField(max_length=64)
    noted_at = models.DateTimeField()
    actor = models.CharField(max_length=120)

    class Meta:
        verbose_name, verbose_name_plural = "archived month", "archived months"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.month:%B %Y}, {self.step}"
