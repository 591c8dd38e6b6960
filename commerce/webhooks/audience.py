"""Who may hear of an event: the platform of everything in full, a party of what it may read anyway.

What a party reads are the fields that the catalogue calls public. Which parties that are says the
catalogue by a field of the payload, or, where that takes looking, a function that the app of the
aggregate registers here. Where neither does, nobody but the platform hears of it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from commerce.outbox import catalog
from commerce.outbox.models import OutboxEvent

# By organization, the public fields that it may not read all the same.
Readers = dict[UUID, Collection[str]]
# From events of one aggregate type to those that may hear of each, by event id.
Resolver = Callable[[Sequence[OutboxEvent]], Mapping[UUID, Readers]]
_resolvers: dict[str, Resolver] = {}


def register_audience(aggregate_type: str) -> Callable[[Resolver], Resolver]:
    """Declare the function that knows the parties to an aggregate. It must be set-based."""

    def register(resolver: Resolver) -> Resolver:
        _resolvers[aggregate_type] = resolver
        return resolver

    return register


def audience_of(events: Iterable[OutboxEvent]) -> dict[UUID, Readers]:
    """The organizations, besides the platform, that may hear of each event, as of today's version."""
    found: dict[UUID, Readers] = {}
    by_kind: dict[str, list[OutboxEvent]] = {}
    for event in events:
        found[event.event_id] = {}
        if (known := catalog.event_type(event.type)) and known.public:
            by_kind.setdefault(event.aggregate_type, []).append(event)
    for kind, some in by_kind.items():
        found.update(_resolvers[kind](some) if kind in _resolvers else _as_declared(some))
    return found


def public_part(event: OutboxEvent, withheld: Collection[str] = ()) -> dict[str, Any]:
    """The event's payload as a party sees it; nothing of what the catalogue does not know."""
    known = catalog.event_type(event.type)
    told = known.outgoing(event.payload) if known else {}
    return {name: value for name, value in told.items() if name not in withheld}


def _as_declared(events: Sequence[OutboxEvent]) -> dict[UUID, Readers]:
    return {
        event.event_id: {UUID(reader): () for reader in known.readers(event.payload)}
        for event in events
        if (known := catalog.event_type(event.type))
    }
