"""The Console application: importing its handlers subscribes them."""

from django.apps import AppConfig


class ConsoleConfig(AppConfig):
    name = "commerce.console"
    label = "console"
    verbose_name = "Console"

    def ready(self) -> None:
        from commerce.console import handlers, invariants  # noqa: F401
