"""The API application: importing its handlers subscribes them."""

from django.apps import AppConfig


class ApiConfig(AppConfig):
    name = "commerce.api"
    label = "api"
    verbose_name = "API"

    def ready(self) -> None:
        from commerce.api import handlers, invariants  # noqa: F401
