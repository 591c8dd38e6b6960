"""What the application may do in the database is what the models declare; it asks the database itself."""

import os
import subprocess
import sys
from collections.abc import Iterator
from threading import Thread
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest
from django.apps import apps
from django.conf import settings as project
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, models, transaction
from django.test import Client

from commerce import roles
from commerce.actor import Actor
from commerce.embedded import REPOSITORY
from commerce.health import declarations_are_enforced
from commerce.money import Money
from commerce.parties.models import Organization
from commerce.tasks import heartbeat
from ledger.models import LedgerEntry
from ledger.rules import recipes
from ledger.services import balance, post
from tests.ledger.conftest import AT

REFUSED = "42501"
MODELS = [model for model in apps.get_models(include_auto_created=True) if not model._meta.proxy]
STATEMENTS = {
    "SELECT": "SELECT FROM {} LIMIT 1",
    "INSERT": "INSERT INTO {} DEFAULT VALUES",
    "UPDATE": "UPDATE {} SET {key} = {key} WHERE false",
    "DELETE": "DELETE FROM {} WHERE false",
    "TRUNCATE": "TRUNCATE {} CASCADE",
}


@pytest.fixture
def application(db: None) -> Iterator[psycopg.Connection]:
    """The application's own login on the test database."""
    server = project.DATABASES["default"]
    names = {"host": server["HOST"], "port": server["PORT"], "dbname": server["NAME"]}
    with psycopg.connect(user=server["USER"], password=server["PASSWORD"] or None, **names) as login:
        yield login


@pytest.fixture
def as_application(transactional_db: None) -> Iterator[None]:
    """Django's connection is the application's, as in every process of ours."""
    owner = connection.settings_dict
    connection.close()
    connection.settings_dict = project.DATABASES["default"]
    yield
    connection.close()
    connection.settings_dict = owner


def refusal(login: psycopg.Connection, statement: str) -> str:
    """The SQLSTATE that ends a statement, of which nothing stays; "" when it is obeyed."""
    try:
        login.execute(statement)
    except psycopg.Error as error:
        return error.sqlstate or "?"
    finally:
        login.rollback()
    return ""


def execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def differences() -> list[str]:
    return [str(difference) for difference in roles.differences()]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label)
def test_a_table_allows_what_its_model_declares_and_refuses_the_rest(
    application: psycopg.Connection, model: type[models.Model]
) -> None:
    key = f'"{model._meta.pk_fields[0].column}"'
    refused = {
        verb
        for verb, statement in STATEMENTS.items()
        if refusal(application, statement.format(f'"{model._meta.db_table}"', key=key)) == REFUSED
    }
    allowed = STATEMENTS.keys() - refused
    assert allowed == roles.declared()[model._meta.db_table]
    assert {"TRUNCATE"} <= refused
    if getattr(model, "append_only", False):
        assert {"UPDATE", "DELETE"} <= refused
    if getattr(model, "updatable_only", ()):
        assert {"DELETE"} <= refused


@pytest.mark.parametrize(
    "table",
    ["account", "balance", "transaction", "entry", "hold", "day", "periodbalance", "seal"],
    ids=lambda name: f"ledger{name}",
)
def test_the_ledger_is_written_by_its_functions_alone(application: psycopg.Connection, table: str) -> None:
    key = (
        "number" if table == "seal" else "id" if table in ("account", "transaction", "hold") else "account_id"
    )
    refused = {
        verb: refusal(application, statement.format(f"ledger_ledger{table}", key=key))
        for verb, statement in STATEMENTS.items()
    }
    assert refused.pop("SELECT") == ""
    assert set(refused.values()) == {REFUSED}


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE ledger_ledgerentry DISABLE TRIGGER guard_append_only",
        "ALTER TABLE ledger_ledgerentry DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
        "DROP TRIGGER guard_append_only ON ledger_ledgerentry",
        "DROP TABLE ledger_ledgerentry",
        "DROP FUNCTION ledger_post",
        "DROP SCHEMA public CASCADE",
        "ALTER TABLE ledger_ledgerentry ADD note text",
        "CREATE TABLE mine (n int)",
        "CREATE TEMPORARY TABLE ledger_ledgeraccount (id bigint)",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION commerce_append_only() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE TRIGGER mine BEFORE INSERT ON payouts_payout EXECUTE FUNCTION commerce_append_only()",
        "CREATE INDEX ON ledger_ledgerentry (amount)",
        "CREATE SCHEMA mine",
        "SELECT setval('contracts_number', 1)",
        "DELETE FROM django_migrations",
        "ALTER ROLE commerce_app SUPERUSER",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ],
)
def test_the_application_has_no_ddl_and_no_way_around_a_guard(
    application: psycopg.Connection, statement: str
) -> None:
    assert refusal(application, statement) == REFUSED


