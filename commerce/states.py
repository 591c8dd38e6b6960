"""The one choke point of every state machine.

`transition()` locks the row, checks the permission, runs the pure method, saves, writes the
transition log and appends the event, all in the caller's transaction or its own. Nothing else in
the code base calls a transition method; a database trigger refuses undeclared pairs besides.
"""

from datetime import datetime
from typing import Any, TypeVar

from django.db import models, transaction
from django_fsm import TransitionNotAllowed

from commerce.actor import Actor
from commerce.errors import StateConflict
from commerce.models import TransitionLog
from commerce.outbox import append

Row = TypeVar("Row", bound=models.Model)


def transition(
    obj: Row,
    name: str,
    *,
    actor: Actor,
    at: datetime,
    reason: str = "",
    payload: dict[str, Any] | None = None,
    **arguments: Any,
) -> Row:
    """Move `obj` along its transition `name` and return the fresh, locked, saved row.

    `arguments` go to the transition method, `payload` is merged into the event's. Raises
    PermissionDenied, or StateConflict naming the state and the states from which it is allowed.
    """
    with transaction.atomic():
        model = type(obj)
        row = model._default_manager.select_for_update(of=("self",), no_key=True).get(pk=obj.pk)
        method = getattr(row, name)
        declared = method._django_fsm
        field = declared.field
        source = getattr(row, field.attname)
        chosen = declared.get_transition(source)
        if chosen is None:
            allowed = ", ".join(sorted(str(t.source) for t in declared.transitions.values()))
            raise StateConflict(
                f"{model._meta.verbose_name} {row.pk} is {source}; {name} is allowed only when {allowed}.",
                state=source,
                transition=name,
            )
        if isinstance(chosen.permission, str):
            actor.require(chosen.permission)
        try:
            method(**arguments)
        except TransitionNotAllowed as error:
            raise StateConflict(
                f"{model._meta.verbose_name} {row.pk} does not meet the conditions of {name}.",
                state=source,
                transition=name,
            ) from error
        row.save()
        TransitionLog.objects.create(
            model=model._meta.label_lower,
            object_id=str(row.pk),
            field=field.name,
            name=name,
            source=source,
            target=getattr(row, field.attname),
            actor=str(actor),
            reason=reason,
            request_id=actor.request_id,
            at=at,
        )
        event = chosen.custom.get("event")
        if event:
            append(
                row.aggregate_type,  # type: ignore[attr-defined]
                row.pk,
                event,
                {**row.event_payload(), **(payload or {})},  # type: ignore[attr-defined]
                at=at,
                actor=actor,
            )
        return row


def available(obj: models.Model, name: str) -> str:
    """Empty when the state of `obj` allows `name`, else a sentence that says why not."""
    declared = getattr(obj, name)._django_fsm
    source = getattr(obj, declared.field.attname)
    if declared.get_transition(source):
        return ""
    return f"Not possible while {str(source).replace('_', ' ')}."
