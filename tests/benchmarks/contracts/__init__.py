"""Contracts: the fold of a long log, recording on it, rebuilds, and ten thousand terms that end at once."""

from typing import Any

from tests.benchmarks.report import Row, Target
from tests.benchmarks.run import Run
from tests.benchmarks.worker import Worker

OURS = {"module": "tests.benchmarks.contracts.ours", "settings": "commerce.settings", "database": "contracts"}
FULL = {"edits": 300, "times": 200, "contracts": 10_000, "rebuilt": 2_000}
QUICK = {"edits": 20, "times": 5, "contracts": 20, "rebuilt": 20}
FOLD, RECORD = Target(5, of="ours", lower=True), Target(20, of="ours", lower=True)


def run(run: Run) -> list[Row]:
    sizes: dict[str, Any] = QUICK if run.quick else FULL
    run.server.create(OURS["database"])
    with Worker(**OURS) as ours:
        ours.ask("migrate")
        run.say(f"a log of {sizes['edits']} edits")
        ours.ask("prepare", edits=sizes["edits"])
        rows = [
            *_milliseconds("fold at an instant", ours.ask("fold", times=sizes["times"]), FOLD),
            *_milliseconds("timeline of all instants", ours.ask("timeline", times=sizes["times"])),
            *_milliseconds("what a period should bill", ours.ask("bills", times=sizes["times"])),
            *_milliseconds("its edits as a seller sees them", ours.ask("seen", times=sizes["times"])),
            *_milliseconds("record an edit on it", ours.ask("record", times=sizes["times"]), RECORD),
            *_milliseconds("preview an edit of it", ours.ask("preview", times=sizes["times"])),
        ]
        run.say(f"{sizes['contracts']:,} contracts with one end of term")
        ours.ask("multiply", contracts=sizes["contracts"])
        for workers in (1, 2):
            run.say(f"rebuild, {workers} processes")
            rate = ours.ask("rebuild", contracts=sizes["rebuilt"], workers=workers)
            rows.append(Row(f"contracts_rebuild --workers {workers}", "contracts/s", rate))
        run.say("renewals")
        renewed = ours.ask("renew", contracts=sizes["contracts"])
    return [
        *rows,
        Row("contracts renewed that end at one instant", "contracts/s", renewed["rate"]),
        Row("until the last of them is renewed", "s", renewed["seconds"]),
        Row("last tenth beside the first", "ratio", renewed["last_beside_first"]),
    ]


def _milliseconds(name: str, figures: dict[str, float], target: Target | None = None) -> list[Row]:
    return [
        Row(f"{name}, p50", "ms", figures["p50"]),
        Row(f"{name}, p95", "ms", figures["p95"], target=target),
    ]
