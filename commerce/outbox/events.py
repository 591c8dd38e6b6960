"""Writing events: in the same transaction as the change they tell of."""

import logging
import time
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from psycopg.types.json import Jsonb

from commerce.actor import Actor
from commerce.ids import uuid7
from commerce.logs import event_id as current_event
from commerce.logs import request_id as current_request
from commerce.outbox import catalog, registry
from commerce.outbox.models import OutboxEvent

log = logging.getLogger(__name__)

QUIET_SECONDS = 10.0
_quiet_until = 0.0

# One statement, one round trip. The head's row is locked before the groups', for they read its result;
# `pending_since` looks back to whichever transaction began first, not to the one that came first.
_APPEND = """
WITH head AS (
  INSERT INTO outbox_outboxstream AS s
    (aggregate_type, aggregate_id, "group", lane, cursor, attempts, last_error, parked_reason)
  VALUES (%(aggregate_type)s, %(aggregate_id)s, '', '', 1, 0, '', '')
  ON CONFLICT (aggregate_type, aggregate_id, "group") DO UPDATE SET cursor = s.cursor + 1
  RETURNING cursor
), woken AS (
  INSERT INTO outbox_outboxstream AS s
    (aggregate_type, aggregate_id, "group", lane, cursor, attempts, last_error, parked_reason,
     due_at, pending_since)
  SELECT %(aggregate_type)s, %(aggregate_id)s, g, lane, head.cursor - 1, 0, '', '', now(), now()
  FROM head, unnest(%(groups)s::text[], %(lanes)s::text[]) listening (g, lane) ORDER BY g
  ON CONFLICT (aggregate_type, aggregate_id, "group") DO UPDATE
    SET due_at = CASE WHEN s.parked_at IS NULL THEN COALESCE(s.due_at, now()) END,
        pending_since = LEAST(s.pending_since, now()), lane = EXCLUDED.lane
  RETURNING 1
)
INSERT INTO outbox_outboxevent
  (event_id, aggregate_type, aggregate_id, sequence, type, version, payload, headers,
   occurred_at, recorded_at, published_at)
SELECT %(event_id)s, %(aggregate_type)s, %(aggregate_id)s, head.cursor, %(type)s, %(version)s,
       %(payload)s, %(headers)s, %(occurred_at)s, now(),
       CASE WHEN NOT EXISTS (SELECT FROM woken) THEN now() END
FROM head
RETURNING id, sequence, recorded_at, published_at
"""


def append(
    aggregate_type: str,
    aggregate_id: UUID | str,
    type: str,
    payload: dict[str, Any],
    *,
    at: datetime,
    actor: Actor | None = None,
    version: int | None = None,
    causation_id: UUID | None = None,
    only: Collection[str] | None = None,
    headers: dict[str, Any] | None = None,
) -> OutboxEvent:
    """Record that `type` happened to an aggregate at business time `at`; with `only`, for these groups.

    Who listens now is written into it: who begins to later gets what happens later. Its cause is the event
    that is being handled, unless another is named; a handler of a batch has to name it.

    Locks the aggregate's head row, so that sequence order is commit order, and then the rows of the
    groups it wakes. Call it last in a service: locks are taken domain rows, head, groups. Raises
    outside a transaction, and for a type or a payload that is not in the catalogue.
    """
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("append() belongs in the transaction of the change.")
    if not registry.is_known(type):
        raise ImproperlyConfigured(f"Nobody handles {type} and it is not in the catalogue of events.")
    version = catalog.verify(aggregate_type, type, version, payload)
    handlers = [handler for handler in registry.handlers_of(type) if only is None or handler.group in only]
    headers = {
        "request_id": (actor and actor.request_id) or current_request.get(),
        "for": [handler.group for handler in handlers],
        **(headers or {}),
    }
    if actor:
        headers["actor"] = str(actor)
    if cause := causation_id or current_event.get():
        headers["causation_id"] = str(cause)
    if only is not None:
        headers["only"] = sorted(only)
    facts: dict[str, Any] = {
        "event_id": uuid7(),
        "aggregate_type": aggregate_type,
        "aggregate_id": str(aggregate_id),
        "type": type,
        "version": version,
        "occurred_at": at,
    }
    arguments = {
        **facts,
        "payload": Jsonb(payload),
        "headers": Jsonb(headers),
        "groups": [handler.group for handler in handlers],
        "lanes": [handler.lane for handler in handlers],
    }
    with connection.cursor() as cursor:
        cursor.execute(_APPEND, arguments)
        id_, sequence, recorded_at, published_at = cursor.fetchone()
    nudge(handler.lane for handler in handlers)
    return OutboxEvent(
        id=id_,
        sequence=sequence,
        recorded_at=recorded_at,
        published_at=published_at,
        payload=payload,
        headers=headers,
        **facts,
    )


def nudge(lanes: Iterable[str]) -> None:
    """Ask for a drain of these lanes after the commit; the beat tick finds the work anyway if it is lost."""
    for wake in {_waker(lane) for lane in lanes}:
        if not any(callback is wake for _, callback, *_ in connection.run_on_commit):
            transaction.on_commit(wake, robust=True)


@cache
def _waker(lane: str) -> Callable[[], None]:
    """The same object for the same lane, by which a second wake-up in one transaction is recognised."""

    def wake() -> None:
        from commerce.outbox.tasks import drain_lane, queue_of

        wake_up(drain_lane, lane, queue=queue_of(lane))

    return wake


def wake_up(task: Any, *arguments: Any, **options: Any) -> None:
    """Ask for a run of a periodic task now. Never raises, for the next tick does it anyway. A broker that did
    not answer is left alone for a while, for each try costs its caller."""
    global _quiet_until
    if time.monotonic() < _quiet_until:
        return
    try:
        task.apply_async(arguments, retry=False, expires=10, **options)
    except task.OperationalError:
        _quiet_until = time.monotonic() + QUIET_SECONDS
        log.warning("no broker: the next tick will run %s", task.name)
