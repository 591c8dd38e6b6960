"""An application, because handlers are subscribed and event types declared when applications are loaded."""

from django.apps import AppConfig


class OutboxCrashesConfig(AppConfig):
    name = "tests.crashes.outbox"
    label = "crashes"

    def ready(self) -> None:
        from tests.crashes.outbox import events, handlers  # noqa: F401
