"""The Payouts application: importing its handlers subscribes them."""

from django.apps import AppConfig


class PayoutsConfig(AppConfig):
    name = "payouts"
    label = "payouts"
    verbose_name = "Payouts"

    def ready(self) -> None:
        from payouts import events, handlers, invariants  # noqa: F401
        from payouts.services import giving_up, reversals  # noqa: F401
