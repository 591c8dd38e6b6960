"""The outbox application; its check runs once all handlers are known."""

from django.apps import AppConfig


class OutboxConfig(AppConfig):
    name = "commerce.outbox"
    label = "outbox"
    verbose_name = "Outbox"

    def ready(self) -> None:
        from commerce.outbox import invariants  # noqa: F401
