"""The two roles that speak to PostgreSQL: the owner migrates, the application may do what the models declare.

`migrate` ends by making the application's rights exactly those that follow from `append_only`,
`updatable_only` and `only_functions_write`; `/readyz` and `verify` name each one that differs.
Where DATABASE_OWNER_URL is not set, one role is both and everybody may do everything.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import ProgrammingError, connection, models, transaction
from psycopg import sql

from commerce.errors import Conflict, PermissionDenied

# What each object of our schema grants to the application, and functions to everybody. Rights are asked
# for as they take effect: by membership, through PUBLIC and on single columns too.
HELD = """
SELECT %(role)s, 'TABLE', c.relname, format('%%I', c.relname), ARRAY(
    SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p
     WHERE CASE WHEN p IN ('DELETE', 'TRUNCATE', 'TRIGGER') THEN has_table_privilege(%(role)s, c.oid, p)
                ELSE has_any_column_privilege(%(role)s, c.oid, p) END)
  FROM pg_class c
 WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
UNION ALL
SELECT %(role)s, 'SEQUENCE', c.relname, format('%%I', c.relname), ARRAY(
    SELECT p FROM unnest(ARRAY['USAGE', 'UPDATE']) p WHERE has_sequence_privilege(%(role)s, c.oid, p))
  FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'S'
UNION ALL
SELECT grantee, 'ROUTINE', f.proname, f.oid::regprocedure::text,
       CASE WHEN has_function_privilege(grantee, f.oid, 'EXECUTE') THEN ARRAY['EXECUTE'] ELSE '{}' END
  FROM pg_proc f, unnest(ARRAY[%(role)s, 'public']) grantee
 WHERE f.pronamespace = current_schema()::regnamespace AND f.prosecdef AND f.prorettype <> 'trigger'::regtype
UNION ALL
SELECT %(role)s, 'SCHEMA', current_schema(), format('%%I', current_schema()), ARRAY(
    SELECT p FROM unnest(ARRAY['USAGE', 'CREATE']) p
     WHERE has_schema_privilege(%(role)s, current_schema(), p))
UNION ALL
SELECT %(role)s, 'DATABASE', current_database(), format('%%I', current_database()), ARRAY(
    SELECT p FROM unnest(ARRAY['CONNECT', 'CREATE', 'TEMPORARY']) p
     WHERE has_database_privilege(%(role)s, current_database(), p))
"""
OWNS = """
SELECT r.rolsuper OR pg_has_role(r.oid, d.datdba, 'MEMBER') OR EXISTS (
    SELECT FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
       AND pg_has_role(r.oid, c.relowner, 'MEMBER'))
  FROM pg_roles r, pg_database d WHERE r.rolname = %s AND d.datname = current_database()
"""
OPEN_PATH = """
SELECT f.oid::regprocedure::text FROM pg_proc f
 WHERE f.pronamespace = current_schema()::regnamespace AND f.prosecdef
   AND NOT EXISTS (SELECT FROM unnest(f.proconfig) c WHERE c LIKE 'search\\_path=%')
"""


_OWNS_TABLE = "SELECT pg_has_role(relowner, 'MEMBER') FROM pg_class WHERE oid = %s::regclass"


class Difference(NamedTuple):
    """A right that the application lacks, or has and should not."""

    role: str
    privilege: str
    object: str
    wanted: bool

    def __str__(self) -> str:
        return f"{self.role} {'lacks' if self.wanted else 'has'} {self.privilege} on {self.object}"


@contextmanager
def owner() -> Iterator[None]:
    """This thread's connection belongs to the owner inside; it must not be in a transaction."""
    connection.close()
    before = connection.settings_dict
    identity = {key: value for key, value in settings.DATABASE_OWNER.items() if key not in ("ENGINE", "NAME")}
    connection.settings_dict = {**before, **identity}
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict = before


