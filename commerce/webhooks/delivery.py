"""Sending what is due: claims under a lease, several at once, none of it inside a transaction.

At least once: a worker that dies after the receiver has answered leaves a message that is sent
again, under the same webhook-id. Whoever lost a lease changes nothing but the log of attempts. An
organization and an endpoint have a few messages in flight at a time, a failing endpoint a single one,
and all failing ones at most half of a worker's hands, so that slow ones hold up nobody else.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Now
from django.utils import timezone

from commerce import states
from commerce.actor import Actor
from commerce.console.models import ReviewItem, ReviewStatus
from commerce.console.services import open_review
from commerce.crash import crash_point
from commerce.errors import StateConflict
from commerce.ids import first_at
from commerce.outbox.stopping import stopping
from commerce.webhooks import sending, signing
from commerce.webhooks.models import (
    DisabledBecause,
    EndpointStatus,
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
PER_ORGANIZATION = 4
PER_ENDPOINT = 3
# As many rows as one hand's share of what an organization with all its endpoints may show in vain.
LOOKED_AT = 20
# Longer than an exchange may take, the look-up of the name included, and than writing down what came of it.
LEASE = timedelta(seconds=60)
LOOKS_AGAIN_SECONDS = 1.0
# A claim is worth its price for a few free hands, or after a while for any.
CLAIMS_FOR = 4
CLAIMS_EVERY_SECONDS = 0.1
UNREADABLE_WAIT = timedelta(hours=1)
MOST_COUNTED = 10_000
# As many rows as one transaction changes.
BATCH = 5000
DISABLED_AT_ONCE = 100
DISABLED_AFTER = timedelta(days=5)
COLLECTS_FOR = timedelta(days=30)
SUCCESS_IS_NOTED_EVERY = timedelta(minutes=1)
REVIEW = "webhook_endpoint_failing"
UNREADABLE = "webhook_secret_unreadable"
SYSTEM = Actor.system("webhooks")

# One claim at a time, for it counts what others hold.
_ALONE = "SELECT pg_advisory_xact_lock(hashtext('webhooks.claim'))"
_HELD = """
SELECT m.endpoint_id, e.organization_id, count(*)
FROM webhooks_webhookmessage m JOIN webhooks_webhookendpoint e ON e.id = m.endpoint_id
WHERE m.lease_token IS NOT NULL AND m.due_at > statement_timestamp() GROUP BY 1, 2
"""
# From endpoint to endpoint that has something pending, each one look into an index, however many messages
# wait and however many endpoints have none; the walk ends as soon as enough is found.
_DUE = """
WITH RECURSIVE pending AS (
  (SELECT endpoint_id, due_at FROM webhooks_webhookmessage
   WHERE due_at IS NOT NULL AND endpoint_id > %(after)s ORDER BY endpoint_id, due_at LIMIT 1)
  UNION ALL
  SELECT next.* FROM pending p CROSS JOIN LATERAL (
    SELECT endpoint_id, due_at FROM webhooks_webhookmessage
    WHERE due_at IS NOT NULL AND endpoint_id > p.endpoint_id ORDER BY endpoint_id, due_at LIMIT 1) next
  WHERE p.endpoint_id < %(until)s
)
SELECT due.id, p.endpoint_id, e.organization_id FROM pending p
CROSS JOIN LATERAL (
  SELECT e.organization_id
  FROM webhooks_webhookendpoint e JOIN webhooks_webhookhealth h ON h.endpoint_id = e.id
  WHERE e.id = p.endpoint_id AND e.status = 'enabled' AND (h.failing_since IS NOT NULL) = %(failing)s
    AND e.id <> ALL (%(full)s) AND e.organization_id <> ALL (%(full)s) LIMIT 1
) e CROSS JOIN LATERAL (
  SELECT d.id FROM webhooks_webhookmessage d
  WHERE d.endpoint_id = p.endpoint_id AND d.due_at <= statement_timestamp() ORDER BY d.due_at LIMIT %(each)s
) due WHERE p.due_at <= statement_timestamp() AND p.endpoint_id <= %(until)s LIMIT %(most)s
"""
_LEASE = """
UPDATE webhooks_webhookmessage
SET lease_token = %(token)s, due_at = statement_timestamp() + %(lease)s, attempts = attempts + 1
WHERE id IN (
  SELECT id FROM webhooks_webhookmessage WHERE id = ANY (%(ids)s) AND due_at <= statement_timestamp()
  FOR NO KEY UPDATE SKIP LOCKED
) RETURNING id
"""
# Who fails waits on purpose; late is what is due to those that are well.
_STATUS = """
SELECT
  COALESCE(extract(epoch FROM now() - min(oldest.due_at)), 0)::float
    AS oldest_due_seconds,
  COALESCE(extract(epoch FROM now() - (
    SELECT due_at FROM webhooks_pendingevent WHERE due_at <= now() ORDER BY due_at LIMIT 1)), 0)::float
    AS events_oldest_due_seconds,
  (SELECT count(*) FROM (SELECT FROM webhooks_pendingevent LIMIT %s) pending) AS events_pending,
  count(*) AS endpoints_enabled,
  count(h.failing_since) AS endpoints_failing,
  COALESCE(extract(epoch FROM now() - min(h.failing_since)), 0)::float AS failing_seconds,
  (SELECT count(*) FROM webhooks_webhookendpoint
   WHERE status = 'disabled' AND disabled_because IN ('failing', 'gone')) AS endpoints_disabled
