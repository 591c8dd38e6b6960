"""What making a large table of entries into partitions costs those who post meanwhile.

Four writers post one transfer per commit, before and while `manage.py ledger_partition` works on a
ledger of two million entries; each posting's time is kept.
"""

import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from commerce.embedded import REPOSITORY
from tests.benchmarks.ledger import OURS
from tests.benchmarks.ledger import statements as ledger
from tests.benchmarks.report import Row
from tests.benchmarks.run import Run
from tests.benchmarks.worker import Worker

WRITERS = 4
DATABASE = "partitioning"
TRANSFER = """
SELECT ledger_transfer('bench-' || gen_random_uuid(), %(first)s + %(payer)s, %(first)s + %(payee)s, 100)
"""


def run(run: Run) -> list[Row]:
    accounts, history = (50, 1_000) if run.quick else (1_000, 1_050_000)
    run.server.create(DATABASE)
    with Worker(**OURS, database=DATABASE) as ours:
        ours.ask("migrate")
        ids = ours.ask("open_wallets", count=accounts)
        (pair,) = ours.ask("open_histories", count=1)
    with run.server.connect(DATABASE) as connection:
        run.say(f"loading {2 * history:,} entries")
        for statement in ledger.HISTORY:
            connection.execute(statement, {**pair, "entries": history})
        connection.execute("VACUUM ANALYZE ledger_ledgerentry")
        entries = (connection.execute(ledger.ENTRIES).fetchone() or [0])[0]
    posted: list[tuple[float, float]] = []
    stop = threading.Event()
    threads = [
        threading.Thread(target=_write, args=(run, ids["first"], accounts, number, posted, stop))
        for number in range(WRITERS)
    ]
    for thread in threads:
        thread.start()
    time.sleep(run.seconds)
    run.say(f"partitioning {entries:,} entries")
    began = time.monotonic()
    answer = _partition()
    ended = time.monotonic()
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    before = [took for at, took in posted if at + took < began]
    meanwhile = [took for at, took in posted if at + took >= began and at < ended]
    details = {"entries": entries, "answer": answer}
    return [
        Row("the command, its start and the reading included", "s", ended - began, details=details),
        Row("the transaction in which the tables change", "ms", float(answer["postings_waited_ms"])),
        Row(
            "transfers meanwhile", "/s", len(meanwhile) / (ended - began), "before", len(before) / run.seconds
        ),
        Row("slowest transfer meanwhile", "ms", 1000 * max(meanwhile), "before", 1000 * max(before)),
    ]


def _write(
    run: Run, first: int, accounts: int, number: int, posted: list[tuple[float, float]], stop: threading.Event
) -> None:
    turn = number
    with run.server.connect(DATABASE) as connection:
        while not stop.is_set():
            turn += WRITERS
            names = {"first": first, "payer": turn % accounts, "payee": (turn + 1 + turn % 7) % accounts}
            began = time.monotonic()
            connection.execute(TRANSFER, names)
            posted.append((began, time.monotonic() - began))


def _partition() -> dict[str, Any]:
    ends = (datetime.now(UTC).replace(day=28) + timedelta(days=4)).strftime("%Y-%m")
    command = [sys.executable, "manage.py", "ledger_partition", "--json", f"--ends={ends}"]
    environment = os.environ | {"DATABASE_NAME": DATABASE}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, text=True, capture_output=True, check=True
    )
    return dict(json.loads(done.stdout))
