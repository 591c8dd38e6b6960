"""Each test subscribes its own handlers; nobody else's see its events."""

import pytest

from commerce.outbox import registry


@pytest.fixture(autouse=True)
def _own_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_handlers", {})
