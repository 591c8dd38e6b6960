"""The review queue's verbs. Systems open and clear items, people claim, snooze and resolve them."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import transaction

from commerce import states
from commerce.actor import Actor
from commerce.console.models import Resolution, ReviewItem, ReviewStatus
from commerce.errors import InvalidInput
from commerce.money import Money
from commerce.outbox import append


@transaction.atomic
def open_review(
    *,
    kind: str,
    subject_type: str,
    subject_id: Any,
    title: str,
    actor: Actor,
    at: datetime,
    detail: str = "",
    evidence: dict[str, Any] | None = None,
    value: Money | None = None,
) -> ReviewItem:
    """Put a question before a person; the unresolved item of this kind and subject when there is one.

    `subject_type` is a model's label such as "billing.invoice"; the item links to its page.
    """
    item, created = ReviewItem.objects.exclude(status=ReviewStatus.RESOLVED).get_or_create(
        kind=kind,
        subject_type=subject_type.lower(),
        subject_id=str(subject_id),
        defaults={
            "title": title[:200],
            "detail": detail,
            "evidence": evidence or {},
            "value_minor": value.minor if value else None,
            "currency": value.currency if value else "",
            "opened_at": at,
        },
    )
    if created:
        append(item.aggregate_type, item.pk, "review_item.opened", item.event_payload(), at=at, actor=actor)
    return item


def claim_review(*, item: ReviewItem, actor: Actor, at: datetime, reason: str = "") -> ReviewItem:
    """Take an item, so that nobody else works on it."""
    by = actor.label or str(actor)
    return states.transition(item, "claim", actor=actor, at=at, reason=reason, by=by, claimed_at=at)


def give_back_review(*, item: ReviewItem, actor: Actor, at: datetime, reason: str = "") -> ReviewItem:
    return states.transition(item, "give_back", actor=actor, at=at, reason=reason)


def snooze_review(
    *, item: ReviewItem, until: datetime, actor: Actor, at: datetime, reason: str = ""
) -> ReviewItem:
    """Hide an item from the queue until a later instant."""
    if until <= at:
        raise InvalidInput("Snooze to a later instant.", pointer="/until")
    return states.transition(item, "snooze", actor=actor, at=at, reason=reason, until=until)


def resolve_review(
    *, item: ReviewItem, code: str, actor: Actor, at: datetime, reason: str = ""
) -> ReviewItem:
    """Close an item with a resolution code and a note; the same problem later opens a new item."""
    if code not in Resolution.values:
        raise InvalidInput(f"{code!r} is no resolution.", pointer="/code", code="unknown_resolution")
    return states.transition(
        item, "resolve", actor=actor, at=at, reason=reason, code=code, note=reason, resolved_at=at
    )


def clear_reviews(
    *, subject_type: str, subject_id: Any, actor: Actor, at: datetime, kind: str = "", reason: str = ""
) -> int:
    """Resolve a subject's items because what they asked has settled itself; return how many."""
    return clear_reviews_of(
        subject_type=subject_type, subject_ids=[subject_id], actor=actor, at=at, kind=kind, reason=reason
    )


@transaction.atomic
def clear_reviews_of(
    *,
    subject_type: str,
    subject_ids: Iterable[Any],
    actor: Actor,
    at: datetime,
    kind: str = "",
    reason: str = "",
) -> int:
    """`clear_reviews` of several subjects of one type, asking once for all of them."""
    items = ReviewItem.objects.exclude(status=ReviewStatus.RESOLVED).filter(
        subject_type=subject_type.lower(),
        subject_id__in=[str(subject_id) for subject_id in subject_ids],
        **({"kind": kind} if kind else {}),
    )
    for item in items:
        resolve_review(item=item, code=Resolution.CLEARED, actor=actor, at=at, reason=reason)
    return len(items)
