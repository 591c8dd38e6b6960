"""The relay beside procrastinate: rate, claims beside what cannot be claimed, a backlog, latency, appends."""

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from commerce.embedded import ensure_redis, stop_redis
from commerce.processes import CLOCK_START, STOP_SECONDS, Stack
from tests.benchmarks.outbox import statements
from tests.benchmarks.report import Row, Target, compared
from tests.benchmarks.run import Run
from tests.benchmarks.worker import Worker

DATABASE = "outbox"
OURS = {
    "module": "tests.benchmarks.outbox.ours",
    "settings": "tests.benchmarks.outbox.settings",
    "database": DATABASE,
}
PEER = {
    "module": "tests.benchmarks.outbox.procrastinate",
    "settings": "commerce.settings",
    "database": "procrastinate",
}
PRODUCT = OURS | {"module": "tests.benchmarks.outbox.product"}
EVENTS_PER_STREAM = 3
CONCURRENCY = (1, 10, 40)
# Enough work for the measurement's length at a rate that is not reached; each side does all it was given.
BATCH_EVENTS, SINGLE_EVENTS, JOBS = 21_000, 1_500, 900
SETTLED, TOLD = 30, 1_000
# By event type the lane and the groups of its handlers.
HEARD = {
    "bench.many": ("batch", ["bench.many"]),
    "bench.many_twice": ("batch", ["bench.many", "bench.others"]),
    "bench.one": ("local", ["bench.one"]),
    "bench.one_twice": ("local", ["bench.one", "bench.other"]),
    "bench.elsewhere": ("elsewhere", ["bench.elsewhere"]),
}
FULL = {"idle": (10_000, 1_000_000), "due": 600, "claim": 300, "times": 50, "appends": 600, "alone": 10}
QUICK = {"idle": (500, 5_000), "due": 60, "claim": 30, "times": 5, "appends": 10, "alone": 3}
QUICKLY = Target(100, of="ours", lower=True)
SECONDS = Target(10_000, of="ours", lower=True)
PATIENCE = 20
BACKLOG, QUICK_BACKLOG = 1_000_000, 6_000


def run(run: Run) -> list[Row]:
    sizes: dict[str, Any] = QUICK if run.quick else FULL
    run.say("databases")
    for side in (OURS, PEER):
        run.server.create(side["database"])
        with Worker(**side) as worker:
            worker.ask("migrate")
    with Worker(**OURS) as ours:
        rows = [
            *_draining(run, ours),
            *_claiming(run, ours, sizes),
            *_backlog(run, ours, run.backlog or (QUICK_BACKLOG if run.quick else BACKLOG)),
            *_appending(run, ours),
        ]
    return [*rows, *_product(run), *_waiting(run, sizes)]


def _load(
    run: Run,
    heard: str,
    streams: int,
    *,
    state: str = "due",
    events: int = EVENTS_PER_STREAM,
    empty: bool = True,
) -> None:
    facts = facts_of(heard, streams, events=events, state=state)
    with run.server.connect(DATABASE) as connection:
        for statement in (*((statements.EMPTY,) if empty else ()), *statements.LOAD, statements.SETTLED):
            connection.execute(statement, facts if "%(" in statement else None)


def facts_of(
    heard: str, streams: int, *, events: int = EVENTS_PER_STREAM, state: str = "due"
) -> dict[str, Any]:
    """What the statements that load streams with events of a type ask for."""
    lane, groups = HEARD[heard]
    return {
        "streams": streams, "events": events, "type": heard, "lane": lane, "groups": groups, "state": state,
    }  # fmt: skip


def _nothing_left(run: Run) -> None:
    with run.server.connect(DATABASE) as connection:
        for statement in (statements.UNPUBLISHED, statements.DUE):
            (left,) = connection.execute(statement).fetchone() or (0,)
            if left:
                raise RuntimeError(f"{left:,} were left by {statement}.")


