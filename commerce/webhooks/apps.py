"""The Webhooks application: what it says about the audience of organizations is known from the start."""

from django.apps import AppConfig


class WebhooksConfig(AppConfig):
    name = "commerce.webhooks"
    label = "webhooks"
    verbose_name = "Webhooks"

    def ready(self) -> None:
        from commerce.outbox.retention import register_veto
        from commerce.webhooks import audience, checks, fan_out, invariants  # noqa: F401

        register_veto(fan_out.untold)
