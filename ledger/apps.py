"""The Ledger application: its events and what must always hold are known from the start."""

from django.apps import AppConfig


class LedgerConfig(AppConfig):
    name = "ledger"
    label = "ledger"
    verbose_name = "Ledger"

    def ready(self) -> None:
        from commerce.outbox.retention import register_veto
        from ledger import events, invariants  # noqa: F401
        from ledger.services import archive, exports  # noqa: F401

        register_veto(archive.open_books)
