"""Sending what is due: claims under a lease, several at once, none of it inside a transaction.

At least once: a worker that dies after the receiver has answered leaves a message that is sent
again, under the same webhook-id. Whoever lost a lease changes nothing but the log of attempts. An
endpoint has a few messages in flight at a time, a failing one a single one, and all failing ones
together at most half of a worker's hands, so that slow ones hold up nobody else.
"""

import logging
import random
import time
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from django.db import connection, transaction
from django.db.models import Min, Q
from django.utils import timezone

from commerce import states
from commerce.actor import Actor
from commerce.console.services import open_review
from commerce.crash import crash_point
from commerce.errors import StateConflict
from commerce.outbox.stopping import stopping
from commerce.webhooks import sending, signing
from commerce.webhooks.models import (
    DisabledBecause,
    EndpointStatus,
    PendingEvent,
    WebhookAttempt,
    WebhookEndpoint,
    WebhookHealth,
    WebhookMessage,
    WebhookSecret,
    facts,
)
from commerce.webhooks.sending import Outcome

log = logging.getLogger(__name__)

# The waits after the first, the second, … attempt: 75 hours, and one attempt more than there are waits.
SCHEDULE = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 300, 1800, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
)
JITTER = 0.1
AT_ONCE = 16
PER_ENDPOINT = 4
LEASE = timedelta(seconds=60)
LOOKS_AGAIN_SECONDS = 1.0
DISABLED_AFTER = timedelta(days=5)
COLLECTS_FOR = timedelta(days=30)
SUCCESS_IS_NOTED_EVERY = timedelta(minutes=1)
REVIEW = "webhook_endpoint_failing"
SYSTEM = Actor.system("webhooks")

# One claim at a time, for it counts what others hold. Each endpoint is one look into an index, however
# many messages wait; the order of the endpoints is drawn, so that nobody is always first.
_CLAIMS = "SELECT pg_advisory_xact_lock(hashtext('webhooks.claim'))"
_CLAIM = """
UPDATE webhooks_webhookmessage m
SET lease_token = %(token)s, due_at = %(now)s + %(lease)s, attempts = m.attempts + 1
FROM (
  SELECT due.id FROM (
    SELECT e.id, CASE WHEN %(failing)s THEN 1 ELSE %(each)s END - (
      SELECT count(*) FROM webhooks_webhookmessage h
      WHERE h.endpoint_id = e.id AND h.lease_token IS NOT NULL AND h.due_at > %(now)s
    ) AS free
    FROM webhooks_webhookendpoint e JOIN webhooks_webhookhealth w ON w.endpoint_id = e.id
    WHERE e.status = 'enabled' AND (w.failing_since IS NOT NULL) = %(failing)s
    ORDER BY random()
  ) e CROSS JOIN LATERAL (
    SELECT id FROM webhooks_webhookmessage d WHERE d.endpoint_id = e.id AND d.due_at <= %(now)s
    ORDER BY d.due_at LIMIT greatest(e.free, 0) FOR NO KEY UPDATE SKIP LOCKED
  ) due LIMIT %(limit)s
) due WHERE m.id = due.id RETURNING m.id
"""


@dataclass
class Report:
    """What one run sent."""

    delivered: int = 0
    failed: int = 0
    lost: int = 0

    @property
    def sent(self) -> int:
        return self.delivered + self.failed + self.lost


@dataclass(frozen=True)
class _Claimed:
    """What a thread needs, which itself never asks the database."""

    message: WebhookMessage
    keys: tuple[str, ...]
    failing: bool


def deliver_due(*, at: datetime, seconds: float = 20, limit: int = 100_000) -> Report:
    """Send what is due until nothing is, `limit` were sent, `seconds` have passed, or the worker ends; what
    is in flight then is waited for, at most as long as one exchange may take."""
    report, deadline = Report(), time.monotonic() + seconds
    token, begun = uuid4(), 0
    flying: dict[Future[Outcome], _Claimed] = {}
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook") as pool:
        start = pool.submit
        while True:
            free = AT_ONCE - len(flying)
            if free and begun < limit and time.monotonic() < deadline and not stopping():
                for claimed in _claim(token, min(free, limit - begun), _failing(flying)):
                    flying[start(_send, claimed)] = claimed
                    begun += 1
            if not flying:
                return report
            done, _ = wait(flying, timeout=LOOKS_AGAIN_SECONDS, return_when=FIRST_COMPLETED)
            _settle([(flying.pop(future), future.result()) for future in done], token, report, at)


