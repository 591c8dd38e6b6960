"""What organizations and operators do with webhook endpoints.

A secret is returned in plain once, by the call that makes it. What changes an endpoint locks it, its
health first where that is written too, and counts its version; sending is `delivery`, making messages
`fan_out`.
"""

import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Least
from django.utils import timezone

from commerce import states
from commerce.actor import Actor
from commerce.console.services import clear_reviews
from commerce.errors import Conflict, InvalidInput, PermissionDenied, StateConflict, VersionConflict
from commerce.ids import uuid7
from commerce.parties.models import Organization, Role
from commerce.webhooks import delivery, destinations, event_types, signing
from commerce.webhooks.models import (
    OPERATE,
    DisabledBecause,
    EndpointStatus,
    WebhookEndpoint,
    WebhookHealth,
    WebhookMessage,
    WebhookSecret,
    WebhookSubscription,
)

log = logging.getLogger(__name__)

REGISTER = "webhooks.register_webhookendpoint"
MOST_ENDPOINTS = 20
OLD_SECRET_SIGNS_FOR = timedelta(hours=24)
MOST_SECRETS = 5


@transaction.atomic
def create_endpoint(
    *,
    organization: Organization,
    url: str,
    event_types: Iterable[str],
    actor: Actor,
    at: datetime,
    description: str = "",
) -> tuple[WebhookEndpoint, str]:
    """Make an endpoint, enabled, and return it with its signing secret, which nobody can read again.

    PermissionDenied for who may not read what it would be told of.
    """
    actor.require(REGISTER)
    Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
    live = WebhookEndpoint.objects.exclude(status=EndpointStatus.DELETED).filter(organization=organization)
    if live.count() >= MOST_ENDPOINTS:
        raise Conflict(f"An organization has at most {MOST_ENDPOINTS} endpoints.", code="limit_exceeded")
    checked = _checked(organization, url=url, event_types=event_types, description=description)
    _require_reading(actor, organization, checked["event_types"])
    endpoint = WebhookEndpoint.objects.create(organization=organization, **checked, created_at=at)
    WebhookHealth.objects.create(endpoint=endpoint)
    _subscribe(endpoint)
    secret = _make_secret(endpoint)
    log.info("webhook endpoint made", extra={"endpoint": str(endpoint.pk), "by": str(actor)})
    return endpoint, secret


@transaction.atomic
def update_endpoint(
    *,
    endpoint: WebhookEndpoint,
    actor: Actor,
    at: datetime,
    expected_version: int | None = None,
    **changes: Any,
) -> WebhookEndpoint:
    """Change `url`, `event_types` or `description`. What is pending goes to the new URL, which has five days
    of its own. PermissionDenied for who may not read what the endpoint is told of, before or after."""
    actor.require(REGISTER)
    health = _locked_health(endpoint)
    row = _locked(endpoint, expected_version)
    if row.status == EndpointStatus.DELETED:
        raise StateConflict("The endpoint was deleted.", state=row.status)
    checked = _checked(row.organization, **changes)
    _require_reading(actor, row.organization, {*row.event_types, *checked.get("event_types", ())})
    if checked.get("url", row.url) != row.url:
        _require_reading_what_is_left(actor, row)
        health.update(failing_since=None)
    for name, value in checked.items():
        setattr(row, name, value)
    row.version += 1
    row.save()
    _subscribe(row)
    log.info(
        "webhook endpoint changed",
        extra={"endpoint": str(row.pk), "by": str(actor), "fields": sorted(changes)},
    )
    return row


@transaction.atomic
def rotate_secret(
    *, endpoint: WebhookEndpoint, actor: Actor, at: datetime, reason: str = "", expire_now: bool = False
) -> tuple[WebhookEndpoint, str]:
    """A new signing secret, returned in plain once; the one before signs besides for 24 hours, or with
    `expire_now`, because it leaked, neither it nor any older one signs what is sent from now on."""
    actor.require(REGISTER)
    row = _locked(endpoint)
    if row.status == EndpointStatus.DELETED:
        raise StateConflict("The endpoint was deleted.", state=row.status)
    now = timezone.now()
    if expire_now:
        row.secrets.all().delete()
    elif row.secrets.filter(expires_at__gt=now).count() >= MOST_SECRETS - 1:
        raise Conflict(
            f"{MOST_SECRETS} secrets sign already; wait until one has expired.", code="limit_exceeded"
        )
    row.secrets.filter(expires_at__isnull=True).update(expires_at=now + OLD_SECRET_SIGNS_FOR)
    secret = _make_secret(row)
    row.version += 1
    row.save(update_fields=["version"])
    clear_reviews(
        subject_type="webhooks.webhookendpoint",
        subject_id=row.pk,
        kind=delivery.UNREADABLE,
        actor=Actor.system("webhooks"),
        at=at,
        reason="The secret was rotated.",
    )
    log.info(
        "webhook secret rotated",
        extra={"endpoint": str(row.pk), "by": str(actor), "reason": reason, "expire_now": expire_now},
    )
    return row, secret


