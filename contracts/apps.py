"""The Contracts application: its events and what must always hold are known from the start."""

from django.apps import AppConfig


class ContractsConfig(AppConfig):
    name = "contracts"
    label = "contracts"
    verbose_name = "Contracts"

    def ready(self) -> None:
        from contracts import audience, events, invariants  # noqa: F401