def test_the_application_cannot_become_the_owner(application: psycopg.Connection) -> None:
    owner = project.DATABASE_OWNER["USER"]
    for statement in (f"SET ROLE {owner}", f"SET SESSION AUTHORIZATION {owner}"):
        assert refusal(application, statement) == REFUSED
    application.execute("RESET ROLE")
    assert application.execute("SELECT session_user, current_user").fetchone() == (
        "commerce_app",
        "commerce_app",
    )
    application.execute(
        "GRANT UPDATE ON ledger_ledgerentry TO commerce_app"
    )  # a warning, and nothing is granted
    assert differences() == []


def test_the_service_posts_as_the_application(as_application: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT session_user, current_user")
        assert cursor.fetchone() == ("commerce_app", "commerce_app")
    platform = Organization.objects.platform()
    buyer = Organization.objects.create(name="Acme", slug="acme", roles=["buyer"])
    entries = recipes.fund_wallet(platform=platform.pk, buyer=buyer.pk, amount=Money(500, "USD"))
    post(entries=entries, key="k", source="s", recipe="fund_wallet", at=AT, actor=Actor.system("test"))
    assert balance(owner=buyer.pk, kind="AVAILABLE", currency="USD") == 500
    assert LedgerEntry.objects.count() == 2


def test_other_threads_of_a_test_are_the_application(transactional_db: None) -> None:
    seen = []

    def look() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_user")
            seen.append(cursor.fetchone()[0])
        connection.close()

    thread = Thread(target=look)
    thread.start()
    thread.join()
    assert seen == ["commerce_app"]


def test_inside_owner_we_are_the_owner_and_afterwards_what_we_were(as_application: None) -> None:
    def who() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SELECT session_user")
            return str(cursor.fetchone()[0])

    with pytest.raises(ZeroDivisionError), roles.owner():
        assert who() == project.DATABASE_OWNER["USER"]
        raise ZeroDivisionError
    assert who() == "commerce_app"


# Drift


def test_the_rights_in_the_database_are_the_declared_ones(db: None) -> None:
    assert roles.owns("commerce_app") is False
    assert differences() == []
    assert roles.functions_with_an_open_path() == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("GRANT DELETE ON ledger_ledgerentry TO commerce_app", "app has DELETE on TABLE ledger_ledgerentry"),
        ("GRANT UPDATE (amount) ON ledger_ledgerentry TO commerce_app", "app has UPDATE on TABLE ledger_"),
        ("GRANT TRUNCATE ON payouts_payout TO PUBLIC", "has TRUNCATE on TABLE payouts_payout"),
        ("REVOKE UPDATE ON payouts_payout FROM commerce_app", "app lacks UPDATE on TABLE payouts_payout"),
        ("GRANT UPDATE ON SEQUENCE contracts_number TO commerce_app", "has UPDATE on SEQUENCE contracts_"),
        ("GRANT CREATE ON SCHEMA public TO PUBLIC", "has CREATE on SCHEMA public"),
        ("CREATE TABLE ledger_entry_2027_03 (n int); GRANT ALL ON ledger_entry_2027_03 TO commerce_app",
         "has UPDATE on TABLE ledger_entry_2027_03"),
    ],
)  # fmt: skip
def test_a_right_that_was_changed_by_hand_is_named_and_put_right(db: None, change: str, named: str) -> None:
    heartbeat()
    execute(change)
    assert any(named in difference for difference in differences())
    answer = Client().get("/readyz")
    assert answer.status_code == 503
    assert named in answer.json()["checks"]["rights"]
    assert any(named in finding.detail for finding in declarations_are_enforced())
    roles.grant()
    assert differences() == []
    assert Client().get("/readyz").status_code == 200


