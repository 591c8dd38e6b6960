"""The transactional outbox: `append` in the transaction of a change, `@on` to react to it elsewhere."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from commerce.outbox.events import append as append
    from commerce.outbox.registry import on as on
    from commerce.outbox.relay import drain as drain

_HOMES = {"append": "events", "on": "registry", "drain": "relay"}


def __getattr__(name: str) -> Any:
    """Import on first use: Django loads this package before the models may be imported."""
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(f"commerce.outbox.{_HOMES[name]}"), name)
