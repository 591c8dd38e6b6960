"""The Billing application: importing its handlers subscribes them."""

from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"
    label = "billing"
    verbose_name = "Billing"

    def ready(self) -> None:
        from billing import events, handlers, invariants  # noqa: F401
        from billing.services import require_downpayment, reversals  # noqa: F401
        from billing.services.prepayments import keep_unpaid_on_hold, keep_what_was_drawn
        from billing.services.renewals import require_paid_up, sell_no_more
        from billing.services.usage import meter
        from contracts.services import (
            register_activation_guard,
            register_edit_hook,
            register_renewal_guard,
            register_usage_source,
        )

        register_usage_source(meter)
        register_activation_guard(require_downpayment)
        register_renewal_guard(require_paid_up)
        register_edit_hook(keep_what_was_drawn)
        register_edit_hook(keep_unpaid_on_hold)
        register_edit_hook(sell_no_more)