def test_a_function_of_the_owner_is_for_the_application_and_not_for_everybody(db: None) -> None:
    execute(
        "CREATE FUNCTION give() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp"
        " AS 'SELECT 1'"
    )
    assert differences() == ["public has EXECUTE on ROUTINE give()"]
    roles.grant()
    with connection.cursor() as cursor:
        cursor.execute("SELECT has_function_privilege(r, 'give()', 'EXECUTE') FROM unnest(%s::text[]) r",
                       [["commerce_app", "public"]])  # fmt: skip
        assert cursor.fetchall() == [(True,), (False,)]
    assert list(declarations_are_enforced()) == []


def test_a_function_of_the_owner_without_a_fixed_path_is_a_finding(db: None) -> None:
    execute("CREATE FUNCTION trap() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'")
    roles.grant()
    (finding,) = declarations_are_enforced()
    assert finding.subject == "function:trap()"


def test_a_dropped_guard_is_a_finding_too(db: None) -> None:
    execute("DROP TRIGGER guard_append_only ON contracts_contractedit")
    (finding,) = declarations_are_enforced()
    assert finding.subject == "guard:contracts_contractedit.guard_append_only"


# One role for everything, and none


def test_an_application_that_owns_the_tables_works(
    db: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(project.DATABASES["default"], "USER", project.DATABASE_OWNER["USER"])
    settings.DATABASE_OWNER = {}
    heartbeat()
    roles.grant()
    assert roles.owns(roles.application()) is True
    assert differences() == []
    assert Client().get("/readyz").status_code == 200


def test_a_member_of_the_owner_is_as_good_as_the_owner(db: None) -> None:
    execute("GRANT pg_read_all_data TO commerce_app")
    assert roles.owns("commerce_app") is False
    execute(f"GRANT {project.DATABASE_OWNER['USER']} TO commerce_app")
    assert roles.owns("commerce_app") is True


def test_an_owner_who_may_not_create_roles_is_told_what_to_ask_for(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(project.DATABASES["default"], "USER", "somebody_new")
    execute("SET LOCAL ROLE commerce_app")
    with (
        pytest.raises(ImproperlyConfigured, match="CREATE ROLE somebody_new LOGIN PASSWORD"),
        transaction.atomic(),
    ):
        roles.grant()
    assert roles.owns("somebody_new") is None


@pytest.fixture
def empty_database(django_db_setup: None, django_db_blocker: Any) -> Iterator[str]:
    """A database of its own, and a name for a role."""
    name = f"roles_{uuid4().hex[:8]}"
    with django_db_blocker.unblock(), connection._nodb_cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
        cursor.execute(f"CREATE DATABASE {name}")
        yield name
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
        cursor.execute(f"DROP ROLE IF EXISTS {name}")


def test_migrate_makes_the_role_with_its_password_and_needs_it_no_more(empty_database: str) -> None:
    server = project.DATABASE_OWNER

    def address(user: str, password: str) -> str:
        place = f"host={quote(server['HOST'], safe='')}&port={server['PORT'] or 5432}"
        return f"postgres://{user}:{password}@/{empty_database}?{place}"

    def manage(*arguments: str, **variables: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "DATABASE_NAME": "", **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    both = {
        "DATABASE_URL": address(empty_database, "s%2Fcret"),
        "DATABASE_OWNER_URL": address(server["USER"], server["PASSWORD"] or "x"),
    }
    assert "W002" not in manage("migrate", "--verbosity", "0", **both)
    with connection._nodb_cursor() as cursor:
        cursor.execute(
            "SELECT rolpassword, rolsuper, rolcanlogin FROM pg_authid WHERE rolname = %s", [empty_database]
        )
        password, *powers = cursor.fetchone()
    assert password.startswith("SCRAM-SHA-256$")
    assert powers == [False, True]
    only = {"DATABASE_URL": both["DATABASE_URL"], "DATABASE_OWNER_URL": ""}
    assert "W002" not in manage("check", "--database", "default", **only)
    assert ", 0 findings" not in manage(
        "verify", **only
    )  # it would be on standard output; 0 is asserted above
    one = {"DATABASE_URL": both["DATABASE_OWNER_URL"], "DATABASE_OWNER_URL": ""}
    assert "W002" in manage("migrate", "--verbosity", "0", **one)
    manage("verify", **one)


def test_an_owner_of_another_database_is_refused() -> None:
    program = "import django; django.setup(); from django.conf import settings; print(settings.UNREADABLE)"
    said = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "commerce.settings",
            "DATABASE_URL": "postgres://commerce_app:p@db/commerce",
            "DATABASE_OWNER_URL": "postgres://commerce:p@db/other",
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "DATABASE_OWNER_URL" in said
