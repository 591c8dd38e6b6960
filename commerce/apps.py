"""The kernel's Django application: installs the system checks; rights follow every migration."""

import gc

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class CommerceConfig(AppConfig):
    name = "commerce"
    verbose_name = "Operations"

    def ready(self) -> None:
        from commerce import celery, checks, health, roles  # noqa: F401

        # Our own sender: once per `migrate`, when the tables of all applications are there.
        post_migrate.connect(roles.after_migrate, sender=self, dispatch_uid="commerce.roles")
        # What is loaded by now stays; a full collection would walk it for a tenth of a second each time.
        gc.freeze()
