"""Invariants that live in the database: append-only tables and state changes nobody declared.

Migrations call these helpers, so that the rules are frozen with the schema; models say what they
expect (`append_only = True`, `updatable_only = (...)`, an FSM field, `own_guards` by name), and
`missing()` compares the two for `/readyz` and the tests. Triggers are ENABLE ALWAYS, which
replication mode cannot bypass.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db import connection, models
from django.db.migrations import RunSQL
from django_fsm import FSMFieldMixin

FUNCTIONS = """
CREATE OR REPLACE FUNCTION commerce_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'rows of % are never changed or removed', TG_TABLE_NAME USING ERRCODE = '23001';
END $$;
CREATE OR REPLACE FUNCTION commerce_updatable_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' OR to_jsonb(OLD) - TG_ARGV <> to_jsonb(NEW) - TG_ARGV THEN
    RAISE EXCEPTION 'of % only these columns may change: %', TG_TABLE_NAME, array_to_string(TG_ARGV, ', ')
      USING ERRCODE = '23001';
  END IF;
  RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION commerce_guard_state() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  after text := to_jsonb(NEW) ->> TG_ARGV[0];
  before text := CASE WHEN TG_OP = 'UPDATE' THEN to_jsonb(OLD) ->> TG_ARGV[0] ELSE '' END;
BEGIN
  IF after IS DISTINCT FROM before AND NOT (before || '>' || after) = ANY (TG_ARGV[1:]) THEN
    RAISE EXCEPTION '% may not go from "%" to "%"', TG_TABLE_NAME, before, after USING ERRCODE = '23514';
  END IF;
  RETURN NEW;
END $$;
"""
DROP_FUNCTIONS = "DROP FUNCTION commerce_append_only, commerce_updatable_only, commerce_guard_state"


def functions() -> RunSQL:
    """The trigger functions; the first kernel migration installs them."""
    return RunSQL(FUNCTIONS, DROP_FUNCTIONS)


def append_only(table: str) -> RunSQL:
    """Refuse UPDATE and DELETE on `table`."""
    return _trigger(table, "guard_append_only", "UPDATE OR DELETE", "commerce_append_only()")


def updatable_only(table: str, columns: Sequence[str]) -> RunSQL:
    """Refuse DELETE, and UPDATE of anything but `columns`."""
    arguments = ", ".join(f"'{column}'" for column in columns)
    return _trigger(
        table, "guard_updatable_only", "UPDATE OR DELETE", f"commerce_updatable_only({arguments})"
    )


def state_guard(
    table: str, column: str, *, initial: Iterable[str], pairs: Iterable[tuple[str, str]]
) -> RunSQL:
    """Allow `column` to start in `initial` and to move along `pairs` only."""
    allowed = sorted({f">{state}" for state in initial} | {f"{a}>{b}" for a, b in pairs})
    arguments = ", ".join(f"'{value}'" for value in [column, *allowed])
    return _trigger(
        table, f"guard_{column}", "INSERT OR UPDATE", f"commerce_guard_state({arguments})", row="AFTER"
    )


def _trigger(table: str, name: str, events: str, call: str, row: str = "BEFORE") -> RunSQL:
    return RunSQL(
        f"DROP TRIGGER IF EXISTS {name} ON {table};"
        f"CREATE TRIGGER {name} {row} {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {call};"
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}",
        f"DROP TRIGGER IF EXISTS {name} ON {table}",
    )


@dataclass(frozen=True)
class Guard:
    """One trigger on a table; `allows` are its arguments: a state's column and pairs, or columns."""

    table: str
    name: str
    allows: frozenset[str] = frozenset()


def declared_pairs(field: Any, model: type[models.Model]) -> frozenset[str]:
    """Every "from>to" that the transitions of an FSM field allow, with ">initial"."""
    states = [value for value, _ in field.choices or []]
    pairs = {f">{field.get_default()}"}
    for transition in field.get_all_transitions(model):
        sources = states if transition.source in ("*", "+") else [transition.source]
        for source in sources:
            if source != transition.target:
                pairs.add(f"{source}>{transition.target}")
    return frozenset(pairs)


def expected() -> set[Guard]:
    """The guards that our models ask for."""
    guards: set[Guard] = set()
    for model in apps.get_models():
        table = model._meta.db_table
        if getattr(model, "append_only", False):
            guards.add(Guard(table, "guard_append_only"))
        if columns := getattr(model, "updatable_only", ()):
            guards.add(Guard(table, "guard_updatable_only", frozenset(columns)))
        guards |= {Guard(table, name) for name in getattr(model, "own_guards", ())}
        for field in model._meta.concrete_fields:
            if isinstance(field, FSMFieldMixin):
                allows = declared_pairs(field, model) | {field.column}
                guards.add(Guard(table, f"guard_{field.column}", allows))
    return guards


def installed() -> set[Guard]:
    """The guards that the database has, enabled ALWAYS; for those of partitions see `missing`."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT c.relname, t.tgname, encode(t.tgargs, 'escape') FROM pg_trigger t
               JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE t.tgname LIKE 'guard\\_%%' AND t.tgenabled = 'A' AND NOT c.relispartition
                 AND n.nspname = current_schema()"""
        )
        return {
            Guard(table, name, frozenset(raw.split("\\000")[:-1])) for table, name, raw in cursor.fetchall()
        }


def missing() -> list[str]:
    """Names of the guards that are declared in code and not found, as declared, in the database, or that
    a table has and one of its partitions has not."""
    found = {f"{guard.table}.{guard.name}" for guard in expected() - installed()}
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT c.relname || '.' || t.tgname FROM pg_trigger t
               JOIN pg_inherits i ON i.inhparent = t.tgrelid JOIN pg_class c ON c.oid = i.inhrelid
               WHERE t.tgname LIKE 'guard\\_%' AND t.tgtype & 1 = 1 AND NOT EXISTS (
                 SELECT FROM pg_trigger p
                 WHERE p.tgrelid = c.oid AND p.tgname = t.tgname AND p.tgenabled = 'A')
                 AND c.relnamespace = current_schema()::regnamespace"""
        )
        return sorted(found | {name for (name,) in cursor.fetchall()})
