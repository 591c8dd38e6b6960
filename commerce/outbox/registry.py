"""Who listens to what: filled by `@on` when the apps' handlers are imported.

A group has at most one handler per event type and is wholly its own queue, so a slow provider in
one group never holds back another. Its lane says who drains it: `local` (one event, one
transaction), `batch` (many events, one transaction) or a provider's name (outside any transaction).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from django.core.exceptions import ImproperlyConfigured

from commerce.outbox import catalog

if TYPE_CHECKING:
    from commerce.outbox.models import OutboxEvent

LOCAL, BATCH = "local", "batch"

Effect = TypeVar("Effect", bound=Callable[[Any], None])


@dataclass(frozen=True)
class Handler:
    """What a group does about a type. In the lane `batch` the effect takes a list of events."""

    type: str
    group: str
    lane: str
    effect: Callable[[Any], None]


_handlers: dict[str, dict[str, Handler]] = {}


def on(*types: str, group: str, provider: str = "", batch: bool = False) -> Callable[[Effect], Effect]:
    """Subscribe a function to event types on behalf of a group such as "billing.openmeter".

    With `provider` the effect runs outside any transaction, at least once, and the provider's outage
    stops only what goes to it. With `batch` it takes a list of events, in order for each aggregate, of
    many aggregates, and its work commits together with all their cursors: it must not call outside.
    """
    if batch and provider:
        raise ImproperlyConfigured(f"{group}: a provider is told one event at a time.")
    lane = provider or (BATCH if batch else LOCAL)

    def register(effect: Effect) -> Effect:
        if (known := group_lanes().get(group, lane)) != lane:
            raise ImproperlyConfigured(f"{group} is drained as {known}, not as {lane}.")
        for type_ in types:
            by_group = _handlers.setdefault(type_, {})
            if group in by_group and by_group[group].effect is not effect:
                raise ImproperlyConfigured(f"{group} already has a handler for {type_}.")
            by_group[group] = Handler(type_, group, lane, effect)
        return effect

    return register


def handlers_of(type_: str) -> list[Handler]:
    """In the order of the groups' names, in which their rows are locked."""
    by_group = _handlers.get(type_, {})
    return [by_group[group] for group in sorted(by_group)]


def groups_of(type_: str) -> list[str]:
    return sorted(_handlers.get(type_, {}))


def types_of(group: str) -> list[str]:
    return sorted(type_ for type_, by_group in _handlers.items() if group in by_group)


def handler_of(event: "OutboxEvent", group: str) -> Handler | None:
    """What a group does about an event; nothing when it was not among those that the event is for."""
    receivers = event.headers.get("for")
    return _handlers.get(event.type, {}).get(group) if receivers is None or group in receivers else None


def group_lanes() -> dict[str, str]:
    """Each group that listens to something, and who drains it."""
    return {group: handler.lane for by_group in _handlers.values() for group, handler in by_group.items()}


def lanes() -> list[str]:
    return sorted({LOCAL, BATCH, *group_lanes().values()})


def providers() -> list[str]:
    """The lanes that lead outside the database."""
    return [lane for lane in lanes() if lane not in (LOCAL, BATCH)]


def is_known(type_: str) -> bool:
    return type_ in _handlers or catalog.event_type(type_) is not None


def known_types() -> list[str]:
    return sorted({*_handlers, *(known.name for known in catalog.event_types())})


def subscriptions() -> list[str]:
    """Every "type group" pair, for statements that ask which groups an event concerns."""
    return sorted(f"{type_} {group}" for type_, by_group in _handlers.items() for group in by_group)