FROM webhooks_webhookendpoint e JOIN webhooks_webhookhealth h ON h.endpoint_id = e.id
LEFT JOIN LATERAL (
  SELECT due_at FROM webhooks_webhookmessage m
  WHERE m.endpoint_id = e.id AND due_at <= now() ORDER BY due_at LIMIT 1
) oldest ON h.failing_since IS NULL
WHERE e.status = 'enabled'
"""
# Whose turn it was last, of those that are well and of those that fail: the next claim goes on from there.
_turns = {False: UUID(int=0), True: UUID(int=0)}


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
    token, begun, freed, claimed_at = uuid4(), 0, 0, float("-inf")
    flying: dict[Future[Outcome], _Claimed] = {}
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook") as pool:
        start = pool.submit
        while True:
            some: list[_Claimed] = []
            ripe = not flying or freed >= CLAIMS_FOR or time.monotonic() >= claimed_at + CLAIMS_EVERY_SECONDS
            free = min(AT_ONCE - len(flying), limit - begun)
            if ripe and free > 0 and time.monotonic() < deadline and not stopping():
                some = _claim(token, free, _failing(flying))
                begun, freed, claimed_at = begun + len(some), 0, time.monotonic()
            for claimed in some:
                if claimed.keys:
                    flying[start(_send, claimed)] = claimed
                else:
                    _put_back(claimed.message, token, at)
            if not flying and not some:
                return report
            patience = CLAIMS_EVERY_SECONDS if freed else LOOKS_AGAIN_SECONDS
            done, _ = wait(flying, timeout=patience, return_when=FIRST_COMPLETED)
            freed += len(done)
            _settle([(flying.pop(future), future.result()) for future in done], token, report, at)


def _failing(flying: dict[Future[Outcome], _Claimed]) -> int:
    return sum(claimed.failing for claimed in flying.values())


def _claim(token: UUID, free: int, failing: int) -> list[_Claimed]:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_ALONE)
        cursor.execute(_HELD)
        held = _Held()
        for endpoint_id, organization_id, count in cursor.fetchall():
            held.add(endpoint_id, organization_id, count)
        well = _due(cursor, free, held, failing=False)
        ill = _due(cursor, min(free - len(well), AT_ONCE // 2 - failing), held, failing=True)
        arguments: dict[str, Any] = {"token": token, "lease": LEASE, "ids": well + ill}
        cursor.execute(_LEASE, arguments)
        leased = [row[0] for row in cursor.fetchall()]
    messages = WebhookMessage.objects.select_related("endpoint").filter(pk__in=leased)
    keys = _keys({message.endpoint_id for message in messages})
    return [
        _Claimed(message, tuple(keys.get(message.endpoint_id, ())), message.pk in ill) for message in messages
    ]


@dataclass
class _Held:
    """How many messages of an endpoint and of an organization are in flight, with every worker."""

    endpoints: Counter[UUID] = field(default_factory=Counter)
    organizations: Counter[UUID] = field(default_factory=Counter)

    def add(self, endpoint_id: UUID, organization_id: UUID, count: int = 1) -> None:
        self.endpoints[endpoint_id] += count
        self.organizations[organization_id] += count

    def full(self, each: int) -> list[UUID]:
        """Endpoints and organizations whose share is used up."""
        shares = ((self.endpoints, each), (self.organizations, PER_ORGANIZATION))
        return [id_ for held, most in shares for id_, count in held.items() if count >= most]


def _due(cursor: Any, hands: int, held: _Held, *, failing: bool) -> list[UUID]:
    """What may be sent now, a few messages of one endpoint and organization, each endpoint in its turn."""
    chosen: list[UUID] = []
    each, last = 1 if failing else PER_ENDPOINT, _turns[failing]
    for after, until in ((last, UUID(int=2**128 - 1)), (UUID(int=0), last)):
        if len(chosen) >= hands:
            break
        arguments = {
            "after": after,
            "until": until,
            "failing": failing,
            "full": held.full(each),
            "each": each,
            "most": hands * LOOKED_AT,
        }
        cursor.execute(_DUE, arguments)
        for id_, endpoint_id, organization_id in cursor.fetchall():
            if len(chosen) < hands and not {endpoint_id, organization_id}.intersection(held.full(each)):
                held.add(endpoint_id, organization_id)
                chosen.append(id_)
                _turns[failing] = endpoint_id
    return chosen


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
    message, body = claimed.message, bytes(claimed.message.body)
    headers = signing.headers(claimed.keys, message.webhook_id, int(time.time()), body)
    return sending.post(message.endpoint.url, body, headers)


@transaction.atomic
def _put_back(message: WebhookMessage, token: UUID, at: datetime) -> None:
    """Nothing is sent without a signature. That we cannot make one is our fault: it costs the endpoint no
    attempt and not its health, and one person is told, however many secrets there are."""
    WebhookMessage.objects.filter(pk=message.pk, lease_token=token).update(
        lease_token=None,
        due_at=Now() + UNREADABLE_WAIT,
        attempts=F("attempts") - 1,
        last_error="The endpoint's secret cannot be read here.",
    )
    if ReviewItem.objects.exclude(status=ReviewStatus.RESOLVED).filter(kind=UNREADABLE).exists():
        return
    open_review(
        kind=UNREADABLE,
        subject_type="webhooks.webhookendpoint",
        subject_id=message.endpoint_id,
        title="A webhook signing secret cannot be read",
        detail=(
            "Nothing is sent to this endpoint, and perhaps to others. Put the SECRET_KEY that sealed its "
            "secret into SECRET_KEY_FALLBACKS, or rotate the secret. What is pending is tried hourly."
        ),
        actor=SYSTEM,
        at=at,
    )


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
    rows = WebhookMessage.objects.filter(pk=message.pk)
    rows.select_for_update(no_key=True).get()
    WebhookAttempt.objects.create(
        message=message,
        number=message.log.count() + 1,
        at=timezone.now() - timedelta(milliseconds=outcome.duration_ms),
        status_code=outcome.status_code,
        error=outcome.error,
        duration_ms=outcome.duration_ms,
        answer=outcome.answer,
    )
    change: dict[str, Any] = {"lease_token": None, "last_error": outcome.error}
    if outcome.delivered:
        change |= {"due_at": None, "delivered_at": Now()}
    elif message.attempts > len(SCHEDULE):
        change |= {"due_at": None, "failed_at": Now()}
    else:
        change |= {"due_at": Now() + delay(message.attempts, outcome.retry_after)}
    return bool(rows.filter(lease_token=token).update(**change))


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


def disable_failing(*, at: datetime) -> int:
    """Disable what has failed for five days and is sent nothing any more: no attempt will tell of it.

    What is due and was not sent waits for us: its next attempt says how the endpoint is.
    """
    count = 0
    while not stopping() and (disabled := _disable_batch(at)):
        count += disabled
    return count


@transaction.atomic
def _disable_batch(at: datetime) -> int:
    """Who is working on one of them is not waited for."""
    late = WebhookMessage.objects.filter(endpoint=OuterRef("pk"), due_at__lte=Now())
    long = WebhookHealth.objects.filter(
        ~Exists(late),
        failing_since__lte=timezone.now() - DISABLED_AFTER,
        endpoint__status=EndpointStatus.ENABLED,
    )
    locked = long.select_for_update(of=("self", "endpoint"), skip_locked=True, no_key=True)
    found = list(locked.select_related("endpoint").order_by("failing_since")[:DISABLED_AT_ONCE])
    for health in found:
        _disable(health.endpoint, DisabledBecause.FAILING, at)
    return len(found)


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


def resend_rest() -> int:
    """Go on with what was asked to be sent again and was more than a batch."""
    count = 0
    asked = WebhookHealth.objects.filter(resend_since__isnull=False).exclude(
        endpoint__status=EndpointStatus.DELETED
    )
    for endpoint_id in list(asked.values_list("pk", flat=True)):
        while not stopping() and (moved := resend_batch(endpoint_id)):
            count += moved
    return count


@transaction.atomic
def resend_batch(endpoint_id: UUID) -> int:
    """Make a batch of what failed for good due again; when nothing is left, the request is done."""
    asked = WebhookHealth.objects.get(pk=endpoint_id)
    if asked.resend_since is None:
        return 0
    failed = WebhookMessage.objects.filter(
        endpoint_id=endpoint_id, failed_at__lte=asked.resend_before, created_at__gte=asked.resend_since
    )
    some = failed.order_by("-id").values("pk")[:BATCH]
    count = failed.filter(pk__in=some).update(failed_at=None, due_at=Now(), attempts=0, last_error="")
    if count < BATCH:
        WebhookHealth.objects.filter(pk=endpoint_id, resend_before=asked.resend_before).update(
            resend_since=None, resend_before=None
        )
    return count


@transaction.atomic
def cancel_of_deleted(*, limit: int = BATCH) -> int:
    """Cancel what is pending for endpoints that were deleted, a batch at a time."""
    left = WebhookMessage.objects.filter(
        endpoint__status=EndpointStatus.DELETED, due_at__isnull=False
    ).values("pk")[:limit]
    return WebhookMessage.objects.filter(pk__in=left).update(
        due_at=None, lease_token=None, cancelled_at=timezone.now()
    )


@transaction.atomic
def forget_old_messages() -> int:
    """Remove a batch of what ended long ago, with its attempts, the oldest first."""
    ended_before = timezone.now() - timedelta(days=settings.WEBHOOK_LOG_DAYS)
    old = (
        WebhookMessage.objects.filter(pk__lt=first_at(ended_before))
        .filter(
            Q(delivered_at__lt=ended_before)
            | Q(failed_at__lt=ended_before)
            | Q(cancelled_at__lt=ended_before)
        )
        .order_by("pk")
    )
    ids = list(old.select_for_update(skip_locked=True, of=("self",)).values_list("pk", flat=True)[:BATCH])
    WebhookAttempt.objects.filter(message__in=ids).delete()
    return WebhookMessage.objects.filter(pk__in=ids).delete()[0]


def forget_expired_secrets() -> int:
    """Secrets that sign nothing any more are not kept."""
    return WebhookSecret.objects.filter(expires_at__lte=timezone.now()).delete()[0]


def status() -> dict[str, float]:
    """Figures for scrapers and the terminal: bounded counts, and the age of what waits longest."""
    with connection.cursor() as cursor:
        cursor.execute(_STATUS, [MOST_COUNTED])
        return dict(zip((column.name for column in cursor.description), cursor.fetchone(), strict=True))
