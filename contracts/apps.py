"""The Contracts application: importing its handlers subscribes them."""

from django.apps import AppConfig


class ContractsConfig(AppConfig):
    name = "contracts"
    label = "contracts"
    verbose_name = "Contracts"

    def ready(self) -> None:
        from contracts import events, handlers, invariants  # noqa: F401
