"""Questions for a person that polling would otherwise ask again and again."""

from datetime import datetime
from typing import Any

from django.db.models import Model

from commerce.actor import Actor
from commerce.console.models import ReviewItem
from commerce.console.services import clear_reviews, open_review


def ask_once(*, kind: str, subject_type: str, subject_id: str, **question: Any) -> None:
    """`open_review` for what never changes: an answered question is not asked again."""
    asked = ReviewItem.objects.filter(kind=kind, subject_type=subject_type, subject_id=subject_id)
    if not asked.exists():
        open_review(kind=kind, subject_type=subject_type, subject_id=subject_id, **question)


def settle_question(kind: str, subject: Model, *, reason: str, at: datetime) -> None:
    """What was asked about a row has been decided; whoever decided needs no permission on the queue."""
    clear_reviews(
        kind=kind,
        subject_type=subject._meta.label_lower,
        subject_id=subject.pk,
        reason=reason,
        actor=Actor.system("billing"),
        at=at,
    )