@transaction.atomic
def disable_endpoint(
    *, endpoint: WebhookEndpoint, actor: Actor, at: datetime, reason: str = ""
) -> WebhookEndpoint:
    """Send nothing for now. What is pending waits; events are collected for another 30 days."""
    actor.require(OPERATE)
    return states.transition(
        endpoint,
        "disable",
        actor=actor,
        at=at,
        reason=reason,
        because=DisabledBecause.PERSON,
        disabled_at=at,
        collects_until=timezone.now() + delivery.COLLECTS_FOR,
    )


@transaction.atomic
def enable_endpoint(
    *, endpoint: WebhookEndpoint, actor: Actor, at: datetime, reason: str = ""
) -> WebhookEndpoint:
    """Send again, and its five days begin anew: what has waited is due now, of what waits for a retry the
    soonest, and the rest in its turn."""
    WebhookHealth.objects.filter(pk=endpoint.pk).update(failing_since=None)
    row = states.transition(endpoint, "enable", actor=actor, at=at, reason=reason)
    clear_reviews(
        subject_type="webhooks.webhookendpoint",
        subject_id=row.pk,
        kind=delivery.REVIEW,
        actor=Actor.system("webhooks"),
        at=at,
        reason="The endpoint was enabled.",
    )
    waiting = row.messages.filter(due_at__gt=timezone.now(), lease_token__isnull=True).order_by("due_at")
    soonest = waiting.values("pk")[: delivery.BATCH]
    row.messages.filter(pk__in=soonest, lease_token__isnull=True).update(due_at=timezone.now())
    _wake_after_commit()
    return row


@transaction.atomic
def delete_endpoint(
    *,
    endpoint: WebhookEndpoint,
    actor: Actor,
    at: datetime,
    reason: str = "",
    expected_version: int | None = None,
) -> WebhookEndpoint:
    """End it for good. Its log stays; what is pending is cancelled, and its secrets are gone."""
    _locked(endpoint, expected_version)
    row = states.transition(endpoint, "delete_for_good", actor=actor, at=at, reason=reason)
    row.secrets.all().delete()
    row.subscriptions.all().delete()
    clear_reviews(
        subject_type="webhooks.webhookendpoint",
        subject_id=row.pk,
        actor=Actor.system("webhooks"),
        at=at,
        reason="The endpoint was deleted.",
    )
    return row


@transaction.atomic
def send_test_event(
    *, endpoint: WebhookEndpoint, actor: Actor, at: datetime, reason: str = ""
) -> WebhookMessage:
    """Put a `webhook.test` on its way, signed and logged as any other message."""
    actor.require(OPERATE)
    row = _locked(endpoint)
    if row.status != EndpointStatus.ENABLED:
        raise StateConflict(f"The endpoint is {row.status}.", state=row.status)
    event_id = uuid7()
    document = {
        "type": event_types.TEST,
        "timestamp": at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "data": {
            "id": str(event_id), "object": row.aggregate_type, "object_id": str(row.pk), "sequence": 0,
        },
    }  # fmt: skip
    message = WebhookMessage.objects.create(
        endpoint=row,
        event_id=event_id,
        type=event_types.TEST,
        body=json.dumps(document, separators=(",", ":")).encode(),
        due_at=timezone.now(),
    )
    _wake_after_commit()
    return message


@transaction.atomic
def resend_message(
    *, message: WebhookMessage, actor: Actor, at: datetime, reason: str = ""
) -> WebhookMessage:
    """Send a message again, as it was and under the same webhook-id, on a new schedule.

    PermissionDenied for who may not read what it tells of.
    """
    actor.require(OPERATE)
    row = WebhookMessage.objects.select_for_update(of=("self",), no_key=True).get(pk=message.pk)
    if row.type not in event_types.open_to(actor):
        raise PermissionDenied(f"{actor.label or actor} may not read what a {row.type} tells of.")
    status = WebhookEndpoint.objects.get(pk=row.endpoint_id).status
    if status == EndpointStatus.DELETED:
        raise StateConflict("The endpoint was deleted.", state=status)
    if row.lease_token and row.due_at and row.due_at > timezone.now():
        raise StateConflict("The message is being sent just now.", state=row.status)
    row.delivered_at = row.failed_at = row.cancelled_at = row.lease_token = None
    row.due_at, row.attempts, row.last_error = timezone.now(), 0, ""
    row.save()
    log.info(
        "webhook sent again",
        extra={"webhook": row.webhook_id, "endpoint": str(row.endpoint_id), "by": str(actor)},
    )
    _wake_after_commit()
    return row


