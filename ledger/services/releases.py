"""Scheduled releases: a payee's money waits in Pay-In Holding until `due_at`, unless it is held."""

import logging
from datetime import datetime
from uuid import UUID

from django.db import transaction

from commerce.actor import Actor
from commerce.console.services import clear_reviews, open_review
from commerce.crash import crash_point
from commerce.errors import Conflict, InsufficientFunds, InvalidInput
from commerce.money import Money
from commerce.states import transition
from ledger.models import LedgerRelease
from ledger.rules import recipes
from ledger.services.posting import Posting, post_all

log = logging.getLogger(__name__)

RELEASES_PER_COMMIT = 50


@transaction.atomic
def schedule_release(
    *, owner: UUID, amount: Money, due_at: datetime, source: str, key: str, at: datetime, actor: Actor
) -> LedgerRelease:
    """Plan that `amount` becomes payable to `owner` at `due_at`.

    The same key with the same owner, amount and source returns the first row, with others it is a
    Conflict. Nothing is posted until `release_due` finds it.
    """
    for name, instant in (("due_at", due_at), ("at", at)):
        if instant.tzinfo is None:
            raise InvalidInput("The instant has no offset.", pointer=f"/{name}", code="invalid_instant")
    if amount.minor <= 0:
        raise InvalidInput(f"{amount} cannot be released.", pointer="/amount", code="amount_not_positive")
    row, created = LedgerRelease.objects.get_or_create(
        key=key,
        defaults={
            "owner_id": owner,
            "amount_minor": amount.minor,
            "currency": amount.currency,
            "source": source,
            "due_at": due_at,
            "scheduled_at": at,
        },
    )
    if not created and (row.owner_id, row.amount, row.source) != (owner, amount, source):
        raise Conflict(
            f"The key {key} was used before for a release of {row.amount}.", code="key_conflict", key=key
        )
    if created:
        log.info(
            "release scheduled", extra={"release": str(row.pk), "key": key, "due_at": due_at.isoformat()}
        )
    return row


def hold_release(*, release: LedgerRelease, actor: Actor, at: datetime, reason: str) -> LedgerRelease:
    """Stop a scheduled release until the hold is lifted."""
    return transition(release, "hold", actor=actor, at=at, reason=reason)


def lift_release(*, release: LedgerRelease, actor: Actor, at: datetime, reason: str) -> LedgerRelease:
    """End the hold; the release is due at its old instant."""
    with transaction.atomic():
        row = transition(release, "lift", actor=actor, at=at, reason=reason)
        _clear_reviews(row, actor, at, reason)
        return row


def cancel_release(*, release: LedgerRelease, actor: Actor, at: datetime, reason: str) -> LedgerRelease:
    """Give the release up; the money stays in holding for whoever cancelled to move."""
    with transaction.atomic():
        row = transition(release, "cancel", actor=actor, at=at, reason=reason)
        _clear_reviews(row, actor, at, reason)
        return row


def release_due(*, at: datetime, actor: Actor, limit: int = 500) -> int:
    """Release what is due at `at`, oldest first; returns how many. Safe to run beside itself.

    A release whose money is no longer in holding is put on hold for a person to look at.
    """
    released = 0
    while released < limit:
        found = _release_some(at, actor, min(RELEASES_PER_COMMIT, limit - released))
        if not found:
            break
        released += found
        crash_point("ledger.after_release_commit")
    return released


@transaction.atomic
def _release_some(at: datetime, actor: Actor, limit: int) -> int:
    due = list(
        LedgerRelease.objects.filter(status=LedgerRelease.Status.SCHEDULED, due_at__lte=at)
        .order_by("due_at", "id")
        .select_for_update(skip_locked=True, no_key=True)[:limit]
    )
    try:
        return _release(due, at, actor)
    except InsufficientFunds:
        return sum(_release_or_hold(row, at, actor) for row in due)


def _release(due: list[LedgerRelease], at: datetime, actor: Actor) -> int:
    posted = post_all(
        postings=[
            Posting(
                recipes.release(payee=row.owner_id, amount=row.amount),
                key=f"release:{row.pk}",
                source=f"ledger_release:{row.pk}",
                recipe="release",
                at=at,
            )
            for row in due
        ],
        actor=actor,
    )
    crash_point("ledger.before_release_commit")
    for row, written in zip(due, posted, strict=True):
        transition(row, "release", actor=actor, at=at, transaction=written)
    return len(due)


def _release_or_hold(row: LedgerRelease, at: datetime, actor: Actor) -> int:
    try:
        return _release([row], at, actor)
    except InsufficientFunds as error:
        log.error("release held: %s", error.detail, extra={"release": str(row.pk)})
        held = hold_release(release=row, actor=actor, at=at, reason=error.detail)
        open_review(
            kind="release_without_money",
            subject_type="ledger.ledgerrelease",
            subject_id=row.pk,
            title=f"{row} is due and the money is not in holding",
            detail=error.detail,
            value=held.amount,
            actor=actor,
            at=at,
        )
        return 0


def _clear_reviews(row: LedgerRelease, actor: Actor, at: datetime, reason: str) -> None:
    clear_reviews(subject_type="ledger.ledgerrelease", subject_id=row.pk, actor=actor, at=at, reason=reason)
