"""A migrated database, a simulator with faults, writers, workers; and what kills them.

Workers are processes that drain in a loop, or those of the product: Celery's pools and beat.
"""

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from commerce.embedded import ensure_postgres, ensure_redis
from commerce.processes import WORKERS, Stack
from tests.crashes.outbox import crew, judge, loaded, payees
from tests.crashes.outbox.handlers import BANK, BATCH, CURSOR_FIRST, IN_HAND, LOCAL
from tests.crashes.servers import kill_postgres, wipe_redis

CREW = 4
WRITERS = 2
PATIENCE = 180
LEASE_PASSED, PAUSE_EVERY = 5.5, 20
TASK_PASSED = 25.0  # a drain that found work before Redis went may go on for 20 s
PROVIDER = "modern_treasury"
FAULTS: dict[str, dict[str, Any]] = {
    "error": {"status": 503, "rate": 0.025},
    "error_after_effect": {"status": 500, "rate": 0.025},
    "timeout_after_effect": {"rate": 0.03},
}


class Field:
    """Everything but the database's server, which the caller has started."""

    def __init__(self, stack: Stack, dice: random.Random) -> None:
        self.stack, self.dice = stack, dice
        self.answers: list[Path] = []
        self.nursery = multiprocessing.get_context("forkserver")
        self.nursery.set_forkserver_preload([loaded.__name__, crew.__name__, PROVIDER])
        self.hands = self.nursery.RawArray("b", CREW)
        self.crew: list[Any] = []

    def __enter__(self) -> Self:
        self.stack.processes["sandbox"].log.parent.mkdir()
        self.stack.processes["sandbox"].start()
        try:
            payees.migrate()
            _until(self._simulator_answers, 30)
            payees.open_accounts()
            for kind, rule in FAULTS.items():
                self.stack.control("faults", {"provider": PROVIDER, "kind": kind, "count": 0, **rule})
        except BaseException:
            self.stack.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.crew:
            worker.kill()
        self.stack.stop()

    def kill_workers(self, kills: int) -> dict[str, Any]:
        """At random moments; and before that once in every kind of effect, so that each was hit."""
        hit: Counter[str] = Counter()
        aimed = (LOCAL, BATCH, BANK, CURSOR_FIRST)
        self.crew = [self._worker(slot) for slot in range(CREW)]
        with self._writing():
            for group in aimed:
                self._kill_in(group)
            for turn in range(kills):
                time.sleep(self.dice.uniform(0.2, 1.5))
                if turn % PAUSE_EVERY == PAUSE_EVERY - 1:
                    self._pause(self.crew[self.dice.randrange(CREW)])
                hit[self._kill(self.dice.randrange(CREW))] += 1
        for worker in self.crew:
            worker.kill()
            worker.join()
        return {
            "kills": kills,
            "besides_aimed_at": list(aimed),
            "paused_past_the_lease": kills // PAUSE_EVERY,
            "of_them_in_an_effect": sum(hit.values()) - hit[""],
            "killed_in": {group: hit[group] + (group in aimed) for group in IN_HAND[1:]},
        }

    def restart_postgres(self, restarts: int) -> dict[str, Any]:
        """kill -9 of the postmaster and of all that serve, while Celery's workers drain."""
        returns = []
        with self._celery(), self._writing():
            self._until_all_work()
            for _ in range(restarts):
                time.sleep(self.dice.uniform(0.3, 1.5))
                kill_postgres()
                ensure_postgres()
                returns.append(self._until_each_lane_goes_on())
            alive, back = self._until_all_work()
        return {
            "restarts": restarts,
            "slowest_return_seconds": round(max(returns), 2),
            "mean_return_seconds": round(sum(returns) / len(returns), 2),
            "processes": len(alive),
            "processes_back": len(back),
        }

    def wipe_redis(self, wipes: int) -> dict[str, Any]:
        """Empty it and kill it; the last of several times it stays away longer than any drain lasts."""
        without = []
        with self._celery(), self._writing():
            self._until_all_work()
            for turn in range(wipes):
                time.sleep(self.dice.uniform(0.5, 3))
                wipe_redis()
                time.sleep(TASK_PASSED if wipes > 1 and turn == wipes - 1 else self.dice.uniform(1, 3))
                before = judge.counted()
                time.sleep(3)
                without.append(judge.counted() - before)
                ensure_redis()
            # Nobody but wake-ups through Redis makes them work then.
            self.stack.kill("beat")
            began = time.monotonic()
            alive, back = self._until_all_work()
            passed = time.monotonic() - began
            self.stack.restart("beat")
        return {
            "wipes": wipes,
            "fewest_effects_without": min(without),
            "processes": len(alive),
            "processes_back": len(back),
            "woken_again_after_seconds": round(passed, 1),
        }

    def faults_served(self) -> dict[str, int]:
        return {rule["kind"]: rule["hits"] for rule in self.stack.control("faults")}

    def judge(self) -> dict[str, judge.Verdict]:
        return judge.judge(self.stack.control("effects"))

    # Who writes and who drains

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """At the end nobody writes, and what was written is drained."""
        stop, writers = self.nursery.Event(), []
        for _ in range(WRITERS):
            number = len(self.answers)
            self.answers.append(self.stack.folder / f"answers-{number}")
            seed = f"{self.dice.random()}"
            writers.append(self._process(crew.write, seed, str(self.answers[-1]), stop))
        yield
        stop.set()
        for writer in writers:
            writer.join()
        self._settle()

    def _settle(self) -> None:
        """Until nothing is left, or for as long as there is less and less: a busy machine is only slow."""
        left = judge.unsettled()
        while any(left.values()):
            before = left
            _until(lambda: judge.unsettled() != before, PATIENCE)  # noqa: B023 - called at once
            if (left := judge.unsettled()) == before:
                return

    def _worker(self, slot: int) -> Any:
        return self._process(crew.work, self.hands, slot)

    def _process(self, target: Callable[..., None], *arguments: Any) -> Any:
        process = self.nursery.Process(target=target, args=arguments, daemon=True)  # type: ignore[attr-defined]
        process.start()
        return process

    @contextmanager
    def _celery(self) -> Iterator[None]:
        self.stack.restart(*WORKERS, "beat")
        yield
        for name in ("beat", *WORKERS):
            self.stack.processes[name].kill()

    # Who dies

    def _kill_in(self, group: str) -> None:
        wanted = IN_HAND.index(group)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            busy = [slot for slot in range(CREW) if self.hands[slot] == wanted]
            if busy and self._kill(busy[0]) == group:
                return
        raise TimeoutError(f"No worker had {group} in hand.")

    def _kill(self, slot: int) -> str:
        """The effect that it had in hand; another worker takes its place."""
        self.crew[slot].kill()
        self.crew[slot].join()
        had = IN_HAND[self.hands[slot]]
        self.crew[slot] = self._worker(slot)
        return had

    def _pause(self, worker: Any) -> None:
        process = psutil.Process(worker.pid)
        process.suspend()
        time.sleep(LEASE_PASSED)
        process.resume()

    # What goes on

    def _until_each_lane_goes_on(self) -> float:
        began, since = time.monotonic(), judge.instant()
        _until(lambda: judge.lanes_moved(since) >= set(crew.LANES), PATIENCE)
        return time.monotonic() - began

    def _until_all_work(self) -> tuple[set[int], set[int]]:
        """The processes of the pools, and those of them that have handled an event from now on."""
        marks = judge.marks()
        _until(lambda: judge.workers_since(marks) >= (self._pools() or {0}), 60)
        alive = self._pools()
        return alive, judge.workers_since(marks) & alive

    def _pools(self) -> set[int]:
        parents = [psutil.Process(self.stack.processes[name].pid) for name in WORKERS]
        return {child.pid for parent in parents for child in parent.children()}

    def _simulator_answers(self) -> bool:
        with suppress(OSError):
            return bool(self.stack.control("health"))
        return False


def _until(reached: Callable[[], bool], seconds: float) -> None:
    """Whoever counts afterwards says what is wrong when it was not."""
    deadline = time.monotonic() + seconds
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.05)
