"""The Providers application: clients of outside companies and the inbox of their webhooks."""

from django.apps import AppConfig


class ProvidersConfig(AppConfig):
    name = "commerce.providers"
    label = "providers"
    verbose_name = "Providers"

    def ready(self) -> None:
        from commerce.providers import events  # noqa: F401
