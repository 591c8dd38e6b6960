"""One load under everything that may die: workers, the database's server, the broker.

Two writers append while workers drain. After each part the writers stop, the workers finish what
there is, and every effect is counted. The controls are in the same load and must be found wrong.
"""

import os
import random
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import django

from commerce.processes import Stack
from tests.benchmarks import server

DATABASE = "crashes"
RETURN_SECONDS = 5.0
QUICK = {
    "DJANGO_SETTINGS_MODULE": "tests.crashes.outbox.settings",
    "CLOCK_FILE": "",
    "TICK_SECONDS": "0.5",
    "POLL_SECONDS": "60",
    "OUTBOX_LEASE_SECONDS": "5",
    "PROVIDER_TIMEOUT_SECONDS": "5",
    "LOG_LEVEL": "ERROR",
}


def run(
    postgres: server.Server, *, kills: int, restarts: int, wipes: int, dice: random.Random
) -> dict[str, Any]:
    began = time.monotonic()
    postgres.create(DATABASE)
    with tempfile.TemporaryDirectory(prefix="crashes-") as folder:
        stack = Stack(Path(folder), database=DATABASE, environment=QUICK)
        os.environ.update(stack.environment)
        django.setup()
        from tests.crashes.outbox import judge
        from tests.crashes.outbox.field import Field

        parts: dict[str, Any] = {}
        with Field(stack, dice) as field:
            for name, times, kill in (
                ("workers", kills, field.kill_workers),
                ("postgres", restarts, field.restart_postgres),
                ("redis", wipes, field.wipe_redis),
            ):
                if times:
                    print(f"{name}, {times} times", file=sys.stderr, flush=True)
                    parts[name] = kill(times)
            report = {
                **parts,
                "served": field.faults_served(),
                "deliveries_to_the_bank": judge.deliveries(),
                "failures": judge.failures(),
                "circuits": judge.circuits(),
                "left": judge.unsettled(),
                "answered_and_forgotten": judge.forgotten(field.answers),
                "parked": judge.parked(),
                "groups": {name: asdict(found) for name, found in field.judge().items()},
                "findings": judge.findings(),
                "seconds": round(time.monotonic() - began),
            }
    faults = _faults(report)
    return {"sound": not faults, "faults": faults, **report}


def _faults(report: dict[str, Any]) -> list[str]:
    """What is wrong with the relay, or with the run: a run in which nothing struck has shown nothing."""
    from tests.crashes.outbox.judge import CONTROLS, SOUND, WRONGS

    groups, faults = report["groups"], []
    for group in SOUND:
        faults += [f"{group}: {len(groups[group][how])} {how}" for how in WRONGS if groups[group][how]]
    faults += [f"{group}: no effects" for group in (*SOUND, *CONTROLS) if not groups[group]["effects"]]
    faults += [f"{len(report[how])} {how}" for how in ("answered_and_forgotten", "parked") if report[how]]
    faults += [f"{number} {what}" for what, number in report["left"].items() if number]
    faults += [f"finding {finding}" for finding in report["findings"]]
    faults += [f"the fault {kind} was never served" for kind, hits in report["served"].items() if not hits]
    if workers := report.get("workers"):
        aimed_at = workers["besides_aimed_at"]
        faults += [f"nothing was killed in {what}" for what in aimed_at if not workers["killed_in"][what]]
        if not groups["crashes.fresh_key"]["doubled"]:
            faults.append("the control with fresh keys doubled nothing")
        if not groups["crashes.cursor_first"]["lost"]:
            faults.append("the control with the cursor first lost nothing")
        if not report["deliveries_to_the_bank"]["found"]:
            faults.append("no look found an order")
    if (postgres := report.get("postgres")) and postgres["slowest_return_seconds"] > RETURN_SECONDS:
        faults.append(f"effects came back after {postgres['slowest_return_seconds']} s")
    for part in ("postgres", "redis"):
        if (told := report.get(part)) and told["processes_back"] != told["processes"]:
            faults.append(f"{part}: not every process came back")
    if (redis := report.get("redis")) and not redis["fewest_effects_without"]:
        faults.append("without Redis nothing went on")
    return faults
