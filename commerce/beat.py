"""The scheduler of `celery beat`: it publishes ticks, and without a broker it runs them itself.

Every task finds its work in the database, is bounded and may run twice, so that beat and workers may
do the same. One task of a queue runs at a time here: a slow provider holds up no local work. Ticks go
on here for a while after the broker is back, for workers wait up to half a minute between their tries.
"""

import logging
import time
from collections import defaultdict
from contextlib import suppress
from threading import Lock, Thread
from typing import Any

from celery import beat
from celery.app.task import Task
from django.db import close_old_connections

from commerce.celery import waiting
from commerce.outbox.stopping import stop, stopping

log = logging.getLogger(__name__)

FULL = 20
LOOK_SECONDS = 1.0
QUIET_SECONDS = 5.0
REJOIN_SECONDS = 45.0


class Scheduler(beat.Scheduler):
    """Keeps nothing on disk: after a start every entry is due at once."""

    # Asked for by `tick`: each task takes a connection out of the pool, which is not waited for.
    producer: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._threads: dict[str, Thread] = {}
        self._turns: defaultdict[str, Lock] = defaultdict(Lock)
        self._quiet_until = self._alone_until = self._looked_at = 0.0
        self._full: set[str] = set()
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        super().setup_schedule()
        for entry in self.schedule.values():
            entry.last_run_at = self.app.now().replace(year=2000)

    def apply_entry(self, entry: beat.ScheduleEntry, producer: Any = None) -> None:
        name, task, arguments = str(entry.name), self.app.tasks[str(entry.task)], tuple(entry.args or ())
        self._publish(task, arguments, entry.options or {})
        if time.monotonic() < self._alone_until:
            self._run(name, task, arguments)

    def _publish(self, task: Task, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """A broker that did not answer is left alone for a while, for each try costs the ticks that wait."""
        if time.monotonic() < self._quiet_until or self._queue(task, arguments) in self._full_queues():
            return
        try:
            task.apply_async(arguments, retry=False, **options)
        except Exception as error:  # whatever the broker's library raises: the ticks go on
            now = time.monotonic()
            if now >= self._alone_until:
                log.error("no broker: beat runs the ticks itself: %s", type(error).__name__)
            self._quiet_until, self._alone_until = now + QUIET_SECONDS, now + REJOIN_SECONDS

    def _run(self, name: str, task: Task, arguments: tuple[Any, ...]) -> None:
        """When it is its queue's turn, or not at all while the same tick is still waiting or at work."""
        if (earlier := self._threads.get(name)) and earlier.is_alive():
            return
        turn = self._turns[self._queue(task, arguments)]
        self._threads[name] = Thread(target=_run_here, args=(turn, task, arguments), name=name)
        self._threads[name].start()

    def _queue(self, task: Task, arguments: tuple[Any, ...]) -> str:
        return str(self.app.amqp.router.route({}, str(task.name), arguments)["queue"].name)

    def _full_queues(self) -> set[str]:
        """Where ticks come faster than they are taken. More of them would only make each wait until it has
        expired, and where nobody takes any they would stay with the broker."""
        if time.monotonic() >= self._looked_at + LOOK_SECONDS:
            with suppress(Exception):  # whether there is a broker is what publishing finds out
                self._full = {name for name, count in waiting().items() if count >= FULL}
            self._looked_at = time.monotonic()
        return self._full

    def close(self) -> None:
        """Beat was told to end, and so is what runs here."""
        stop()
        super().close()


def _run_here(turn: Lock, task: Task, arguments: tuple[Any, ...]) -> None:
    with turn:
        if stopping():
            return
        try:
            task.run(*arguments)
        except Exception:  # the edge of the thread, as the worker's is the edge of its task
            log.exception("a tick failed", extra={"task": task.name})
        finally:
            close_old_connections()
