"""The people of the worked example, and short words for what the tests say often."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest

from commerce.actor import Actor
from commerce.money import Money
from commerce.parties.models import Organization
from ledger.models import LedgerTransaction
from ledger.services import balance, post

AT = datetime(2027, 3, 1, tzinfo=UTC)
ACTOR = Actor.system("test")


def usd(text: str) -> Money:
    return Money.parse(text.replace(",", ""), "USD")


@dataclass(frozen=True)
class People:
    platform: UUID
    acme: UUID
    northwind: UUID
    bridge: UUID


@pytest.fixture
def people(db: None) -> People:
    return make_people()


def make_people() -> People:
    def organization(name: str, *roles: str) -> UUID:
        return Organization.objects.create(name=name, slug=name.lower(), roles=list(roles)).pk

    return People(
        platform=Organization.objects.platform().pk,
        acme=organization("Acme", "buyer"),
        northwind=organization("Northwind", "seller"),
        bridge=organization("Bridge", "partner"),
    )


@pytest.fixture
def posted() -> Callable[..., LedgerTransaction]:
    """Post a recipe's entries under a key that is also the source."""

    def _post(recipe: str, entries: tuple, key: str, at: datetime = AT) -> LedgerTransaction:
        return post(entries=entries, key=key, source=f"test:{key}", recipe=recipe, at=at, actor=ACTOR)

    return _post


def holds(owner: UUID, kind: str, currency: str = "USD") -> Money:
    return Money(balance(owner=owner, kind=kind, currency=currency), currency)