def _draining(run: Run, ours: Worker) -> list[Row]:
    with Worker(**PEER) as peer:

        def drain(heard: str, per_second: int) -> float:
            lane, groups = HEARD[heard]
            streams = max(int(per_second * run.seconds) // EVENTS_PER_STREAM, 1)
            _load(run, heard, streams)
            events = streams * EVENTS_PER_STREAM
            rate = float(ours.ask("drain", lane=lane, events=events, groups=len(groups)))
            _nothing_left(run)
            return rate

        jobs = max(int(JOBS * run.seconds), 1)
        figures = run.alternate(
            {
                "batch handler": partial(drain, "bench.many", BATCH_EVENTS),
                "two batch handlers": partial(drain, "bench.many_twice", BATCH_EVENTS // 2),
                "handler of one": partial(drain, "bench.one", SINGLE_EVENTS),
                "two handlers of one": partial(drain, "bench.one_twice", SINGLE_EVENTS // 2),
            }
            | {
                f"procrastinate, {number} at a time": partial(
                    peer.ask, "drain", jobs=jobs, concurrency=number
                )
                for number in CONCURRENCY
            }
        )
    names = [f"procrastinate, {number} at a time" for number in CONCURRENCY]
    best = max(names, key=lambda name: statistics.median(figures[name]))
    batch = figures["batch handler"]
    title = f"drain, {EVENTS_PER_STREAM} events a stream, one process"
    others = {
        "handler of one event": "handler of one",
        "two groups, batch handlers": "two batch handlers",
        "two groups, handlers of one event": "two handlers of one",
    }
    return [
        compared(f"{title}, batch handler", "/s", batch, best, figures[best], Target(10)),
        *(
            compared(f"{title}, {said}", "/s", figures[name], best, figures[best])
            for said, name in others.items()
        ),
        *(
            compared(f"{title}, batch handler", "/s", batch, name, figures[name])
            for name in names
            if name != best
        ),
    ]


def _claiming(run: Run, ours: Worker, sizes: dict[str, Any]) -> list[Row]:
    """One claim of streams that are due, beside few and many streams that are not for it."""
    rows = []
    kinds = {
        "waiting": {"heard": "bench.many", "state": "waiting"},
        "parked": {"heard": "bench.many", "state": "parked"},
        "due in another lane": {"heard": "bench.elsewhere", "state": "due"},
    }
    for title, facts in kinds.items():
        answers = []
        for size in sizes["idle"]:
            run.say(f"claims beside {size:,} streams {title}")
            _load(run, streams=size, events=1, **facts)
            _load(run, "bench.many", sizes["due"], events=1, empty=False)
            answers.append(ours.ask("claim", lane="batch", limit=sizes["claim"], times=sizes["times"]))
        (few, many), (small, large) = sizes["idle"], answers
        rows.append(
            Row(
                f"claim of {sizes['claim']} streams, {many:,} {title}",
                "ms",
                large["p50"],
                f"{few:,} {title}",
                small["p50"],
                Target(2, lower=True),
                {"p95": large["p95"], "peer_p95": small["p95"]},
            )
        )
    return rows


def _backlog(run: Run, ours: Worker, events: int) -> list[Row]:
    run.say(f"loading {events:,} events")
    streams = events // EVENTS_PER_STREAM
    _load(run, "bench.many", streams)
    run.say("draining them")
    found = ours.ask("backlog", lane="batch", events=streams * EVENTS_PER_STREAM)
    _nothing_left(run)
    title = f"backlog of {events:,} events"
    return [
        Row(f"{title}, the whole", "/s", found["rate"], details=found),
        Row(f"{title}, the last tenth", "/s", found["last"], "the first tenth", found["first"]),
        Row(
            f"{title}, memory at the end",
            "MiB",
            found["memory_at_end"],
            "after a tenth",
            found["memory_at_tenth"],
            details={"peak": found["memory_peak"]},
        ),
    ]


def _appending(run: Run, ours: Worker) -> list[Row]:
    _load(run, "bench.many", 1)
    figures = run.alternate(
        {
            f"append, {number} per commit": partial(
                ours.ask, "append_rate", per_commit=number, seconds=run.seconds
            )
            for number in (1, 100)
        }
    )
    return [
        Row(name, "/s", statistics.median(rounds), details={"rounds": rounds})
        for name, rounds in figures.items()
    ]


def _product(run: Run) -> list[Row]:
    _load(run, "bench.many", 1)
    with Worker(**PRODUCT) as ours:
        figures = run.alternate(
            {
                "settlements of paid invoices, lane local": partial(
                    ours.ask, "settle", events=max(int(SETTLED * run.seconds), 1)
                ),
                "webhook messages, 200 events at once": partial(
                    ours.ask, "tell", events=max(int(TOLD * run.seconds), 1)
                ),
            }
        )
    return [
        Row(f"product: {name}", "/s", statistics.median(rounds), details={"rounds": rounds})
        for name, rounds in figures.items()
    ]


def _waiting(run: Run, sizes: dict[str, Any]) -> list[Row]:
    """Commit to handled on an idle system, as its processes are started, while Redis goes and comes back."""
    _load(run, "bench.many", 1)
    with _processes(), Worker(**OURS) as ours:
        _handled(ours, events=5, pause=0.5, patience=60)
        run.say(f"{sizes['appends']} appends to an idle system")
        nudged = _handled(ours, events=sizes["appends"], pause=1 / 15, patience=30)
        run.say("appends without Redis")
        stop_redis()
        try:
            alone = _handled(ours, events=sizes["alone"], pause=0.5, patience=PATIENCE)
        finally:
            ensure_redis()
        run.say("appends when it is back")
        back = _handled(ours, events=5, pause=0.5, patience=60)
    title = "commit to handled, idle system"
    return [
        Row(f"{title}, p99 of {sizes['appends']}", "ms", nudged["p99"], target=QUICKLY, details=nudged),
        Row(f"{title}, median", "ms", nudged["p50"]),
        Row(f"{title}, slowest", "ms", nudged["max"]),
        Row(
            f"{title}, Redis gone, slowest of {sizes['alone']}",
            "ms",
            alone["max"],
            target=SECONDS,
            details=alone,
        ),
        Row(f"{title}, Redis back, slowest of 5", "ms", back["max"], details=back),
    ]


@contextmanager
def _processes() -> Iterator[None]:
    """Workers and beat as the product starts them, ticking as it does unless told otherwise."""
    environment = {"DJANGO_SETTINGS_MODULE": OURS["settings"], "TICK_SECONDS": "2"}
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), database=DATABASE, environment=environment)
        (stack.folder / "logs").mkdir()
        stack.clock_file.write_text(CLOCK_START)
        processes = [process for name, process in stack.processes.items() if name not in ("web", "sandbox")]
        try:
            for process in processes:
                process.start()
            yield
            for process in processes:
                process.check()
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(STOP_SECONDS)
                process.kill()


def _handled(ours: Worker, **facts: Any) -> dict[str, float | None]:
    """Median, 99th percentile and maximum in milliseconds; none of a slowest that never came."""
    waits = sorted(ours.ask("latency", **facts))
    missing = facts["events"] - len(waits)
    if missing:
        return {"p50": None, "p99": None, "max": None, "missing": missing}
    return {
        "p50": waits[len(waits) // 2],
        "p99": waits[min(int(len(waits) * 0.99), len(waits) - 1)],
        "max": waits[-1],
    }
