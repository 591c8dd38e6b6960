"""Taking in a webhook: verify, keep once, pass on as an event, all before the answer.

Nothing is believed but that something changed. The event names the object; its handler fetches it.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from commerce.actor import Actor
from commerce.logs import redact
from commerce.outbox import append
from commerce.providers import http, modern_treasury, openmeter
from commerce.providers.models import ProviderEvent

log = logging.getLogger(__name__)

READERS = {modern_treasury.NAME: modern_treasury.read_webhook, openmeter.NAME: openmeter.read_webhook}


def receive_webhook(
    *, provider: str, body: bytes, headers: Mapping[str, str], at: datetime
) -> ProviderEvent | None:
    """Store a delivery and append `<provider>.<kind>_changed`; None for one that we have already.

    Each object of the provider is a stream of its own, so that a failing one holds back nobody.
    Raises InvalidSignature or InvalidInput, and then nothing is stored.
    """
    notice = READERS[provider](body, headers)
    state = ProviderEvent.State.RECEIVED if notice.kind else ProviderEvent.State.IGNORED
    row = ProviderEvent(
        provider=provider,
        delivery_id=notice.delivery_id,
        topic=notice.topic,
        event=notice.event,
        object_id=notice.object_id,
        state=state,
        headers=notice.headers,
        body=_storable(redact(http.parse(body))),
    )
    with transaction.atomic():
        ProviderEvent.objects.bulk_create([row], ignore_conflicts=True)
        if not ProviderEvent.objects.filter(pk=row.pk).exists():
            return None
        if notice.kind:
            append(
                f"{provider}.{notice.kind}",
                notice.object_id,
                f"{provider}.{notice.kind}_changed",
                {
                    "provider": provider,
                    "object_id": notice.object_id,
                    "delivery_id": notice.delivery_id,
                    "event": notice.event,
                },
                at=at,
                actor=Actor.system(provider),
            )
    log.info(
        "webhook %s", state.value, extra={"provider": provider, "topic": notice.topic, "event": notice.event}
    )
    return row


def _storable(value: Any) -> Any:
    """What JSONB takes: no NUL, and exact numbers as strings."""
    if isinstance(value, dict):
        return {key.replace("\0", ""): _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, str):
        return value.replace("\0", "")
    return value if value is None or isinstance(value, bool | int) else str(value)
