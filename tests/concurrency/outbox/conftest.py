"""Work is committed on real connections; after each test what the relay writes is emptied, and no more."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db import connection
from django.test import TransactionTestCase

from commerce.outbox import events, registry, relay

WRITTEN = (
    "outbox_outboxevent", "outbox_outboxstream", "outbox_outboxfailure", "outbox_circuit",
    "commerce_transitionlog",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _quick_to_empty() -> Iterator[None]:
    """Emptying every table of every app would take longer than these tests."""

    def empty(_: TransactionTestCase) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"TRUNCATE {', '.join(WRITTEN)}, commerce_heartbeat")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", empty)
        yield


@pytest.fixture(autouse=True)
def _own_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test subscribes its own handlers, no broker wakes anybody, and no back-off ends by itself."""
    monkeypatch.setattr(registry, "_handlers", {})
    monkeypatch.setattr(events, "_quiet_until", float("inf"))
    monkeypatch.setattr(relay, "backoff", lambda attempt: timedelta(hours=1))
