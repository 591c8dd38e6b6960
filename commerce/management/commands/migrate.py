"""`manage.py migrate`: Django's own, as the owner of the tables."""

from typing import Any

from django.core.management.commands import migrate

from commerce import roles


class Command(migrate.Command):
    def execute(self, *args: Any, **options: Any) -> str | None:
        with roles.owner():
            return super().execute(*args, **options)
