"""What a benchmark is given: the server, how long to measure, and a voice on stderr."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.benchmarks.server import Server


class Run:
    def __init__(self, server: Server, *, seconds: float, rounds: int, quick: bool, backlog: int = 0) -> None:
        self.server, self.seconds, self.rounds, self.quick = server, seconds, rounds, quick
        self.backlog = backlog
        self.began = time.monotonic()

    def facts(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "rounds": self.rounds, "quick": self.quick}

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.1f} s  {text}", file=sys.stderr, flush=True)

    def alternate(self, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
        """Every measure once per round, so that a slow minute of the machine strikes all of them.

        Round 0 warms caches and writes the pages in full that a checkpoint asks for; it does not count.
        """
        figures: dict[str, list[float]] = {name: [] for name in measures}
        for number in range(1 if self.quick else 0, self.rounds + 1):
            for name, measure in measures.items():
                figure = measure()
                self.say(f"round {number} of {self.rounds}: {name} {figure:,.0f}/s")
                if number:
                    figures[name].append(figure)
        return figures
