"""Who is told of what, and how that went: endpoints, their secrets, messages and every attempt.

A message is one event for one endpoint. Like a stream of the relay it has no states but what its
columns say: due (pending), delivered, failed or cancelled, exactly one of them. Its body is what
is sent, byte by byte, however often.
"""

from datetime import datetime
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django_fsm import FSMField, transition

from commerce.ids import uuid7

OPERATE = "webhooks.operate_webhookendpoint"


class EndpointStatus(models.TextChoices):
    ENABLED = "enabled"
    DISABLED = "disabled"
    DELETED = "deleted"


class DisabledBecause(models.TextChoices):
    PERSON = "person", "somebody disabled it"
    FAILING = "failing", "nothing was delivered for five days"
    GONE = "gone", "it answered 410 Gone"


class WebhookEndpoint(models.Model):
    """An address of an organization and the event types it wants to hear of."""

    aggregate_type = "webhook_endpoint"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        "parties.Organization", on_delete=models.PROTECT, related_name="webhook_endpoints"
    )
    url = models.CharField(max_length=500)
    event_types = ArrayField(models.TextField(), help_text="Exact types, all of a kind (invoice.*), or *.")
    description = models.CharField(max_length=200, blank=True, default="")
    status = FSMField(default=EndpointStatus.ENABLED, choices=EndpointStatus.choices)
    disabled_because = models.CharField(
        max_length=10, choices=DisabledBecause.choices, blank=True, default=""
    )
    disabled_at = models.DateTimeField(null=True, help_text="Business time.")
    collects_until = models.DateTimeField(
        null=True, help_text="System time until which a disabled endpoint's messages are still made."
    )
    version = models.PositiveIntegerField(default=1, help_text="Counts its changes; the ETag.")
    created_at = models.DateTimeField(help_text="Business time.")
    recorded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "webhook endpoint"
        constraints = (
            models.CheckConstraint(condition=Q(event_types__len__gt=0), name="webhook_endpoint_wants"),
            models.CheckConstraint(
                condition=Q(status="disabled", disabled_at__isnull=False, collects_until__isnull=False)
                & ~Q(disabled_because="")
                | ~Q(status="disabled") & Q(disabled_because=""),
                name="webhook_endpoint_disabled",
            ),
        )
        permissions = (
            ("register_webhookendpoint", "Can add, change and delete webhook endpoints and their secrets"),
            ("operate_webhookendpoint", "Can test, disable and enable webhook endpoints and resend messages"),
        )

    def __str__(self) -> str:
        return self.url

    @transition(
        field=status,
        source=EndpointStatus.ENABLED,
        target=EndpointStatus.DISABLED,
        custom={"label": "Disable"},
    )
    def disable(self, *, because: str, disabled_at: datetime, collects_until: datetime) -> None:
        self.disabled_because, self.disabled_at, self.collects_until = because, disabled_at, collects_until
        self.version += 1

    @transition(
        field=status,
        source=EndpointStatus.DISABLED,
        target=EndpointStatus.ENABLED,
        permission=OPERATE,
        custom={"label": "Enable"},
    )
    def enable(self) -> None:
        self.disabled_because, self.disabled_at, self.collects_until = "", None, None
        self.version += 1

    @transition(
        field=status,
        source=[EndpointStatus.ENABLED, EndpointStatus.DISABLED],
        target=EndpointStatus.DELETED,
        permission="webhooks.register_webhookendpoint",
        custom={"label": "Delete"},
    )
    def delete_for_good(self) -> None:
        self.disabled_because, self.disabled_at, self.collects_until = "", None, None
        self.version += 1


class WebhookSubscription(models.Model):
    """One of an endpoint's event types, for the trigger on the events to find; deleted ones have none."""

    id = models.BigAutoField(primary_key=True)
    pattern = models.TextField()
    endpoint = models.ForeignKey(WebhookEndpoint, on_delete=models.CASCADE, related_name="subscriptions")

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["pattern", "endpoint"], name="webhook_subscription_once"),
        )

    def __str__(self) -> str:
        return self.pattern


class WebhookHealth(models.Model):
    """How deliveries to an endpoint go. A row of its own: it is written while people look at the other."""

    endpoint = models.OneToOneField(
        WebhookEndpoint, primary_key=True, on_delete=models.CASCADE, related_name="health"
    )
    failing_since = models.DateTimeField(null=True, help_text="First failure since the last success.")
    last_success_at = models.DateTimeField(null=True)
    last_failure_at = models.DateTimeField(null=True)
    last_error = models.TextField(blank=True, default="")
    resend_since = models.DateTimeField(null=True, help_text="What was made since then is to be sent again,")
    resend_before = models.DateTimeField(null=True, help_text="as far as it had failed for good by then.")

    def __str__(self) -> str:
        return "failing" if self.failing_since else "well"


