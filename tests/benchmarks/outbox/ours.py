"""Our side of the outbox's benchmark, through the functions that the product calls."""

import itertools
import random
import resource
import threading
import time
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psutil
import psycopg
from django.core.management import call_command
from django.db import connection, transaction

from commerce.ids import uuid7
from commerce.outbox import append, claims, relay
from tests.benchmarks import clocks
from tests.benchmarks.outbox.handlers import HANDLED

MANY = 10**9


def migrate() -> None:
    call_command("migrate", verbosity=0)


def drain(lane: str, events: int, groups: int = 1) -> float:
    """Events per second, each handled by so many groups, until none is left."""
    began = time.perf_counter()
    report = relay.drain(lanes=[lane], limit=MANY, seconds=MANY)
    passed = time.perf_counter() - began
    if report.handled != events * groups:
        raise RuntimeError(f"{report.handled:,} of {events * groups:,} effects were done.")
    return events / passed


def claim(lane: str, limit: int, times: int) -> dict[str, float]:
    """Milliseconds in the database of one claim, taken back each time."""

    def once() -> None:
        with transaction.atomic():
            if len(claims.claim(token=uuid4(), lane=lane, limit=limit)) != limit:
                raise RuntimeError(f"Fewer than {limit} streams were due.")
            transaction.set_rollback(True)

    return clocks.in_database(once, times)


def backlog(lane: str, events: int) -> dict[str, Any]:
    """Drain it in a hundred parts; rates of the first and the last ten, and the memory at each part's end."""
    process, rates, memory = psutil.Process(), [], []
    part = max(events // 100, 1)
    left, began = events, time.perf_counter()
    while left > 0:
        started = time.perf_counter()
        handled = relay.drain(lanes=[lane], limit=part, seconds=MANY).handled
        if not handled:
            raise RuntimeError(f"{left:,} events were not handled.")
        left -= handled
        rates.append(handled / (time.perf_counter() - started))
        memory.append(process.memory_info().rss / 2**20)
    tenth = max(len(rates) // 10, 1)
    return {
        "rate": events / (time.perf_counter() - began),
        "first": sum(rates[:tenth]) / tenth,
        "last": sum(rates[-tenth:]) / tenth,
        "memory_at_tenth": memory[tenth - 1],
        "memory_at_end": memory[-1],
        "memory_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }


def append_rate(per_commit: int, seconds: float) -> float:
    """Events per second, three to an aggregate, each commit followed by its nudge."""
    events = itertools.count()
    aggregate = ""

    def work() -> int:
        nonlocal aggregate
        with transaction.atomic():
            for number in itertools.islice(events, per_commit):
                aggregate = str(uuid7()) if number % 3 == 0 else aggregate
                _append("bench.many", aggregate)
        return per_commit

    return clocks.rate(work, seconds)


def latency(events: int, pause: float, patience: float) -> list[float]:
    """Milliseconds from just before each commit to the news of its effect's own, about `pause` seconds apart;
    what is not handled `patience` seconds after the last is not among them."""
    handled: dict[str, float] = {}
    appended: dict[str, float] = {}
    stop = threading.Event()
    listener = threading.Thread(target=_listen, args=(handled, stop))
    listener.start()
    try:
        for _ in range(events):
            aggregate = str(uuid7())
            with transaction.atomic():
                _append("bench.told", aggregate)
                appended[aggregate] = time.perf_counter()
            time.sleep(random.uniform(0.5, 1.5) * pause)
        deadline = time.monotonic() + patience
        while len(handled) < events and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        stop.set()
        listener.join()
    return [1000 * (handled[name] - at) for name, at in appended.items() if name in handled]


def _listen(handled: dict[str, float], stop: threading.Event) -> None:
    with psycopg.connect(**connection.get_connection_params(), autocommit=True) as listening:
        listening.execute(f"LISTEN {HANDLED}")
        while not stop.is_set():
            for notice in listening.notifies(timeout=0.2):
                handled[notice.payload] = time.perf_counter()


def _append(type_: str, aggregate: str) -> None:
    payload = {"amount": 100, "currency": "USD", "reason": "a benchmark"}
    append("bench", aggregate, type_, payload, at=datetime.now(UTC))