@transaction.atomic
def resend_failed(
    *, endpoint: WebhookEndpoint, since: datetime, actor: Actor, at: datetime, reason: str = ""
) -> int:
    """Send all messages again that failed for good and were made since then; return how many are due now.
    Where there are more than a batch, the rest follows by itself."""
    actor.require(OPERATE)
    health = _locked_health(endpoint)
    row = _locked(endpoint)
    if row.status == EndpointStatus.DELETED:
        raise StateConflict("The endpoint was deleted.", state=row.status)
    health.update(resend_since=Least("resend_since", since), resend_before=timezone.now())
    count = delivery.resend_batch(row.pk)
    log.info(
        "failed webhooks sent again", extra={"endpoint": str(row.pk), "by": str(actor), "messages": count}
    )
    _wake_after_commit()
    return count


@transaction.atomic
def reseal_secrets(*, actor: Actor, at: datetime) -> int:
    """Seal every secret with today's SECRET_KEY, so that a former one can be forgotten."""
    actor.require(REGISTER)
    count = 0
    for row in WebhookSecret.objects.select_for_update().order_by("id"):
        WebhookSecret.objects.filter(pk=row.pk).update(ciphertext=signing.reseal(row.ciphertext))
        count += 1
    return count


def _checked(organization: Organization, **given: Any) -> dict[str, Any]:
    """The same values, as they may be stored. InvalidInput or ForbiddenDestination says what may not."""
    found = dict(given)
    if "url" in given:
        destinations.check(given["url"])
    if "event_types" in given:
        platform = organization.has_role(Role.PLATFORM)
        found["event_types"] = event_types.checked(given["event_types"], platform=platform)
    if len(given.get("description", "")) > 200:
        raise InvalidInput("At most 200 characters are expected.", pointer="/description")
    return found


def _require_reading(actor: Actor, owner: Organization, patterns: Iterable[str]) -> None:
    event_types.require_reading(actor, patterns, platform=owner.has_role(Role.PLATFORM))


def _require_reading_what_is_left(actor: Actor, row: WebhookEndpoint) -> None:
    """What waits, or failed and may be sent again, is perhaps of types that it was subscribed to before."""
    if event_types.is_all_open_to(actor, platform=row.organization.has_role(Role.PLATFORM)):
        return
    # Each half has its index, however much was delivered.
    left = row.messages.filter(Q(due_at__isnull=False) | Q(failed_at__isnull=False))
    if left.exclude(type__in=event_types.open_to(actor)).exists():
        raise PermissionDenied(f"{actor.label or actor} may not read all the messages that are left here.")


def _locked(endpoint: WebhookEndpoint, expected_version: int | None = None) -> WebhookEndpoint:
    rows = WebhookEndpoint.objects.select_for_update(of=("self",), no_key=True)
    row = rows.select_related("organization").get(pk=endpoint.pk)
    if expected_version is not None and row.version != expected_version:
        raise VersionConflict(f"The endpoint is at version {row.version}.", current_version=row.version)
    return row


def _locked_health(endpoint: WebhookEndpoint) -> QuerySet[WebhookHealth]:
    """The one row, ours from now on. Before the endpoint's: a delivery that disables it takes them so."""
    rows = WebhookHealth.objects.filter(pk=endpoint.pk)
    rows.select_for_update(no_key=True).get()
    return rows


def _subscribe(endpoint: WebhookEndpoint) -> None:
    """Make the rows that the trigger on the events asks those that the endpoint says."""
    endpoint.subscriptions.exclude(pattern__in=endpoint.event_types).delete()
    WebhookSubscription.objects.bulk_create(
        [WebhookSubscription(endpoint=endpoint, pattern=pattern) for pattern in endpoint.event_types],
        ignore_conflicts=True,
    )


def _make_secret(endpoint: WebhookEndpoint) -> str:
    secret = signing.new_secret()
    WebhookSecret.objects.create(endpoint=endpoint, ciphertext=signing.seal(secret))
    return secret


def _wake_after_commit() -> None:
    from commerce.webhooks.tasks import wake

    transaction.on_commit(wake, robust=True)


def endpoint_of(pk: UUID | str) -> WebhookEndpoint:
    return WebhookEndpoint.objects.select_related("organization", "health").get(pk=pk)
