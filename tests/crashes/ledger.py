"""What writes to the ledger until the server is gone, and what looks afterwards; each a process of its own.

A writer remembers every call before it makes it and its answer after it came. What had no answer is
made again, under the same keys, by the next round.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.core.management import call_command
from django.db import InterfaceError, OperationalError, connection

from commerce.actor import Actor
from commerce.errors import Busy
from commerce.money import Money
from commerce.parties.models import Organization
from ledger import services
from ledger.models import LedgerEntry, LedgerHold, LedgerTransaction
from ledger.rules import recipes
from ledger.rules.recipes import Entry, mirrored

ACTOR = Actor.system("crashes")
BUYERS = ("acme", "bolt")
NOW = timedelta(0)
PATIENCE = 60
Content = list[Any]  # what a key stands for: status, then its legs in order


@dataclass(frozen=True)
class Call:
    """`run` may be called again after a crash; `content` is what it then has written, once."""

    run: Callable[[], Any]
    content: dict[str, Content]


_buyers: list[UUID] = []
_platform: list[UUID] = []
_unanswered: list[Call] = []
_funded: list[tuple[LedgerTransaction, UUID]] = []
_pending: list[tuple[LedgerTransaction, UUID]] = []
_written: dict[str, Content] = {}


def migrate() -> None:
    call_command("migrate", verbosity=0)


def open_wallets() -> dict[str, Content]:
    """Two buyers with more money than all rounds spend."""
    for name in BUYERS:
        Organization.objects.create(name=name, slug=name, roles=["buyer"])
    meet()
    call = _fund([(buyer, 10**9, f"open:{buyer}") for buyer in _buyers])
    call.run()
    return call.content


def meet() -> None:
    """Be ready to write: connected, and knowing the parties."""
    buyers = Organization.objects.filter(slug__in=BUYERS).order_by("slug")
    _buyers[:] = buyers.values_list("pk", flat=True)
    _platform[:] = [Organization.objects.platform().pk]


def write(writer: int, turn: int) -> dict[str, Any]:
    """Post until the server is gone; what was answered and what was not."""
    dice, answered, number = random.Random(f"{writer}:{turn}"), {}, 0
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        number += 1
        call = _unanswered.pop() if _unanswered else _choose(dice, f"{writer}:{turn}:{number}")
        try:
            call.run()
        except Busy:
            _unanswered.append(call)
        except (OperationalError, InterfaceError):
            connection.close()
            _unanswered.append(call)
            return {"answered": answered, "unanswered": call.content}
        else:
            answered |= call.content
    raise TimeoutError("Nobody killed the server.")


def fold() -> None:
    """Fold and seal until the server is gone."""
    give_up = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < give_up:
            services.keep(margin=NOW, limit=50)
    except (OperationalError, InterfaceError):
        connection.close()


def check(answered: dict[str, Content], unanswered: dict[str, Content]) -> dict[str, Any]:
    """What is in the database, against what was answered now and before.

    An unanswered call may be there or not, but whole; nothing else may be.
    """
    connection.close()  # it was that of the killed server
    _written.update(answered)
    found = _contents({*answered, *unanswered})
    arrived = {key: found[key] for key in unanswered if key in found}
    _written.update(arrived)
    keys = set(LedgerTransaction.objects.values_list("key", flat=True))
    return {
        "lost": sorted(_written.keys() - keys),
        "differ": sorted(key for key in answered.keys() & found if found[key] != answered[key])
        + sorted(key for key in arrived if arrived[key] != unanswered[key]),
        "invented": sorted(keys - _written.keys()),
        "unanswered": len(unanswered),
        "unanswered_but_written": len(arrived),
        "findings": [f"{f.type} {f.subject}: {f.detail}" for f in services.verify_ledger(connections=1)],
    }


def _choose(dice: random.Random, key: str) -> Call:
    verb, buyer = dice.randrange(5), dice.choice(_buyers)
    if verb == 0 and _funded:
        return _take_back(*_funded.pop(dice.randrange(len(_funded))), key)
    if verb == 1:
        return _set_aside(buyer, 100, key)
    if verb == 2 and _pending:
        return _settle(*_pending.pop(dice.randrange(len(_pending))), key)
    if verb == 3:
        return _fund([(dice.choice(_buyers), 100, f"{key}:{n}") for n in range(dice.randrange(2, 20))])
    return _fund([(buyer, 100, key)])


def _fund(parts: list[tuple[UUID, int, str]]) -> Call:
    postings = [
        services.Posting(_funding(buyer, minor), key, "crash", "fund_wallet", _now())
        for buyer, minor, key in parts
    ]

    def run() -> None:
        rows = services.post_all(postings=postings, actor=ACTOR)
        _funded.append((rows[0], parts[0][0]))

    return Call(run, {p.key: _content("posted", p.entries) for p in postings})


def _take_back(row: LedgerTransaction, buyer: UUID, key: str) -> Call:
    entries = mirrored(_funding(buyer, 40))

    def run() -> None:
        services.reverse(transaction=row, key=key, at=_now(), actor=ACTOR, reason="part", entries=entries)

    return Call(run, {key: _content("posted", entries)})


def _set_aside(buyer: UUID, minor: int, key: str) -> Call:
    entries = _commitment(buyer, minor)
    content = {"key": key, "source": "crash", "recipe": "commit"}

    def run() -> None:
        row = services.post_pending(entries=entries, at=_now(), actor=ACTOR, **content)
        _pending.append((row, buyer))

    return Call(run, {key: _content("pending", entries)})


def _settle(row: LedgerTransaction, buyer: UUID, key: str) -> Call:
    entries = _commitment(buyer, 70)

    def run() -> None:
        services.settle_pending(transaction=row, key=key, at=_now(), actor=ACTOR, entries=entries)

    return Call(run, {key: _content("posted", entries)})


def _funding(buyer: UUID, minor: int) -> tuple[Entry, ...]:
    return recipes.fund_wallet(platform=_platform[0], buyer=buyer, amount=Money(minor, "USD"))


def _commitment(buyer: UUID, minor: int) -> tuple[Entry, ...]:
    return recipes.commit(buyer=buyer, downpayment=Money(0, "USD"), expected=Money(minor, "USD"))


def _content(status: str, entries: Iterable[Entry]) -> Content:
    return [status, *sorted([str(e.owner), str(e.kind), e.signed] for e in entries)]


def _contents(keys: set[str]) -> dict[str, Content]:
    legs: dict[str, list[Any]] = defaultdict(list)
    columns = ("transaction__key", "account__owner_id", "account__kind", "amount")
    for model in (LedgerEntry, LedgerHold):
        for key, owner, kind, amount in model.objects.filter(transaction__key__in=keys).values_list(*columns):
            legs[key].append([str(owner), kind, amount])
    rows = LedgerTransaction.objects.filter(key__in=keys).values_list("key", "status")
    return {key: [status, *sorted(legs[key])] for key, status in rows}


def _now() -> datetime:
    return datetime.now(UTC)
