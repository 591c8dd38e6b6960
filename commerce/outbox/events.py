"""Writing events: in the same transaction as the change they tell of."""

import logging
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.utils import timezone

from commerce.actor import Actor
from commerce.logs import request_id as current_request
from commerce.outbox import registry
from commerce.outbox.models import OutboxEvent

log = logging.getLogger(__name__)

QUIET_SECONDS = 10.0
_quiet_until = 0.0

_HEAD = """
INSERT INTO outbox_outboxstream AS s
  (aggregate_type, aggregate_id, "group", cursor, attempts, last_error, parked_reason)
VALUES (%s, %s, '', 1, 0, '', '')
ON CONFLICT (aggregate_type, aggregate_id, "group") DO UPDATE SET cursor = s.cursor + 1
RETURNING cursor
"""
_WAKE = """
INSERT INTO outbox_outboxstream AS s
  (aggregate_type, aggregate_id, "group", cursor, attempts, last_error, parked_reason, due_at)
SELECT %s, %s, g, %s - 1, 0, '', '', now() FROM unnest(%s::text[]) g ORDER BY g
ON CONFLICT (aggregate_type, aggregate_id, "group") DO UPDATE
  SET due_at = CASE WHEN s.parked_at IS NULL THEN COALESCE(s.due_at, now()) END
"""


def append(
    aggregate_type: str,
    aggregate_id: UUID | str,
    type: str,
    payload: dict[str, Any],
    *,
    at: datetime,
    actor: Actor | None = None,
    version: int = 1,
    causation_id: UUID | None = None,
) -> OutboxEvent:
    """Record that `type` happened to an aggregate at business time `at`.

    Locks the aggregate's head row, so that sequence order is commit order, and then the rows of the
    groups it wakes. Call it last in a service: locks are taken domain rows, head, groups. Raises
    outside a transaction, and for a type that nobody handles and nobody declared external.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("append() belongs in the transaction of the change.")
    if not registry.is_known(type):
        raise ImproperlyConfigured(f"Nobody handles {type} and it is not declared external.")
    groups = registry.groups_of(type)
    with connection.cursor() as cursor:
        cursor.execute(_HEAD, [aggregate_type, str(aggregate_id)])
        sequence = cursor.fetchone()[0]
        if groups:
            cursor.execute(_WAKE, [aggregate_type, str(aggregate_id), sequence, groups])
    headers: dict[str, str] = {"request_id": (actor and actor.request_id) or current_request.get()}
    if actor:
        headers["actor"] = str(actor)
    if causation_id:
        headers["causation_id"] = str(causation_id)
    event = OutboxEvent.objects.create(
        aggregate_type=aggregate_type,
        aggregate_id=str(aggregate_id),
        sequence=sequence,
        type=type,
        version=version,
        payload=payload,
        headers=headers,
        occurred_at=at,
        published_at=None if groups else timezone.now(),
    )
    if groups:
        nudge(groups)
    return event


def nudge(groups: Iterable[str]) -> None:
    """Ask for a drain of these groups after the commit; the beat tick finds the work anyway if it is lost."""
    remote = frozenset(registry.remote_groups())
    for wake in {_wake_remote if group in remote else _wake_local for group in groups}:
        if not any(callback is wake for _, callback, *_ in connection.run_on_commit):
            transaction.on_commit(wake, robust=True)


def _wake_local() -> None:
    from commerce.outbox.tasks import drain_local

    _wake(drain_local)


def _wake_remote() -> None:
    from commerce.outbox.tasks import drain_remote

    _wake(drain_remote)


def _wake(drain: Any) -> None:
    """Never raises. A broker that did not answer is left alone for a while, for each try costs its caller."""
    global _quiet_until
    if time.monotonic() < _quiet_until:
        return
    try:
        drain.apply_async(retry=False, expires=10)
    except drain.OperationalError:
        _quiet_until = time.monotonic() + QUIET_SECONDS
        log.warning("no broker: the next tick will drain the outbox")
