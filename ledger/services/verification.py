"""Looking for what is wrong with the ledger: bounded for `verify`, everything for `ledger_verify`.

Every statement sees one snapshot, whatever is posted meanwhile, and no row leaves the database
unless it is wrong. Sealed blocks are computed again in stretches, so that memory stays flat and
findings come as they are found; two connections use two processors.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from django.db import connection, transaction

from commerce.errors import InvalidInput
from ledger.models import LedgerSeal
from ledger.services.checks import BLOCKS, CHECKS, LIMIT, MEMBERS, NATURES, Check
from ledger.services.horizon import horizon

STRETCH = 50_000
RECENT = 100_000
CONNECTIONS = 2
_SETTINGS = """
SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL jit = off;
SET LOCAL work_mem = '64MB'; SET LOCAL max_parallel_workers_per_gather = 0
"""
_STRETCHES = """
SELECT min(x.number), max(x.number)
  FROM (SELECT s.number, (sum(s.transactions) OVER (ORDER BY s.number) - 1) / %s AS stretch
          FROM ledger_ledgerseal s WHERE s.number >= %s) x
 GROUP BY floor(x.stretch) ORDER BY 1
"""
_RECENT = """
SELECT min(x.number)
  FROM (SELECT s.number, sum(s.transactions) OVER (ORDER BY s.number DESC) - s.transactions AS later
          FROM (SELECT number, transactions FROM ledger_ledgerseal ORDER BY number DESC LIMIT 1000) s) x
 WHERE x.later < %s
"""


@dataclass(frozen=True)
class LedgerFinding:
    """`subject` is the row, as table:key; `type` is a word that a program can act on."""

    type: str
    subject: str
    detail: str


Findings = list[LedgerFinding]


def verify_ledger(
    *, since: int = 1, connections: int = CONNECTIONS, progress: Callable[[str], None] = lambda title: None
) -> Iterator[LedgerFinding]:
    """Everything recorded from seal `since` on, and what stands now; `progress` hears what was looked at.

    Inside a transaction it keeps to the caller's connection, which alone sees what was written there.
    """
    with _snapshot() as exported:
        bounds = _bounds(since)
        jobs = [(check.title, partial(_check, check.sql, bounds)) for check in CHECKS]
        for first, last in _read(_STRETCHES, [STRETCH, since]):
            jobs.append((f"Seals {first:,} to {last:,}", partial(_blocks, first, last)))
        if exported is None or connections == 1:
            for title, job in jobs:
                yield from job()
                progress(title)
            return
        with ThreadPoolExecutor(connections) as pool:
            try:
                answers = pool.map(partial(_apart, exported), [job for _, job in jobs])
                for (title, _), found in zip(jobs, answers, strict=True):
                    yield from found
                    progress(title)
            finally:
                pool.shutdown(cancel_futures=True)


def recent_seal() -> int:
    """The seal from which on about the newest hundred thousand transactions are covered."""
    ((number,),) = _read(_RECENT, [RECENT])
    return number or 1


def check_recent(check: Check) -> Findings:
    """One of `CHECKS`, on what was recorded lately."""
    with _snapshot():
        return _check(check.sql, _bounds(recent_seal()))


def check_recent_seals() -> Findings:
    """The newest part of the chain against the rows that it sealed."""
    with _snapshot():
        ((last,),) = _read("SELECT COALESCE(max(number), 0) FROM ledger_ledgerseal")
        return check_seals(recent_seal(), last)


def check_seals(first: int, last: int) -> Findings:
    """The chain from one seal to another against the rows that they sealed."""
    with transaction.atomic():
        return _blocks(first, last)


def anchor() -> dict[str, Any] | None:
    """The latest seal as a line to keep elsewhere; whoever rewrites the chain cannot rewrite that."""
    seal = LedgerSeal.objects.defer("members").order_by("-number").first()
    return _anchor(seal) if seal else None


def compare_anchor(kept: Any) -> Findings:
    """Whether the chain still contains the seal that was kept elsewhere. InvalidInput if it is none."""
    if not (
        isinstance(kept, dict)
        and type(kept.get("number")) is int
        and 0 < kept["number"] < 2**63
        and isinstance(kept.get("hash"), str)
    ):
        raise InvalidInput("An anchor is an object with a number and a hash.", code="invalid_anchor")
    seal = LedgerSeal.objects.defer("members").filter(pk=kept["number"]).first()
    if seal is None:
        return [
            LedgerFinding(
                "anchor_differs", f"seal:{kept['number']}", "It was kept elsewhere; here it is gone."
            )
        ]
    found = _anchor(seal)
    return [
        LedgerFinding(
            "anchor_differs", f"seal:{seal.pk}", f"Its {name} was {kept[name]} and is {found[name]}."
        )
        for name in found
        if name in kept and kept[name] != found[name]
    ]


def _anchor(seal: LedgerSeal) -> dict[str, Any]:
    return {
        "number": seal.number,
        "until": seal.until.isoformat(),
        "hash": bytes(seal.hash).hex(),
        "transactions": seal.transactions,
        "entries": seal.entries,
    }


@contextmanager
def _snapshot() -> Iterator[str | None]:
    """A transaction in which nothing changes, and its name for other connections; None within another."""
    outermost = not connection.in_atomic_block
    with transaction.atomic(), connection.cursor() as cursor:
        if outermost:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute(_SETTINGS)
        if outermost:
            cursor.execute("SELECT pg_export_snapshot()")
            (name,) = cursor.fetchone()
        yield name if outermost else None


def _apart(exported: str, job: Callable[[], Findings]) -> Findings:
    """On this thread's own connection, seeing the same snapshot."""
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                cursor.execute("SET TRANSACTION SNAPSHOT %s", [exported])
                cursor.execute(_SETTINGS)
            return job()
    finally:
        connection.close()


def _bounds(since: int) -> dict[str, Any]:
    """The instants that `since`, the latest seal and the archive mean, and the limits of every check."""
    latest = LedgerSeal.objects.order_by("-number").values_list("number", "until").first()
    if not 1 <= since <= (latest[0] if latest else 0) + 1:
        raise InvalidInput(f"There is no seal {since}.", pointer="/since", code="unknown_seal")
    before = LedgerSeal.objects.filter(number=since - 1).values_list("until", flat=True).first()
    left = _archived()
    return {
        "since": _instant(before),
        "after": max(left["archived"], _instant(before)),
        "sealed": _instant(latest[1] if latest else None),
        "natures": NATURES,
        "limit": LIMIT,
        **left,
    }


def _archived() -> dict[str, str]:
    """Where the entries begin, and the instant before, up to which they have left."""
    begins = horizon()
    return {
        "horizon": _instant(begins),
        "archived": _instant(begins - timedelta(microseconds=1) if begins else None),
    }


def _instant(of: datetime | None) -> str:
    """As SQL reads it; later ones are greater texts."""
    return of.astimezone(UTC).isoformat(timespec="microseconds") if of else "-infinity"


def _check(sql: str, bounds: dict[str, Any]) -> Findings:
    return [LedgerFinding(*row) for row in _read(sql, bounds)]


def _blocks(first: int, last: int) -> Findings:
    found = []
    left = _archived()
    for number, differs, broken in _read(BLOCKS, {"first": first, "last": last, **left}):
        if broken:
            found.append(LedgerFinding("seal_broken", f"seal:{number}", broken))
        if differs:
            found += _check(MEMBERS, {"number": number, "limit": LIMIT, **left})
    return found


def _read(sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()
