"""The kernel's Django application: installs the system checks."""

from django.apps import AppConfig


class CommerceConfig(AppConfig):
    name = "commerce"
    verbose_name = "Operations"

    def ready(self) -> None:
        from commerce import celery, checks  # noqa: F401