def _failing(flying: dict[Future[Outcome], _Claimed]) -> int:
    return sum(claimed.failing for claimed in flying.values())


def _claim(token: UUID, free: int, failing: int) -> list[_Claimed]:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_CLAIMS)
        found = [(id_, False) for id_ in _claimed(cursor, token, free, failing=False)]
        hands = min(free - len(found), AT_ONCE // 2 - failing)
        found += [(id_, True) for id_ in _claimed(cursor, token, hands, failing=True)] if hands > 0 else []
    messages = WebhookMessage.objects.select_related("endpoint").in_bulk([id_ for id_, _ in found])
    keys = _keys({message.endpoint_id for message in messages.values()})
    return [
        _Claimed(messages[id_], tuple(keys.get(messages[id_].endpoint_id, ())), is_failing)
        for id_, is_failing in found
    ]


def _claimed(cursor: Any, token: UUID, limit: int, *, failing: bool) -> list[UUID]:
    arguments = {
        "now": timezone.now(),
        "token": token,
        "lease": LEASE,
        "each": PER_ENDPOINT,
        "failing": failing,
        "limit": limit,
    }
    cursor.execute(_CLAIM, arguments)
    return [row[0] for row in cursor.fetchall()]


def _keys(endpoint_ids: Collection[UUID]) -> dict[UUID, list[str]]:
    """The secrets in use: the newest first, then the one before for a day after its rotation."""
    found: dict[UUID, list[str]] = {}
    valid = Q(expires_at__isnull=True) | Q(expires_at__gt=timezone.now())
    for row in WebhookSecret.objects.filter(valid, endpoint__in=endpoint_ids).order_by("-id"):
        try:
            found.setdefault(row.endpoint_id, []).append(signing.unseal(row.ciphertext))
        except StateConflict:
            log.exception("a signing secret cannot be read", extra={"endpoint": str(row.endpoint_id)})
    return found


def _send(claimed: _Claimed) -> Outcome:
    """Nothing is sent without a signature."""
    message, body = claimed.message, bytes(claimed.message.body)
    if not claimed.keys:
        return Outcome(None, "The endpoint's secret cannot be read here: rotate it.", 0)
    headers = signing.headers(claimed.keys, message.webhook_id, int(time.time()), body)
    return sending.post(message.endpoint.url, body, headers)


def _settle(done: Sequence[tuple[_Claimed, Outcome]], token: UUID, report: Report, at: datetime) -> None:
    for claimed, outcome in done:
        message = claimed.message
        crash_point("webhooks.after_sending")
        with transaction.atomic():
            kept = _record(message, outcome, token)
            if kept:
                _note_health(message.endpoint, outcome, at)
        if not kept:
            report.lost += 1
        elif outcome.delivered:
            report.delivered += 1
        else:
            report.failed += 1
        log.log(
            logging.INFO if outcome.delivered else logging.WARNING,
            "webhook %s",
            "delivered" if outcome.delivered else "not delivered",
            extra={
                **facts(message),
                "attempt": message.attempts,
                "status": outcome.status_code,
                "error": outcome.error,
                "ms": outcome.duration_ms,
                "kept": kept,
            },
        )


def _record(message: WebhookMessage, outcome: Outcome, token: UUID) -> bool:
    """Log the attempt, and move the message if it is still ours to move."""
    now = timezone.now()
    WebhookAttempt.objects.create(
        message=message,
        number=message.attempts,
        at=now - timedelta(milliseconds=outcome.duration_ms),
        status_code=outcome.status_code,
        error=outcome.error,
        duration_ms=outcome.duration_ms,
        answer=outcome.answer,
    )
    change: dict[str, Any] = {"lease_token": None, "last_error": outcome.error}
    if outcome.delivered:
        change |= {"due_at": None, "delivered_at": now}
    elif message.attempts > len(SCHEDULE):
        change |= {"due_at": None, "failed_at": now}
    else:
        change |= {"due_at": now + delay(message.attempts, outcome.retry_after)}
    return bool(WebhookMessage.objects.filter(pk=message.pk, lease_token=token).update(**change))


def delay(attempt: int, retry_after: timedelta | None = None) -> timedelta:
    """The wait after an attempt: the schedule's, more or less a tenth, or longer if the receiver asks."""
    planned = SCHEDULE[attempt - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
    return max(planned, retry_after or timedelta(0))


def _note_health(endpoint: WebhookEndpoint, outcome: Outcome, at: datetime) -> None:
    now = timezone.now()
    health = WebhookHealth.objects.filter(pk=endpoint.pk)
    if outcome.delivered:
        stale = Q(last_success_at__isnull=True) | Q(last_success_at__lt=now - SUCCESS_IS_NOTED_EVERY)
        health.filter(Q(failing_since__isnull=False) | stale).update(failing_since=None, last_success_at=now)
        return
    health.filter(failing_since__isnull=True).update(failing_since=now)
    health.update(last_failure_at=now, last_error=outcome.error)
    if outcome.status_code == 410:
        _disable(endpoint, DisabledBecause.GONE, at)
    elif health.filter(failing_since__lte=now - DISABLED_AFTER).exists():
        _disable(endpoint, DisabledBecause.FAILING, at)


def _disable(endpoint: WebhookEndpoint, because: DisabledBecause, at: datetime) -> None:
    """Stop sending; what is pending waits, and a person is told."""
    row = (
        WebhookEndpoint.objects.select_for_update(no_key=True)
        .select_related("organization")
        .get(pk=endpoint.pk)
    )
    if row.status != EndpointStatus.ENABLED:
        return
    states.transition(
        row,
        "disable",
        actor=SYSTEM,
        at=at,
        reason=f"Disabled by the system: {because.label}.",
        because=because,
        disabled_at=at,
        collects_until=timezone.now() + COLLECTS_FOR,
    )
    waiting = row.messages.filter(due_at__isnull=False)[:10_000].count()
    open_review(
        kind=REVIEW,
        subject_type="webhooks.webhookendpoint",
        subject_id=row.pk,
        title=f"{row.organization}: webhook endpoint disabled",
        detail=(
            f"{row.url}: {because.label}. {waiting} messages wait, new ones are collected for "
            f"{COLLECTS_FOR.days} days. When the receiver is well again, enable it: they go out then."
        ),
        actor=SYSTEM,
        at=at,
    )


@transaction.atomic
def cancel_of_deleted(*, limit: int = 5000) -> int:
    """Cancel what is pending for endpoints that were deleted, a batch at a time."""
    left = WebhookMessage.objects.filter(
        endpoint__status=EndpointStatus.DELETED, due_at__isnull=False
    ).values("pk")[:limit]
    return WebhookMessage.objects.filter(pk__in=left).update(
        due_at=None, lease_token=None, cancelled_at=timezone.now()
    )


def forget_expired_secrets() -> int:
    """Secrets that sign nothing any more are not kept."""
    return WebhookSecret.objects.filter(expires_at__lte=timezone.now()).delete()[0]


def status() -> dict[str, Any]:
    """Figures for scrapers and the console: bounded counts and the age of what waits longest."""
    now = timezone.now()
    waiting = WebhookMessage.objects.filter(due_at__lte=now, endpoint__status=EndpointStatus.ENABLED)
    oldest = waiting.aggregate(oldest=Min("due_at"))["oldest"]
    return {
        "due": waiting[:10_000].count(),
        "oldest_due_seconds": (now - oldest).total_seconds() if oldest else 0.0,
        "pending_events": PendingEvent.objects.all()[:10_000].count(),
        "failing_endpoints": WebhookHealth.objects.filter(
            failing_since__isnull=False, endpoint__status=EndpointStatus.ENABLED
        ).count(),
        "disabled_endpoints": WebhookEndpoint.objects.filter(status=EndpointStatus.DISABLED).count(),
    }


def attempts_left(message: WebhookMessage) -> int:
    return max(len(SCHEDULE) + 1 - message.attempts, 0)
