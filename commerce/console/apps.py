"""The console application: its groups follow every migration, what it declares is known from the start."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class ConsoleConfig(AppConfig):
    name = "commerce.console"
    label = "console"
    verbose_name = "Console"

    def ready(self) -> None:
        from commerce.console import events, groups, invariants, outbox_skip  # noqa: F401

        post_migrate.connect(groups.after_migrate, dispatch_uid="console.groups")
