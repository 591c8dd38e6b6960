"""`manage.py migrate`: Django's own, as the owner of the tables."""

from typing import Any

from django.core.management.commands import migrate
from django.db.models import Model
from django.db.models.signals import class_prepared
from django_fsm import FSMFieldMixin

from commerce import roles


class Command(migrate.Command):
    def execute(self, *args: Any, **options: Any) -> str | None:
        class_prepared.connect(_forget_transitions)
        try:
            with roles.owner():
                return super().execute(*args, **options)
        finally:
            class_prepared.disconnect(_forget_transitions)


def _forget_transitions(sender: type[Model], **_: Any) -> None:
    """A state field looks for transitions on every model made after it. The models of migrations have none,
    are made by the thousand and would each ask all that were made before: a third of the time.
    """
    if sender.__module__ == "__fake__":
        for field in sender._meta.local_fields:
            if isinstance(field, FSMFieldMixin):
                class_prepared.disconnect(field._collect_transitions)