class WebhookSecret(models.Model):
    """What deliveries are signed with, sealed. The one before the newest signs too until it expires."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    endpoint = models.ForeignKey(WebhookEndpoint, on_delete=models.CASCADE, related_name="secrets")
    ciphertext = models.BinaryField()
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, help_text="System time; none for the newest.")

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["endpoint"], name="webhook_secret_newest", condition=Q(expires_at__isnull=True)
            ),
        )

    def __str__(self) -> str:
        return "whsec_…"


class PendingEvent(models.Model):
    """An event that an endpoint may want and that has not become messages yet.

    A trigger on the events makes the row, in the transaction of the event.
    """

    id = models.BigAutoField(primary_key=True)
    event_id = models.UUIDField(unique=True)
    due_at = models.DateTimeField(db_index=True)
    attempts = models.PositiveIntegerField(default=0)
    last_error = models.TextField(blank=True, default="")

    def __str__(self) -> str:
        return f"event {self.event_id}"


def _only(column: str) -> Q:
    ends = ("due_at", "delivered_at", "failed_at", "cancelled_at")
    return Q(**{f"{name}__isnull": name != column for name in ends})


class WebhookMessage(models.Model):
    """One event for one endpoint. Times are system time; a claimed message is due when its lease ends."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    endpoint = models.ForeignKey(WebhookEndpoint, on_delete=models.PROTECT, related_name="messages")
    event_id = models.UUIDField(help_text="The event, or for a test what stands for it.")
    type = models.CharField(max_length=80)
    body = models.BinaryField(help_text="What is sent, byte by byte.")
    attempts = models.PositiveSmallIntegerField(default=0, help_text="Since it was made or sent again.")
    due_at = models.DateTimeField(null=True)
    lease_token = models.UUIDField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    delivered_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True)
    cancelled_at = models.DateTimeField(null=True)
    last_error = models.TextField(blank=True, default="")

    class Meta:
        verbose_name = "webhook message"
        constraints = (
            models.UniqueConstraint(fields=["event_id", "endpoint"], name="webhook_message_once"),
            models.CheckConstraint(
                condition=_only("due_at")
                | _only("delivered_at")
                | _only("failed_at")
                | _only("cancelled_at"),
                name="webhook_message_is_one_thing",
            ),
            models.CheckConstraint(
                condition=Q(lease_token__isnull=True) | Q(due_at__isnull=False),
                name="webhook_message_leased_is_due",
            ),
        )
        indexes = (
            models.Index(
                fields=["endpoint", "due_at"], name="webhook_message_due", condition=Q(due_at__isnull=False)
            ),
            models.Index(
                fields=["endpoint", "due_at"],
                name="webhook_message_leased",
                condition=Q(lease_token__isnull=False),
            ),
            models.Index(fields=["endpoint", "-id"], name="webhook_message_list"),
            models.Index(fields=["-id"], name="webhook_message_pending", condition=Q(due_at__isnull=False)),
            models.Index(fields=["-id"], name="webhook_message_failed", condition=Q(failed_at__isnull=False)),
            models.Index(
                fields=["endpoint", "-id"],
                name="webhook_message_failures",
                condition=Q(failed_at__isnull=False),
            ),
            models.Index(fields=["type", "-id"], name="webhook_message_type"),
        )

    def __str__(self) -> str:
        return f"{self.type} {self.webhook_id}"

    @property
    def webhook_id(self) -> str:
        """The same for every attempt: by it a receiver knows what it has had already."""
        return f"msg_{self.pk.hex}"

    @property
    def status(self) -> str:
        if self.due_at:
            return "pending"
        if self.delivered_at:
            return "delivered"
        return "failed" if self.failed_at else "cancelled"


class WebhookAttempt(models.Model):
    """One request on the wire and what came back."""

    own_guards = ("guard_kept",)

    id = models.BigAutoField(primary_key=True)
    message = models.ForeignKey(WebhookMessage, on_delete=models.PROTECT, related_name="log")
    number = models.PositiveSmallIntegerField()
    at = models.DateTimeField(help_text="System time of its start.")
    status_code = models.PositiveSmallIntegerField(null=True, help_text="None without an answer.")
    error = models.TextField(blank=True, default="")
    duration_ms = models.PositiveIntegerField()
    answer = models.TextField(blank=True, default="", help_text="How the answer began, redacted.")

    def __str__(self) -> str:
        return f"attempt {self.number}: {self.status_code or self.error}"

    @property
    def delivered(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


def facts(message: WebhookMessage) -> dict[str, Any]:
    """What a log line says about a message."""
    return {"webhook": message.webhook_id, "endpoint": str(message.endpoint_id), "type": message.type}
