"""The Ledger application: importing its handlers subscribes them."""

from django.apps import AppConfig


class LedgerConfig(AppConfig):
    name = "ledger"
    label = "ledger"
    verbose_name = "Ledger"

    def ready(self) -> None:
        from ledger import events, handlers, invariants  # noqa: F401
        from ledger.services import exports  # noqa: F401
