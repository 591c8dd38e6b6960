"""The kernel's own periodic tasks."""

from celery import shared_task
from django.utils import timezone

from commerce import clock
from commerce.actor import Actor
from commerce.console.approvals import close_overtaken, expire_overdue
from commerce.models import Heartbeat


@shared_task(name="commerce.heartbeat")
def heartbeat() -> None:
    """Say that beat and a worker are alive."""
    Heartbeat.objects.update_or_create(name="beat", defaults={"beaten_at": timezone.now()})


@shared_task(name="commerce.expire_approvals")
def expire_approvals() -> int:
    """End the requests that nobody decided in time, and those for what came about by another way."""
    at = clock.now()
    return expire_overdue(at=at, actor=Actor.system("approvals")) + close_overtaken(at=at)
