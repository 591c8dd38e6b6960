"""What models declare the database enforces, against raw SQL and in replication mode too.

Each test takes a real table, drops what stands in the way of a nearly empty row (NOT NULL, CHECK and
foreign keys, all rolled back with the test), and leaves the guards as the migrations made them.
"""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.apps import apps
from django.db import DatabaseError, connection, models, transaction
from django_fsm import FSMFieldMixin

from commerce import guards

pytestmark = pytest.mark.django_db

ANY_VALUE = {
    "text": "'x'",
    "character varying": "'x'",
    "uuid": "gen_random_uuid()",
    "bigint": "7",
    "integer": "7",
    "smallint": "7",
    "numeric": "7",
    "boolean": "true",
    "jsonb": """'{"x": 1}'""",
    "timestamp with time zone": "now()",
    "date": "'2027-03-01'",
    "ARRAY": "'{}'",
    "bytea": "'x'",
    "tstzrange": "tstzrange(now(), NULL)",
}
MODELS = apps.get_models()
STATES = [
    (model, field)
    for model in MODELS
    for field in model._meta.concrete_fields
    if isinstance(field, FSMFieldMixin)
]
APPEND_ONLY = [model for model in MODELS if getattr(model, "append_only", False)]
UPDATABLE_ONLY = [model for model in MODELS if getattr(model, "updatable_only", ())]


def named(value: Any) -> str:
    return value._meta.label if isinstance(value, type) else value.name


ANY_KEY = {"uuid": lambda: str(uuid4()), "smallint": lambda: "7"}


