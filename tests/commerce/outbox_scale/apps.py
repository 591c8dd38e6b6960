"""An application only because handlers are subscribed when applications are loaded."""

from django.apps import AppConfig


class OutboxScaleConfig(AppConfig):
    name = "tests.commerce.outbox_scale"
    label = "outbox_scale"

    def ready(self) -> None:
        from tests.commerce.outbox_scale.handlers import subscribe

        subscribe()
