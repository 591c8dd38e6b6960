"""The inbox: every verified webhook delivery, once."""

from django.db import models

from commerce.ids import uuid7


class ProviderEvent(models.Model):
    """A delivery as it came in, without secrets. What became of it is told by the outbox."""

    append_only = True

    class State(models.TextChoices):
        RECEIVED = "received", "passed on to its handlers"
        IGNORED = "ignored", "about nothing we follow"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    provider = models.CharField(max_length=20)
    delivery_id = models.CharField(max_length=64, help_text="The provider's; the same for every repetition.")
    topic = models.CharField(max_length=60)
    event = models.CharField(max_length=60)
    object_id = models.CharField(max_length=64)
    state = models.CharField(max_length=10, choices=State.choices)
    headers = models.JSONField(default=dict)
    body = models.JSONField()
    received_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["provider", "delivery_id"], name="provider_event_once"),
        )
        indexes = (models.Index(fields=["provider", "object_id", "-id"], name="provider_event_of_object"),)

    def __str__(self) -> str:
        return f"{self.provider} {self.topic}.{self.event} {self.object_id}"
