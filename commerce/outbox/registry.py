"""Who listens to what: filled by `@on` when the apps' handlers are imported.

A group has at most one handler per event type and is wholly its own queue, so a slow provider in
one group never holds back another. Its lane says who drains it: `local` (one event, one
transaction), `batch` (many events, one transaction) or a provider's name (outside any transaction).
Whoever stops listening says so with `retire()`, where it listened.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from django.core.exceptions import ImproperlyConfigured

from commerce.errors import UnknownVersion
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
_retired: dict[str, set[str]] = {}


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
        if (known := _lanes_of_handlers().get(group, lane)) != lane:
            raise ImproperlyConfigured(f"{group} is drained as {known}, not as {lane}.")
        for type_ in types:
            by_group = _handlers.setdefault(type_, {})
            if group in by_group and by_group[group].effect is not effect:
                raise ImproperlyConfigured(f"{group} already has a handler for {type_}.")
            if group in _retired.get(type_, ()):
                raise ImproperlyConfigured(f"{group} has retired from {type_}.")
            by_group[group] = Handler(type_, group, lane, effect)
        return effect

    return register


def retire(*types: str, group: str) -> None:
    """Declare that a group no longer listens to event types: what was written for it is passed over.

    Nobody else can tell them from those of a release to come, which wait until it is deployed.
    """
    for type_ in types:
        if group in _handlers.get(type_, {}):
            raise ImproperlyConfigured(f"{group} has a handler for {type_}, and cannot retire from it.")
        _retired.setdefault(type_, set()).add(group)


def handlers_of(type_: str) -> list[Handler]:
    """In the order of the groups' names, in which their rows are locked."""
    by_group = _handlers.get(type_, {})
    return [by_group[group] for group in sorted(by_group)]


def groups_of(type_: str) -> list[str]:
    return sorted(_handlers.get(type_, {}))


def types_of(group: str) -> list[str]:
    return sorted(type_ for type_, by_group in _handlers.items() if group in by_group)


def receivers_of(event: "OutboxEvent") -> list[str]:
    """The groups that an event is for, as was written into it; also those that are unknown here."""
    written: list[str] | None = event.headers.get("for")
    return groups_of(event.type) if written is None else written


def handler_of(event: "OutboxEvent", group: str) -> Handler | None:
    """What a group does about an event; nothing when the event is not for it, or it has retired.

    Raises UnknownVersion for what this release has no handler for, so that it waits for the one that has.
    """
    if group not in receivers_of(event):
        return None
    handler = _handlers.get(event.type, {}).get(group)
    if handler is None and group not in _retired.get(event.type, ()):
        raise UnknownVersion(
            f"This release does not know what {group} does about {event.type}: "
            "deploy the release that wrote it, then resume the stream."
        )
    return handler


def group_lanes() -> dict[str, str]:
    """Each group that listens to something, or did, and who drains it."""
    retired = {group: LOCAL for groups in _retired.values() for group in groups}
    return retired | _lanes_of_handlers()


def _lanes_of_handlers() -> dict[str, str]:
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
