"""The Contracts application: its events and what must always hold are known from the start."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class ContractsConfig(AppConfig):
    name = "contracts"
    label = "contracts"
    verbose_name = "Contracts"

    def ready(self) -> None:
        from contracts import audience, events, handlers, invariants  # noqa: F401
        from contracts.services import hold_for_edit, register_edit_hook, require_own_method, require_service
        from contracts.services.commitments import keep_what_was_used
        from contracts.services.terms import ensure_first_version

        register_edit_hook(hold_for_edit)
        register_edit_hook(require_own_method)
        register_edit_hook(keep_what_was_used)
        register_edit_hook(require_service)
        post_migrate.connect(ensure_first_version, sender=self, dispatch_uid="contracts.terms")
