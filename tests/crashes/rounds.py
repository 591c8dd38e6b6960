"""Rounds of writing to the ledger, each ended by the death of the server.

What is found afterwards is compared with what the writers were told. A last round takes the
durability of commits away and must find that answered postings are lost: the comparison can fail.
"""

import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from commerce.embedded import ensure_postgres
from tests.benchmarks import server
from tests.benchmarks.worker import Worker
from tests.crashes.servers import kill_postgres

MODULE = "tests.crashes.ledger"
WRITERS = 3
LONGEST = 0.6
# Commits are answered before they are on disk, and nobody comes to write them there.
FORGETFUL = {"synchronous_commit": "off", "wal_writer_delay": "10s", "wal_writer_flush_after": "2GB"}


def run(postgres: server.Server, rounds: int, dice: random.Random) -> dict[str, Any]:
    began = time.monotonic()
    postgres.create("crashes")
    with Worker(MODULE, settings="commerce.settings", database="crashes") as checker, ExitStack() as stack:
        checker.ask("migrate")
        opened = checker.ask("open_wallets")
        started = [
            stack.enter_context(Worker(MODULE, settings="commerce.settings", database="crashes"))
            for _ in range(WRITERS + 1)
        ]
        for worker in started:
            worker.ask("meet")
        total = {"answered": len(opened), "unanswered": 0, "unanswered_but_written": 0}
        wrong: dict[str, list[str]] = {"lost": [], "differ": [], "invented": [], "findings": []}
        first = opened
        for turn in range(rounds):
            answered, found = _round(started, checker, turn, dice, first)
            first = {}
            total["answered"] += answered
            for name in ("unanswered", "unanswered_but_written"):
                total[name] += found[name]
            for name, list_ in wrong.items():
                list_ += [f"round {turn}: {what}" for what in found[name]]
            print(f"round {turn + 1} of {rounds}: {answered} answered", file=sys.stderr, flush=True)
        with postgres.connect() as connection:
            for name, value in FORGETFUL.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            connection.execute("SELECT pg_reload_conf()")
        _, control = _round(started, checker, rounds, dice, {})
    sound = not any(wrong.values()) and bool(control["lost"]) and total["answered"] > len(opened)
    return {
        "sound": sound,
        "rounds": rounds,
        **total,
        **wrong,
        "lost_without_durable_commits": len(control["lost"]),
        "seconds": round(time.monotonic() - began),
    }


def _round(
    workers: list[Worker], checker: Worker, turn: int, dice: random.Random, answered: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    """How many postings were answered, and what the checker found after the crash."""
    *writers, keeper = workers
    with ThreadPoolExecutor(len(workers)) as pool:
        writing = [
            pool.submit(worker.ask, "write", writer=number, turn=turn)
            for number, worker in enumerate(writers)
        ]
        folding = pool.submit(keeper.ask, "fold")
        time.sleep(dice.uniform(0.05, LONGEST))
        kill_postgres()
        answers = [future.result() for future in writing]
        folding.result()
    ensure_postgres()
    told = {key: content for answer in answers for key, content in answer["answered"].items()}
    pending = {key: content for answer in answers for key, content in answer["unanswered"].items()}
    return len(told), checker.ask("check", answered={**answered, **told}, unanswered=pending)
