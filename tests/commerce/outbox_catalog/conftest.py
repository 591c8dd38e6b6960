"""A catalogue of a test's own, with a payload that has a field of every kind."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

import pytest

from commerce.outbox import catalog
from commerce.outbox.payloads import Minor, Public


@dataclass(frozen=True)
class Part:
    part_id: UUID
    weight: int


@dataclass(frozen=True)
class Thing:
    """A thing."""

    thing_id: Public[UUID]
    owners: Public[tuple[UUID, ...]]
    price_minor: Public[Minor]
    secret: str
    live: Annotated[bool, "whether it runs"]
    made_at: datetime
    made_on: date | None
    parts: tuple[Part, ...]
    more: dict[str, Any]


ID = "01956f1c-3c00-7000-8000-000000000001"
THING = {
    "thing_id": ID,
    "owners": [ID],
    "price_minor": 5,
    "secret": "s",
    "live": True,
    "made_at": "2027-03-01T00:00:00Z",
    "made_on": None,
    "parts": [{"part_id": ID, "weight": 1}],
    "more": {"/a/b": [1, None]},
}


@pytest.fixture
def own_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_types", {})
    monkeypatch.setattr(catalog, "_upcasters", {})


def declare(name: str = "thing.done", **more: Any) -> catalog.EventType:
    known = {"aggregate": "thing", "summary": "It was done.", "example": THING} | more
    return catalog.event(name, known.pop("payload", Thing), **known)
