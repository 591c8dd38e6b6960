"""What months cost the relay: the same events in one table, and in 36 months with those to come.

`one table, old guard` has the trigger that compared whole rows as JSON for each event published.
"""

from contextlib import ExitStack
from functools import partial
from typing import Any

from tests.benchmarks.outbox import EVENTS_PER_STREAM, HEARD, facts_of, statements
from tests.benchmarks.report import Row, compared
from tests.benchmarks.run import Run
from tests.benchmarks.worker import Worker

OURS = {"module": "tests.benchmarks.outbox_months.ours", "settings": "tests.benchmarks.outbox.settings"}
PARTITIONED, ONE, OLD_GUARD = "months", "one_table", "one_table_old_guard"
SIDES = (PARTITIONED, ONE, OLD_GUARD)
MONTHS = 36
FULL = {"history": 5_000, "drained": {"bench.many": 9_000, "bench.one": 600}, "times": 50}
QUICK = {"history": 200, "drained": {"bench.many": 300, "bench.one": 30}, "times": 5}

_MONTHS = """
DO $$
BEGIN
  FOR i IN 1 .. %(months)s - 1 LOOP
    EXECUTE format('CREATE TABLE outbox_outboxevent_%%s (LIKE outbox_outboxevent_default INCLUDING ALL)',
                   to_char(now() - make_interval(months => i), 'YYYYMM'));
    PERFORM outbox_attach_partition('outbox_outboxevent'::regclass,
      'outbox_outboxevent_' || to_char(now() - make_interval(months => i), 'YYYYMM'),
      date_trunc('month', now() - make_interval(months => i))::date);
  END LOOP;
END $$
"""
# Half of them of one aggregate, which has events in every month.
_HISTORY = """
INSERT INTO outbox_outboxevent (event_id, aggregate_type, aggregate_id, sequence, type, version, payload,
                                headers, occurred_at, recorded_at, published_at)
SELECT gen_random_uuid(), 'bench', CASE WHEN i %% 100 = 0 THEN 'long' ELSE format('short%%s-%%s', m, i) END,
       CASE WHEN i %% 100 = 0 THEN m * %(history)s + i ELSE 1 END, 'bench.many', 1,
       jsonb_build_object('amount', i, 'currency', 'USD', 'reason', 'a benchmark'),
       jsonb_build_object('request_id', '', 'actor', 'system:benchmark'), at, at, at
  FROM generate_series(0, %(months)s - 1) m, generate_series(1, %(history)s) i,
       LATERAL (SELECT date_trunc('month', now()) - make_interval(months => %(months)s - 1 - m)
                       + i * interval '1 second' AS at) t
"""
_ONE = """
CREATE TABLE one (LIKE outbox_outboxevent_default INCLUDING ALL);
INSERT INTO one SELECT * FROM outbox_outboxevent ORDER BY id;
ALTER SEQUENCE outbox_outboxevent_id_seq OWNED BY one.id;
DROP TABLE outbox_outboxevent;
ALTER TABLE one RENAME TO outbox_outboxevent;
GRANT SELECT, INSERT, UPDATE ON outbox_outboxevent TO PUBLIC;
"""
_TRIGGERS = "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'outbox_outboxevent'::regclass"
_OLD_GUARD = """
DROP TRIGGER guard_updatable_only ON outbox_outboxevent;
DROP TRIGGER guard_kept ON outbox_outboxevent;
CREATE TRIGGER guard_updatable_only BEFORE UPDATE OR DELETE ON outbox_outboxevent
  FOR EACH ROW EXECUTE FUNCTION commerce_updatable_only('published_at');
"""


def run(run: Run) -> list[Row]:
    sizes: dict[str, Any] = QUICK if run.quick else FULL
    run.server.create(PARTITIONED)
    with Worker(**OURS, database=PARTITIONED) as worker:
        worker.ask("migrate")
    facts = {"months": MONTHS, "history": sizes["history"]}
    run.say(f"{MONTHS * sizes['history']:,} events in {MONTHS} months")
    with run.server.connect(PARTITIONED) as connection:
        connection.execute(_MONTHS % facts)
        connection.execute(_HISTORY % facts)
    for side in (ONE, OLD_GUARD):
        run.server.create(side, template=PARTITIONED)
        with run.server.connect(side) as connection:
            triggers = [definition for (definition,) in connection.execute(_TRIGGERS).fetchall()]
            connection.execute(_ONE)
            for definition in (*triggers, *([_OLD_GUARD] if side == OLD_GUARD else [])):
                connection.execute(definition)
    for side in SIDES:
        with run.server.connect(side) as connection:
            connection.execute("VACUUM ANALYZE")
    with ExitStack() as stack:
        workers = {side: stack.enter_context(Worker(**OURS, database=side)) for side in SIDES}
        rows = []
        for heard, events in sizes["drained"].items():
            figures = run.alternate(
                {side: partial(_drain, run, workers[side], side, heard, events) for side in SIDES}
            )
            rows += _rows(f"drain, {HEARD[heard][0]}", "/s", figures)
        figures = run.alternate(
            {side: partial(workers[side].ask, "append_rate", seconds=run.seconds) for side in SIDES}
        )
        rows += _rows("appends, one to a commit", "/s", figures)
        return [*rows, *_statements(run, workers, sizes["times"])]


def _drain(run: Run, worker: Worker, side: str, heard: str, events: int) -> float:
    facts = facts_of(heard, events // EVENTS_PER_STREAM)
    with run.server.connect(side) as connection:
        for statement in statements.LOAD:
            connection.execute(statement, facts if "%(" in statement else None)
    return float(worker.ask("drain", lane=facts["lane"], events=events))


def _statements(run: Run, workers: dict[str, Worker], times: int) -> list[Row]:
    """Milliseconds; each round asks every side the same questions."""
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(run.rounds):
        run.say(f"statements, round {number + 1} of {run.rounds}")
        for side, worker in workers.items():
            for question, figures in worker.ask("statements", times=times).items():
                found.setdefault(question, {}).setdefault(side, []).append(figures["p50"])
    return [row for question, figures in found.items() for row in _rows(question, "ms", figures)]


def _rows(name: str, unit: str, figures: dict[str, list[float]]) -> list[Row]:
    return [
        compared(f"{name}, {side.replace('_', ' ')}", unit, figures[side], "one table", figures[ONE])
        for side in (PARTITIONED, OLD_GUARD)
    ]
