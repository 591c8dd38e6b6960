"""The Parties application: importing its handlers subscribes them."""

from django.apps import AppConfig


class PartiesConfig(AppConfig):
    name = "commerce.parties"
    label = "parties"
    verbose_name = "Organizations"

    def ready(self) -> None:
        from commerce.parties import events, handlers, invariants  # noqa: F401
