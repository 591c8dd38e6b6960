"""Housekeeping of the API."""

from celery import shared_task

from commerce.api.services import forget_old_answers


@shared_task(name="api.forget_old_answers")
def forget() -> int:
    """Forget answers older than 30 days, a batch at a time; the next wake-up goes on."""
    return forget_old_answers()
