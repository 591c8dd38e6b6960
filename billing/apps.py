"""The Billing application: importing its handlers subscribes them."""

from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"
    label = "billing"
    verbose_name = "Billing"

    def ready(self) -> None:
        from billing import events, handlers, invariants  # noqa: F401
        from billing.services import require_downpayment, reversals  # noqa: F401
        from billing.services.usage import metered
        from contracts.services import register_activation_guard, register_usage_source

        register_usage_source(metered)
        register_activation_guard(require_downpayment)
