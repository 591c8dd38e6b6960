"""Which event types can be subscribed to, and how a subscription names them: a type, a kind, or all."""

import re
from collections.abc import Iterable

from commerce.errors import FieldError, InvalidInput
from commerce.outbox import catalog

EVERYTHING = "*"
MOST_PATTERNS = 50
TEST = "webhook.test"
_PATTERN = re.compile(r"\*|[a-z][a-z0-9_]*\.(\*|[a-z][a-z0-9_]*)")


def subscribable(*, platform: bool) -> list[catalog.EventType]:
    """Every type that the platform, or another organization, can hear of."""
    return [known for known in catalog.event_types() if platform or known.public]


def checked(patterns: Iterable[str], *, platform: bool) -> list[str]:
    """The patterns sorted, each once. InvalidInput names every one that no event could match."""
    given = list(patterns)
    known = [type_.name for type_ in subscribable(platform=platform)]
    if not 1 <= len(given) <= MOST_PATTERNS:
        raise InvalidInput(f"Subscribe to 1 to {MOST_PATTERNS} event types.", pointer="/event_types")
    errors = [
        FieldError(f"/event_types/{index}", "unknown_event_type", f"No event type matches {pattern[:80]!r}.")
        for index, pattern in enumerate(given)
        if not _PATTERN.fullmatch(pattern) or not any(matches(pattern, name) for name in known)
    ]
    if errors:
        raise InvalidInput("Some event types are not known.", errors=errors)
    return sorted(set(given))


def matches(pattern: str, type_: str) -> bool:
    return pattern in patterns_of(type_)


def patterns_of(type_: str) -> tuple[str, str, str]:
    """The subscriptions that a type answers to; the trigger on the events knows the same three."""
    return type_, f"{type_.partition('.')[0]}.*", EVERYTHING
