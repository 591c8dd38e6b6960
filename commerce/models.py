"""Kernel facts: which states things went through, when beat last lived, how long handlers take."""

from django.db import models

from commerce.ids import uuid7


class TransitionLog(models.Model):
    """One state change: who, why, in which request. Append-only."""

    append_only = True

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    model = models.CharField(max_length=80)
    object_id = models.CharField(max_length=64)
    field = models.CharField(max_length=40)
    name = models.CharField(max_length=60)
    source = models.CharField(max_length=40)
    target = models.CharField(max_length=40)
    actor = models.CharField(max_length=120)
    reason = models.TextField(blank=True, default="")
    request_id = models.CharField(max_length=64, blank=True, default="")
    at = models.DateTimeField(help_text="Business time of the change.")
    recorded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = (models.Index(fields=["model", "object_id", "-id"], name="transition_of_object"),)

    def __str__(self) -> str:
        return f"{self.model} {self.object_id}: {self.source} → {self.target}"


class Heartbeat(models.Model):
    """When a periodic process last ran; `/readyz` reads its age."""

    name = models.CharField(max_length=40, primary_key=True)
    beaten_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} at {self.beaten_at:%Y-%m-%d %H:%M:%S}"


class HandlerTiming(models.Model):
    """How many calls of a group's handler took up to so many seconds: one bar of a histogram that grows."""

    id = models.BigAutoField(primary_key=True)
    group = models.CharField(max_length=60)
    type = models.CharField(max_length=80)
    error = models.CharField(max_length=80, help_text="The class of what it raised; empty when it succeeded.")
    up_to = models.FloatField(help_text="Seconds; Infinity for the last bar.")
    count = models.BigIntegerField()
    seconds = models.FloatField(help_text="Of all its calls together.")

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["group", "type", "error", "up_to"], name="handler_timing_once"),
        )

    def __str__(self) -> str:
        return f"{self.count} of {self.group} for {self.type}"
