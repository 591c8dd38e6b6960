"""The kernel's own periodic task."""

from celery import shared_task
from django.utils import timezone

from commerce.models import Heartbeat


@shared_task(name="commerce.heartbeat")
def heartbeat() -> None:
    """Say that beat and a worker are alive."""
    Heartbeat.objects.update_or_create(name="beat", defaults={"beaten_at": timezone.now()})