@pytest.fixture
def cursor(db: None) -> Iterator[Any]:
    """As a replica applies changes: ordinary triggers and foreign keys do not fire, guards do."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        yield cursor


def bare(cursor: Any, model: type[models.Model]) -> dict[str, str]:
    """Take constraints off the table for this transaction and return its columns with their types."""
    table = model._meta.db_table
    cursor.execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype IN ('c', 'p')", [table]
    )
    for (name,) in cursor.fetchall():
        cursor.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}" CASCADE')
    cursor.execute(
        """SELECT column_name, data_type FROM information_schema.columns
           WHERE table_schema = current_schema() AND table_name = %s AND is_generated = 'NEVER'""",
        [table],
    )
    columns = dict(cursor.fetchall())
    for column in columns.keys() - {field.column for field in model._meta.pk_fields}:
        cursor.execute(f'ALTER TABLE {table} ALTER "{column}" DROP NOT NULL')
    return columns


def insert(cursor: Any, model: type[models.Model], columns: dict[str, str], **values: str) -> str:
    """A row of nothing but a key and `values`; the first part of its key."""
    keys = {
        field.column: ANY_KEY.get(columns[field.column], lambda: str(uuid4().int % 10**9))()
        for field in model._meta.pk_fields
    }
    values = {**keys, **values}
    names, marks = ", ".join(f'"{name}"' for name in values), ", ".join(["%s"] * len(values))
    identity = "OVERRIDING SYSTEM VALUE" if "bigint" in {columns[name] for name in keys} else ""
    cursor.execute(
        f"INSERT INTO {model._meta.db_table} ({names}) {identity} VALUES ({marks})", [*values.values()]
    )
    return next(iter(keys.values()))


def key_of(model: type[models.Model]) -> str:
    return model._meta.pk_fields[0].column


def refused(cursor: Any, sql: str, *arguments: Any) -> str:
    """The SQLSTATE with which the database refuses a statement; "" when it does not."""
    try:
        with transaction.atomic():
            cursor.execute(sql, arguments)
    except DatabaseError as error:
        return getattr(error.__cause__, "sqlstate", "?")
    return ""


def test_the_guards_in_the_database_are_the_ones_declared_and_no_others() -> None:
    assert guards.installed() == guards.expected()
    assert guards.missing() == []
    assert len(STATES) >= 10
    assert len(APPEND_ONLY) >= 8


@pytest.mark.parametrize(("model", "field"), STATES, ids=named)
def test_a_state_moves_only_along_declared_pairs(cursor: Any, model: type[models.Model], field: Any) -> None:
    columns = bare(cursor, model)
    table, column, pk = model._meta.db_table, field.column, key_of(model)
    states = [value for value, _ in field.choices]
    trigger = f"guard_{column}"
    cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")
    rows = {state: insert(cursor, model, columns, **{column: state}) for state in states}
    cursor.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")
    declared = guards.declared_pairs(field, model)
    update = f'UPDATE {table} SET "{column}" = %s WHERE "{pk}" = %s'
    seen = set()
    for before in states:
        for after in (*states, "invented", ""):
            if after == before:
                continue
            point = transaction.savepoint()
            code = refused(cursor, update, after, rows[before])
            transaction.savepoint_rollback(point)
            assert code in ("", "23514"), (before, after)
            if not code:
                seen.add(f"{before}>{after}")
    assert seen == {pair for pair in declared if not pair.startswith(">")}


@pytest.mark.parametrize(("model", "field"), STATES, ids=named)
def test_a_row_begins_in_its_initial_state(cursor: Any, model: type[models.Model], field: Any) -> None:
    columns = bare(cursor, model)
    for state, _ in field.choices:
        try:
            with transaction.atomic():
                insert(cursor, model, columns, **{field.column: state})
            refusal = ""
        except DatabaseError as error:
            refusal = str(error)
        if f">{state}" in guards.declared_pairs(field, model):
            assert refusal == ""
        else:
            assert f'may not go from "" to "{state}"' in refusal


@pytest.mark.parametrize("model", APPEND_ONLY, ids=named)
def test_append_only_rows_stay_as_they_were_written(cursor: Any, model: type[models.Model]) -> None:
    columns = bare(cursor, model)
    key = insert(cursor, model, columns)
    table, pk = model._meta.db_table, key_of(model)
    for column, type_ in columns.items():
        change = f'UPDATE {table} SET "{column}" = {ANY_VALUE[type_]} WHERE "{pk}" = %s'
        assert refused(cursor, change, key) == "23001", column
    assert refused(cursor, f'DELETE FROM {table} WHERE "{pk}" = %s', key) == "23001"
    cursor.execute(f'SELECT count(*) FROM {table} WHERE "{pk}" = %s', [key])
    assert cursor.fetchone() == (1,)


@pytest.mark.parametrize("model", UPDATABLE_ONLY, ids=named)
def test_only_the_columns_that_may_change_change(cursor: Any, model: type[models.Model]) -> None:
    columns = bare(cursor, model)
    table, pk = model._meta.db_table, key_of(model)
    states = {field.column: field.get_default() for owner, field in STATES if owner is model}
    key = insert(cursor, model, columns, **states)
    allowed = set(model.updatable_only)  # type: ignore[attr-defined]
    assert allowed <= columns.keys()
    for column, type_ in columns.items():
        if column in states:
            continue
        change = f'UPDATE {table} SET "{column}" = {ANY_VALUE[type_]} WHERE "{pk}" = %s'
        assert refused(cursor, change, key) == ("" if column in allowed else "23001"), column
    assert refused(cursor, f'DELETE FROM {table} WHERE "{pk}" = %s', key) == "23001"


def test_a_guard_that_is_gone_or_weaker_is_missed(db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER guard_append_only ON ledger_ledgerentry")
        cursor.execute("ALTER TABLE payouts_payout ENABLE TRIGGER guard_status")
        cursor.execute("ALTER TABLE billing_invoice DISABLE TRIGGER guard_status")
    assert guards.missing() == [
        "billing_invoice.guard_status", "ledger_ledgerentry.guard_append_only", "payouts_payout.guard_status",
    ]  # fmt: skip


def test_a_guard_that_allows_another_pair_than_the_code_is_missed(db: None) -> None:
    pairs = guards.declared_pairs(*next((f, m) for m, f in STATES if m._meta.label == "billing.Invoice"))
    arguments = ", ".join(f"'{pair}'" for pair in ["status", *sorted(pairs), "paid>draft"])
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER guard_status ON billing_invoice")
        cursor.execute(
            "CREATE TRIGGER guard_status AFTER INSERT OR UPDATE ON billing_invoice FOR EACH ROW "
            f"EXECUTE FUNCTION commerce_guard_state({arguments})"
        )
        cursor.execute("ALTER TABLE billing_invoice ENABLE ALWAYS TRIGGER guard_status")
    assert guards.missing() == ["billing_invoice.guard_status"]
