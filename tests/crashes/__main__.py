"""`python -m tests.crashes ledger [--rounds N] [--json]`; exit code 3: something was lost or is wrong.

Each round: processes write, the server and all of its processes get SIGKILL at a random moment, it
starts again, and what is found is compared with what the writers were told. A last round takes the
durability of commits away and must find that answered postings are lost: the comparison can fail.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psutil

from commerce.embedded import ensure_postgres, state_dir
from tests.benchmarks import server
from tests.benchmarks.worker import Worker

CASES = {"ledger": "tests.crashes.ledger"}
WRITERS = 3
WRONG = 3
LONGEST = 0.6
SETTINGS = {
    **server.SETTINGS,
    "shared_buffers": "128MB",
    "max_wal_size": "256MB",
    "checkpoint_timeout": "30s",
}
# Commits are answered before they are on disk, and nobody comes to write them there.
FORGETFUL = {"synchronous_commit": "off", "wal_writer_delay": "10s", "wal_writer_flush_after": "2GB"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crashes", description=__doc__)
    parser.add_argument("name", choices=sorted(CASES))
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which the server is killed")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    try:
        with server.running("crashes", SETTINGS) as postgres:
            report = _run(postgres, CASES[arguments.name], arguments.rounds, random.Random(arguments.seed))
    except server.Busy as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(report, indent=2) if arguments.json else _lines(report))
    return 0 if report["sound"] else WRONG


def _run(postgres: server.Server, module: str, rounds: int, dice: random.Random) -> dict[str, Any]:
    began = time.monotonic()
    postgres.create("crashes")
    with Worker(module, settings="commerce.settings", database="crashes") as checker, ExitStack() as stack:
        checker.ask("migrate")
        opened = checker.ask("open_wallets")
        started = [
            stack.enter_context(Worker(module, settings="commerce.settings", database="crashes"))
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
        _kill()
        answers = [future.result() for future in writing]
        folding.result()
    ensure_postgres()
    told = {key: content for answer in answers for key, content in answer["answered"].items()}
    pending = {key: content for answer in answers for key, content in answer["unanswered"].items()}
    return len(told), checker.ask("check", answered={**answered, **told}, unanswered=pending)


def _kill() -> None:
    """The postmaster and all that it started; stopped first, so that it starts nobody meanwhile."""
    lock = state_dir() / "postgres" / "postmaster.pid"
    postmaster = psutil.Process(int(lock.read_text().split()[0]))
    postmaster.suspend()
    for process in [postmaster, *postmaster.children(recursive=True)]:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # a backend that had just ended
            continue


def _lines(report: dict[str, Any]) -> str:
    return "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in report.items())


if __name__ == "__main__":
    sys.exit(main())