@contextmanager
def owners_session(table: str) -> Iterator[None]:
    """Statements of this session may take their time; outside a transaction, so that each is on its own.

    PermissionDenied to whoever does not own `table`.
    """
    if connection.in_atomic_block:
        raise Conflict("Tables are changed outside of a transaction.", code="in_transaction")
    with connection.cursor() as cursor:
        cursor.execute(_OWNS_TABLE, [table])
        if not cursor.fetchone()[0]:
            raise PermissionDenied("Only the owner of the tables may do this: set DATABASE_OWNER_URL.")
        cursor.execute("SET statement_timeout = 0; SET lock_timeout = 0")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET statement_timeout; RESET lock_timeout")


def application() -> str:
    return str(settings.DATABASES["default"]["USER"])


def owns(role: str) -> bool | None:
    """Whether a role is the owner or may become it, and no right binds it; None if it does not exist."""
    with connection.cursor() as cursor:
        cursor.execute(OWNS, [role])
        row = cursor.fetchone()
    return row[0] if row else None


def declared() -> dict[str, frozenset[str]]:
    """What the application may do to each table; to a table that is not here, nothing."""
    tables = {
        model._meta.db_table: _declared(model)
        for model in apps.get_models(include_auto_created=True)
        if not model._meta.proxy
    }
    return {"django_migrations": frozenset({"SELECT"}), **tables}


def differences() -> list[Difference]:
    """Where the rights in the database are not the declared ones; nothing when one role is both."""
    role, tables = application(), declared()
    if owns(role) is not False:
        return []
    found = []
    with connection.cursor() as cursor:
        cursor.execute(HELD, {"role": role})
        for grantee, kind, name, identity, held in cursor.fetchall():
            wanted = {
                "TABLE": tables.get(name, frozenset()),
                "SEQUENCE": {"USAGE"},
                "ROUTINE": {"EXECUTE"} if grantee == role else set(),
                "SCHEMA": {"USAGE"},
                "DATABASE": {"CONNECT"},
            }[kind]
            found += [
                Difference(grantee, privilege, f"{kind} {identity}", privilege in wanted)
                for privilege in sorted(wanted ^ set(held))
            ]
    return found


def functions_with_an_open_path() -> list[str]:
    """Functions that run as the owner and look names up where their caller says."""
    with connection.cursor() as cursor:
        cursor.execute(OPEN_PATH)
        return [name for (name,) in cursor.fetchall()]


def grant() -> None:
    """Make the application's rights the declared ones; and the role itself where there is none."""
    role = application()
    if not settings.DATABASE_OWNER or owns(role):
        return
    with transaction.atomic(), connection.cursor() as cursor:
        if owns(role) is None:
            _create(role)
        for _ in range(2):  # what is taken from PUBLIC may be what the role had its own right from
            for _, privilege, thing, wanted in differences():
                verb = "GRANT {} ON {} TO {}" if wanted else "REVOKE {} ON {} FROM {}, PUBLIC"
                parts = sql.SQL(privilege), sql.SQL(thing), sql.Identifier(role)
                cursor.execute(sql.SQL(verb).format(*parts))


def after_migrate(*, plan: list[Any] | None = None, **_: Any) -> None:
    """Once per `migrate`, even of nothing; `flush`, which has no plan, changes no right."""
    if plan is not None:
        grant()


def _declared(model: type[models.Model]) -> frozenset[str]:
    if getattr(model, "only_functions_write", False):
        return frozenset({"SELECT"})
    if getattr(model, "append_only", False):
        return frozenset({"SELECT", "INSERT"})
    if getattr(model, "updatable_only", ()):
        return frozenset({"SELECT", "INSERT", "UPDATE"})
    return frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})


def _create(role: str) -> None:
    """With the password of DATABASE_URL, as its hash: a server may log statements."""
    connection.ensure_connection()
    password = str(settings.DATABASES["default"]["PASSWORD"])
    hashed = connection.connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
        sql.Identifier(role), sql.Literal(hashed.decode()) if password else sql.NULL
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    except ProgrammingError as error:
        raise ImproperlyConfigured(
            f"The database has no role {role}, and this one may not create it ({error}). "
            f"Have an administrator run CREATE ROLE {role} LOGIN PASSWORD '…', then migrate again."
        ) from error
