"""`python -m tests.benchmarks <name> [--json] [--quick] [--seconds N]`; exit code 3: a target is missed."""

import argparse
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path

from tests.benchmarks import report, server
from tests.benchmarks.run import Run

BENCHMARKS = {
    "contracts": "tests.benchmarks.contracts",
    "ledger": "tests.benchmarks.ledger",
    "partitions": "tests.benchmarks.partitions",
    "outbox": "tests.benchmarks.outbox",
    "partitioning": "tests.benchmarks.partitioning",
    "outbox_months": "tests.benchmarks.outbox_months",
}
MISSED = 3


def main() -> int:
    arguments = _arguments()
    began = time.monotonic()
    try:
        with server.running() as postgres:
            run = Run(
                postgres,
                seconds=arguments.seconds,
                rounds=arguments.rounds,
                quick=arguments.quick,
                backlog=arguments.backlog,
            )
            facts = {"machine": _machine(), "postgresql": postgres.facts(), "run": run.facts()}
            rows = importlib.import_module(BENCHMARKS[arguments.name]).run(run)
    except server.Busy as error:
        print(error, file=sys.stderr)
        return 1
    facts["run"]["took_seconds"] = round(time.monotonic() - began)
    if arguments.json:
        document = {"benchmark": arguments.name, **facts, "rows": [row.as_dict() for row in rows]}
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        for name, values in facts.items():
            print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
        print(report.table(rows))
    return MISSED if not arguments.quick and any(row.met is False for row in rows) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--quick", action="store_true", help="does it run? Tiny sizes, no verdict")
    parser.add_argument("--seconds", type=float, help="length of one measurement")
    parser.add_argument("--rounds", type=int, help="measurements of which the median counts")
    parser.add_argument("--backlog", type=int, default=0, help="outbox: events to drain at once")
    arguments = parser.parse_args()
    arguments.seconds = arguments.seconds or (1 if arguments.quick else 10)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    return arguments


def _machine() -> dict[str, object]:
    """Facts that a figure means nothing without; the load is of others, before we began."""
    models = [
        line.partition(":")[2].strip()
        for line in _text("/proc/cpuinfo").splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": platform.platform(),
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _text(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


if __name__ == "__main__":
    sys.exit(main())
