"""How long something takes, in wall-clock time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection


def rate(work: Callable[[], int], seconds: float) -> float:
    """Call `work` for that long; how much it says it did, per second."""
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        done += work()
    return done / passed


def in_database(call: Callable[[], Any], times: int, warm: int = 3) -> dict[str, float]:
    """Median and 95th percentile of the milliseconds that a call waits for the database."""
    for _ in range(warm):
        call()
    waits = []
    for _ in range(times):
        with _waiting() as spent:
            call()
        waits.append(1000 * sum(spent))
    waits.sort()
    return {"p50": waits[len(waits) // 2], "p95": waits[min(int(len(waits) * 0.95), len(waits) - 1)]}


@contextmanager
def _waiting() -> Iterator[list[float]]:
    spent: list[float] = []

    def execute(run: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return run(*arguments)
        finally:
            spent.append(time.perf_counter() - began)

    with connection.execute_wrapper(execute):
        yield spent
