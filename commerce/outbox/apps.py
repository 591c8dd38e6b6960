"""The outbox application; its check runs once all handlers are known."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class OutboxConfig(AppConfig):
    name = "commerce.outbox"
    label = "outbox"
    verbose_name = "Outbox"

    def ready(self) -> None:
        from commerce.outbox import claims, invariants, partitions  # noqa: F401

        post_migrate.connect(claims.assign_lanes, sender=self, dispatch_uid="outbox.lanes")
        post_migrate.connect(partitions.after_migrate, sender=self, dispatch_uid="outbox.partitions")
