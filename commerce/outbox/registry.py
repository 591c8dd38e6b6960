"""Who listens to what: filled by `@on` when the apps' handlers are imported.

A group has at most one handler per event type and is wholly its own queue, so a slow provider in
one group never holds back another. A type must have a handler or be declared `external`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from django.core.exceptions import ImproperlyConfigured

from commerce.outbox.models import OutboxEvent

Effect = Callable[[OutboxEvent], None]


@dataclass(frozen=True)
class Handler:
    """`remote` effects talk to a provider and run outside any transaction."""

    type: str
    group: str
    effect: Effect
    remote: bool


_handlers: dict[str, dict[str, Handler]] = {}
_external: set[str] = set()


def on(*types: str, group: str, remote: bool = False) -> Callable[[Effect], Effect]:
    """Subscribe a function to event types on behalf of a group such as "billing.openmeter"."""

    def register(effect: Effect) -> Effect:
        for type_ in types:
            by_group = _handlers.setdefault(type_, {})
            if group in by_group and by_group[group].effect is not effect:
                raise ImproperlyConfigured(f"{group} already has a handler for {type_}.")
            by_group[group] = Handler(type_, group, effect, remote)
        return effect

    return register


def external(*types: str) -> None:
    """Declare event types that are meant for the outside and need no handler here."""
    _external.update(types)


def groups_of(type_: str) -> list[str]:
    return sorted(_handlers.get(type_, {}))


def remote_groups() -> list[str]:
    """The groups that talk to a provider, if only about some types: their streams may take long."""
    handlers = (handler for by_group in _handlers.values() for handler in by_group.values())
    return sorted({handler.group for handler in handlers if handler.remote})


def handler_of(type_: str, group: str) -> Handler | None:
    return _handlers.get(type_, {}).get(group)


def is_known(type_: str) -> bool:
    return type_ in _handlers or type_ in _external


def known_types() -> list[str]:
    return sorted({*_handlers, *_external})


def subscriptions() -> list[str]:
    """Every "type group" pair, for statements that ask which groups an event concerns."""
    return sorted(f"{type_} {group}" for type_, by_group in _handlers.items() for group in by_group)
