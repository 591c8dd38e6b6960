"""The Providers application: importing its handlers subscribes them."""

from django.apps import AppConfig


class ProvidersConfig(AppConfig):
    name = "commerce.providers"
    label = "providers"
    verbose_name = "Providers"

    def ready(self) -> None:
        from commerce.providers import handlers, invariants  # noqa: F401
