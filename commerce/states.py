"""The one choke point of every state machine.

`transition()` locks the row, checks the permission, runs the pure method, saves, writes the
transition log and appends the event, all in the caller's transaction or its own. Nothing else in
the code base calls a transition method; a database trigger refuses undeclared pairs besides.
"""

from collections.abc import Mapping, Sequence
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
        entry, event = _move(row, name, actor, at, reason, arguments)
        row.save()
        entry.save(force_insert=True)
        _tell(row, event, actor, at, payload or {})
        return row


def transition_all(
    objs: Sequence[Row],
    name: str,
    *,
    actor: Actor,
    at: datetime,
    reason: str = "",
    arguments: Mapping[Any, dict[str, Any]] | None = None,
) -> list[Row]:
    """`transition` for rows of one model: all or none, in three statements and one for each event.

    `arguments` are those of each row's method, by primary key.
    """
    if not objs:
        return []
    with transaction.atomic():
        model = type(objs[0])
        locked = model._default_manager.select_for_update(of=("self",), no_key=True).order_by("pk")
        rows = list(locked.filter(pk__in=[obj.pk for obj in objs]))
        entries, events, changed = [], [], set()
        for row in rows:
            before = _columns(row)
            entry, event = _move(row, name, actor, at, reason, (arguments or {}).get(row.pk, {}))
            entries.append(entry)
            events.append(event)
            changed |= {column for column, value in _columns(row).items() if before[column] != value}
        model._default_manager.bulk_update(rows, sorted(changed))
        TransitionLog.objects.bulk_create(entries)
        for row, event in zip(rows, events, strict=True):
            _tell(row, event, actor, at, {})
        return rows


def _move(
    row: models.Model, name: str, actor: Actor, at: datetime, reason: str, arguments: dict[str, Any]
) -> tuple[TransitionLog, str]:
    """Run the pure method on a locked row; the log's entry and the event's type, neither written yet."""
    meta = row._meta
    method = getattr(row, name)
    declared = method._django_fsm
    field = declared.field
    source = getattr(row, field.attname)
    chosen = declared.get_transition(source)
    if chosen is None:
        allowed = ", ".join(sorted(str(t.source) for t in declared.transitions.values()))
        raise StateConflict(
            f"{meta.verbose_name} {row.pk} is {source}; {name} is allowed only when {allowed}.",
            state=source,
            transition=name,
        )
    if isinstance(chosen.permission, str):
        actor.require(chosen.permission)
    try:
        method(**arguments)
    except TransitionNotAllowed as error:
        raise StateConflict(
            f"{meta.verbose_name} {row.pk} does not meet the conditions of {name}.",
            state=source,
            transition=name,
        ) from error
    entry = TransitionLog(
        model=meta.label_lower,
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
    return entry, chosen.custom.get("event") or ""


def _tell(row: Any, event: str, actor: Actor, at: datetime, payload: dict[str, Any]) -> None:
    if event:
        append(row.aggregate_type, row.pk, event, {**row.event_payload(), **payload}, at=at, actor=actor)


def _columns(row: models.Model) -> dict[str, Any]:
    return {field.name: getattr(row, field.attname) for field in row._meta.concrete_fields}


def available(obj: models.Model, name: str) -> str:
    """Empty when the state of `obj` allows `name`, else a sentence that says why not."""
    declared = getattr(obj, name)._django_fsm
    source = getattr(obj, declared.field.attname)
    if declared.get_transition(source):
        return ""
    return f"Not possible while {str(source).replace('_', ' ')}."
