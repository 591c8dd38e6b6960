"""The catalogue of events: of each type its version, payload, example, and who may read what of it.

Apps declare their types in `events.py`. `append()` writes nothing that the catalogue does not describe.
What was written before is read as of today: `current()` takes it through the upcasters, one version at
a time, and refuses what a newer release wrote. The stored row is never touched.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from django.core.exceptions import ImproperlyConfigured

from commerce.errors import UnknownVersion
from commerce.outbox import payloads
from commerce.outbox.payloads import Check, Json

if TYPE_CHECKING:
    from commerce.outbox.models import OutboxEvent

Upcaster = Callable[[Json], Json]
U = TypeVar("U", bound=Upcaster)


@dataclass(frozen=True)
class EventType:
    """`audience` names the payload's field with the organization, or organizations, an event is sent to
    in webhooks; a type without one stays inside."""

    name: str
    version: int
    aggregate_type: str
    summary: str
    payload: type
    example: Json
    audience: str = ""

    @cached_property
    def check(self) -> Check:
        return payloads.check(self.payload)

    @cached_property
    def public(self) -> tuple[str, ...]:
        """The fields that its audience may read; none of a type that stays inside."""
        return tuple(f.name for f in payloads.fields(self.payload) if f.public) if self.audience else ()

    def outgoing(self, payload: Json) -> Json:
        """What its audience may read of a current payload."""
        return {name: payload[name] for name in self.public}

    def readers(self, payload: Json) -> list[str]:
        """The organizations that a current payload concerns, each once."""
        found = payload[self.audience] if self.audience else None
        return sorted(set(found)) if isinstance(found, list) else [found] if found else []


_types: dict[str, EventType] = {}
_upcasters: dict[tuple[str, int], Upcaster] = {}


def event(
    name: str,
    payload: type,
    *,
    aggregate: str,
    summary: str,
    example: Json,
    version: int = 1,
    audience: str = "",
) -> EventType:
    """Declare an event type. Its example has to be a payload, its audience a field they may read."""
    declared = EventType(name, version, aggregate, summary, payload, example, audience)
    if _types.get(name, declared) != declared:
        raise ImproperlyConfigured(f"{name} is in the catalogue already.")
    if fault := declared.check(example):
        raise ImproperlyConfigured(f"The example of {name}: {fault}.")
    if audience and audience not in {field.name for field in payloads.fields(payload)}:
        raise ImproperlyConfigured(f"The audience of {name}: {payload.__name__} has no field {audience}.")
    _types[name] = declared
    return declared


def upcast(*names: str, from_version: int) -> Callable[[U], U]:
    """Declare the pure function from these types' payloads of one version to those of the next."""

    def register(function: U) -> U:
        for name in names:
            if _upcasters.setdefault((name, from_version), function) is not function:
                raise ImproperlyConfigured(f"{name} has an upcaster from version {from_version} already.")
        return function

    return register


def event_type(name: str) -> EventType | None:
    return _types.get(name)


def event_types() -> list[EventType]:
    return [_types[name] for name in sorted(_types)]


def missing_upcasters() -> list[tuple[str, int]]:
    """Type and version of every step that nobody declared, so that some event could not be read."""
    wanted = ((known.name, version) for known in event_types() for version in range(1, known.version))
    return [step for step in wanted if step not in _upcasters]


def verify(aggregate_type: str, name: str, version: int | None, payload: Json) -> int:
    """The version to store a payload under: as asked for, or the current one. Refuses other payloads than
    the catalogue describes; what it does not list is not judged."""
    known = _types.get(name)
    if known is None:
        return version or 1
    if aggregate_type != known.aggregate_type:
        raise ImproperlyConfigured(f"{name} happens to {known.aggregate_type}, not to {aggregate_type}.")
    if fault := known.check(_upcast(known, version or known.version, payload)):
        raise ImproperlyConfigured(f"The payload of {name}: {fault}.")
    return version or known.version


def current(event: "OutboxEvent") -> "OutboxEvent":
    """The event as of today's version: itself, or a copy with the payload brought forward.

    Raises UnknownVersion for one of a version to come, so that its stream waits for the release.
    """
    known = _types.get(event.type)
    if known is None or event.version == known.version:
        return event
    brought = copy.copy(event)
    brought.payload = _upcast(known, event.version, event.payload)
    brought.version = known.version
    return brought


def is_newer(event: "OutboxEvent") -> bool:
    """Whether a newer release wrote it, so that nothing here can read its payload, or write it again."""
    known = _types.get(event.type)
    return known is not None and event.version > known.version


def _upcast(known: EventType, version: int, payload: Json) -> Json:
    if version > known.version:
        raise UnknownVersion(
            f"{known.name} has version {version}, and this release knows {known.version}: "
            "deploy the release that wrote it, then resume the stream.",
            version=version,
            known_version=known.version,
        )
    for step in range(version, known.version):
        payload = _upcasters[known.name, step](payload)
    return payload
