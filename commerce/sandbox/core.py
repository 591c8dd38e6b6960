"""The simulated world: one lock, one store, one clock, and the work that falls due.

Work has one of two due times. A *job* is due at a business instant (period end, collection, a return
days later) and fires in order as the test clock moves. A *step* is due a fraction of a real second
later (a payment order on its way), so that a demo is quick; moving the clock finishes all steps first.
"""

import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from commerce.sandbox.clock import Clock, ClockBackwards, iso, parse
from commerce.sandbox.store import Row, Store

logger = logging.getLogger("commerce.sandbox")

Work = Callable[..., None]
WORK: dict[str, Work] = {}
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
SETTINGS = {"step_ms": 80, "return_business_days": 2}


def work(kind: str) -> Callable[[Work], Work]:
    """Register what a job or a step of this kind does: `fn(sandbox, **arguments)`."""

    def register(fn: Work) -> Work:
        WORK[kind] = fn
        return fn

    return register


class Sandbox:
    def __init__(self, folder: Path, clock_file: Path | None = None, seed: str = "") -> None:
        self.lock = threading.RLock()
        self.store = Store(folder)
        self.clock = Clock(clock_file)
        self._seed = seed or os.environ.get("SANDBOX_SEED", "1")
        self._instant: datetime | None = None
        self._advancing = threading.Lock()
        self.requests: list[Row] = []

    def now(self) -> datetime:
        """Business time: while a job runs, the instant it was due."""
        return self._instant or self.clock.now()

    def stamp(self) -> str:
        """A strictly rising instant for createdAt and updatedAt, even while the clock stands still."""
        now = self.now()
        last = self.store.get("stamp", "last")
        if last and parse(last["at"]) >= now:
            now = parse(last["at"]) + timedelta(microseconds=1)
        self.store.put("stamp", {"at": iso(now)}, "last")
        return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def setting(self, name: str) -> int:
        return int((self.store.get("settings", "settings") or SETTINGS).get(name, SETTINGS[name]))

    def uuid(self) -> str:
        return str(uuid.UUID(bytes=self._bytes()[:16], version=4))

    def ulid(self) -> str:
        number = self.store.count("ulid")
        milliseconds = int(self.now().timestamp() * 1000)
        tail = int.from_bytes(self._bytes()[:6], "big")
        value = milliseconds << 80 | (number & 0xFFFFFFFF) << 48 | tail
        return "".join(CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))

    def _bytes(self) -> bytes:
        seed = (self.store.get("settings", "seed") or {"value": self._seed})["value"]
        return hashlib.sha256(f"{seed}:{self.store.count('id')}".encode()).digest()

    def schedule(self, at: datetime, kind: str, **arguments: Any) -> None:
        """Do `kind` when the business clock reaches `at`. The same work at the same instant is one job."""
        key = f"{iso(at)}/{kind}/" + "/".join(f"{k}={v}" for k, v in sorted(arguments.items()))
        if self.store.get("job", key) is None:
            row = {"at": iso(at), "kind": kind, "arguments": arguments}
            self.store.put("job", {**row, "due": [at.timestamp(), self.store.count("order")]}, key)

    def soon(self, kind: str, **arguments: Any) -> None:
        """Do `kind` one step of real time from now."""
        number = self.store.count("order")
        due = time.time() + self.setting("step_ms") / 1000
        self.store.put("step", {"due": due, "kind": kind, "arguments": arguments}, f"{number:012d}")

    def tick(self) -> list[Row]:
        """Whatever is due now, by either clock; called all the time, idle while the clock is being moved."""
        if not self._advancing.acquire(blocking=False):
            return []
        try:
            with self.lock:
                fired = self._run_steps(until=time.time())
            return fired + self._run_jobs(until=self.clock.now(), move=False)
        finally:
            self._advancing.release()

    def settle(self) -> list[Row]:
        """Finish every step now."""
        with self.lock:
            return self._run_steps(until=float("inf"))

    def advance(self, to: datetime, between: Callable[[], None] | None = None) -> list[Row]:
        """Move the shared clock to `to` through every instant at which something is due."""
        with self._advancing:
            if to < self.clock.now():
                raise ClockBackwards(f"The test clock is already at {iso(self.clock.now())}.")
            fired = self.settle()
            fired += self._run_jobs(until=to, move=True, between=between)
            self.clock.advance(to)
            return fired

    def _run_steps(self, until: float) -> list[Row]:
        fired = []
        while due := [
            (row["due"], key) for key, row in self.store.table("step").items() if row["due"] <= until
        ]:
            fired.append(self._run("step", min(due)[1], self.now()))
        return fired

    def _run_jobs(self, until: datetime, move: bool, between: Callable[[], None] | None = None) -> list[Row]:
        fired: list[Row] = []
        while True:
            with self.lock:
                jobs = self.store.table("job")
                key = min(jobs, key=lambda key: jobs[key]["due"], default="")
                if not key or (at := parse(jobs[key]["at"])) > until:
                    return fired
                if move and at > self.clock.now():
                    self.clock.advance(at)
                self._instant = at
                try:
                    fired.append(self._run("job", key, at))
                    if move:
                        fired += self._run_steps(until=float("inf"))
                finally:
                    self._instant = None
            if between:
                between()

    def _run(self, table: str, key: str, at: datetime) -> Row:
        row = self.store.table(table)[key]
        self.store.remove(table, key)
        try:
            WORK[row["kind"]](self, **row["arguments"])
        except Exception:
            logger.exception("sandbox work failed: %s %s", row["kind"], row["arguments"])
            self.store.rollback()
            self.store.remove(table, key)
        self.store.commit()
        return {"at": iso(at), "kind": row["kind"], **row["arguments"]}

    def reset(self, seed: str | None = None) -> None:
        """Forget everything. Ids go on counting, so that no old id is ever seen again, unless reseeded."""
        with self.lock:
            if seed is None:
                self.store.clear(keep=("counter",))
                for name in [name for name in self.store.table("counter") if name.startswith("webhooks_")]:
                    self.store.remove("counter", name)
            else:
                self.store.clear()
                self.store.put("settings", {"value": seed}, "seed")
            self.requests.clear()
            self.store.commit()
