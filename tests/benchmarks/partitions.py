"""What the number of partitions of the entries costs: one ledger in one table, and in 4, 36 and 120 parts.

Every variant is a copy of the same database whose entries were written anew into other tables, so
that rows, indexes and statistics differ in nothing else. The sides take turns within a round.
"""

from contextlib import ExitStack
from functools import partial
from typing import Any

from tests.benchmarks.ledger import OURS
from tests.benchmarks.ledger import statements as ledger
from tests.benchmarks.report import Row, compared
from tests.benchmarks.run import Run
from tests.benchmarks.worker import Worker

CLIENTS = 4
PARTS = (0, 4, 36, 120)
FULL = {"accounts": 10_000, "history": 500_000, "times": 100}
QUICK = {"accounts": 200, "history": 2_000, "times": 5}

# The function of the seals and the guards are bound to the table that goes; they come back as they were.
REBUILD = """
DO $$
DECLARE
  parts constant int := %(parts)s;
  digests constant text := pg_get_functiondef('ledger_digests'::regproc);
  guards constant text[] := ARRAY(SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t
                                   WHERE t.tgrelid = 'ledger_ledgerentry'::regclass AND NOT t.tgisinternal);
  first constant timestamptz := now() - interval '3 years 4 months';
  step constant interval := (now() + interval '1 day' - first) / greatest(parts, 1);
  guard text;
BEGIN
  ALTER TABLE ledger_ledgerentry RENAME TO before;
  IF parts = 0 THEN
    CREATE TABLE ledger_ledgerentry (LIKE before INCLUDING ALL);
  ELSE
    CREATE TABLE ledger_ledgerentry (LIKE before INCLUDING ALL) PARTITION BY RANGE (recorded_at);
  END IF;
  FOR i IN 1 .. parts LOOP
    EXECUTE format('CREATE TABLE part_%%s PARTITION OF ledger_ledgerentry FOR VALUES FROM (%%L) TO (%%L)', i,
                   CASE WHEN i = 1 THEN '-infinity' ELSE (first + (i - 1) * step)::text END,
                   CASE WHEN i = parts THEN 'infinity' ELSE (first + i * step)::text END);
  END LOOP;
  INSERT INTO ledger_ledgerentry SELECT * FROM before ORDER BY recorded_at;
  DROP TABLE before CASCADE;
  EXECUTE digests;
  FOREACH guard IN ARRAY guards LOOP
    EXECUTE guard;
  END LOOP;
  GRANT SELECT ON ledger_ledgerentry TO PUBLIC;
END $$
"""


def run(run: Run) -> list[Row]:
    sizes: dict[str, Any] = QUICK if run.quick else FULL
    run.server.create("base")
    ids, pair = _fill(run, sizes)
    for parts in PARTS:
        run.say(f"entries in {parts or 'no'} partitions")
        run.server.create(_name(parts), template="base")
        with run.server.connect(_name(parts)) as connection:
            connection.execute(REBUILD % {"parts": parts})
            connection.execute("VACUUM ANALYZE")
    options = ["-n", "-M", "prepared", "-c", CLIENTS, "-j", 2, "-T", max(int(run.seconds), 1)]
    options += ["-D", f"accounts={sizes['accounts']}", "-D", f"first={ids['first']}"]
    singles = run.alternate(
        {
            _name(parts): partial(run.server.pgbench, _name(parts), *options, script=ledger.RANDOM)
            for parts in PARTS
        }
    )
    return [*_rows(f"transfers, {CLIENTS} clients", "/s", singles), *_reads(run, sizes, pair)]


def _name(parts: int) -> str:
    return f"parts{parts}" if parts else "unpartitioned"


def _fill(run: Run, sizes: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """Wallets to post between, and one long history of a wallet and a striped account, sealed."""
    with Worker(**OURS, database="base") as ours:
        ours.ask("migrate")
        ids = ours.ask("open_wallets", count=sizes["accounts"])
        (pair,) = ours.ask("open_histories", count=1)
    with run.server.connect("base") as connection:
        pair["entries"] = sizes["history"]
        run.say(f"loading {2 * sizes['history']:,} entries")
        for statement in ledger.HISTORY:
            connection.execute(statement, pair)
        connection.execute("ANALYZE")
        run.say("sealing them")
        while (connection.execute(ledger.KEEP).fetchone() or [0])[0]:
            pass
    return ids, pair


def _reads(run: Run, sizes: dict[str, Any], pair: dict[str, int]) -> list[Row]:
    """Milliseconds; each round asks every variant the same questions."""
    found: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        workers = {parts: stack.enter_context(Worker(**OURS, database=_name(parts))) for parts in PARTS}
        for number in range(run.rounds):
            run.say(f"reads, round {number + 1} of {run.rounds}")
            for title, account in (("wallet", pair["account"]), ("striped account", pair["other"])):
                for parts, ours in workers.items():
                    answers = ours.ask(
                        "reads", account=account, entries=pair["entries"], times=sizes["times"]
                    )
                    for question, figures in answers.items():
                        of = found.setdefault(f"{question}, {title}", {})
                        of.setdefault(_name(parts), []).append(figures["p50"])
        batches: dict[str, list[float]] = {}
        for _ in range(0 if run.quick else run.rounds):
            for parts, ours in workers.items():
                ours.ask("use_wallets")
                batches.setdefault(_name(parts), []).append(ours.ask("in_batches", seconds=run.seconds))
    rows = [row for question, figures in found.items() for row in _rows(question, "ms", figures)]
    return [*(_rows("postings, 1,000 per commit", "/s", batches) if batches else []), *rows]


def _rows(name: str, unit: str, figures: dict[str, list[float]]) -> list[Row]:
    one = figures[_name(0)]
    return [
        compared(f"{name}, {parts} partitions", unit, figures[_name(parts)], "unpartitioned", one)
        for parts in PARTS[1:]
    ]
