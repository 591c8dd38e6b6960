"""What every test shares: repeatable hypothesis examples, a cheap password hasher, a clock of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

# Playwright keeps an event loop in the test's thread, and Django would refuse its queries there.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")

hypothesis_settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


LONG_ONES_FIRST = ("tests/scenarios", "tests/faults", "tests/setup", "tests/browser")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long stories begin first, and a file that starts processes of its own stays on one worker."""
    for item in items:
        if (place := _place(item)) < len(LONG_ONES_FIRST):
            item.add_marker(pytest.mark.xdist_group(LONG_ONES_FIRST[place]))
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    starts = (i for i, start in enumerate(LONG_ONES_FIRST) if item.nodeid.startswith(start))
    return next(starts, len(LONG_ONES_FIRST))


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> Iterator[None]:
    """Tests make, empty and tamper with databases as the owner; threads and processes are the application."""
    from commerce import roles

    with roles.owner():
        yield


@pytest.fixture(scope="session")
def migrated(django_db_blocker: Any) -> Iterator[str]:
    """A database that nobody uses: those of whole systems are copies of it."""
    from tests.scenarios.conftest import ROOT, own_database

    with own_database("migrated", django_db_blocker) as name:
        migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(migrate, cwd=ROOT, env={**os.environ, "DATABASE_NAME": name}, check=True)
        yield name


# What follows from the models alone: no test changes it, and to make it again costs more than most tests do.
OF_THE_MODELS = ("django_content_type", "auth_permission", "auth_group", "auth_group_permissions")


@pytest.fixture(scope="session", autouse=True)
def _emptying_keeps_what_follows_from_the_models() -> Iterator[None]:
    from django.contrib.contenttypes.management import create_contenttypes
    from django.core.management.commands import flush
    from django.db.models.signals import post_migrate

    emit = flush.emit_post_migrate_signal

    def sql(style: Any, connection: Any, **options: Any) -> Any:
        tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
        wanted = [table for table in tables if table not in OF_THE_MODELS]
        return connection.ops.sql_flush(style, wanted, **options)

    def without_models(*arguments: Any, **options: Any) -> None:
        receivers = post_migrate.receivers
        named = ("django.contrib.auth.management.create_permissions", "console.groups")
        post_migrate.receivers = [one for one in receivers if one[0][0] not in named]
        post_migrate.disconnect(create_contenttypes)
        try:
            emit(*arguments, **options)
        finally:
            post_migrate.receivers = receivers
            post_migrate.sender_receivers_cache.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flush, "sql_flush", sql)
        patch.setattr(flush, "emit_post_migrate_signal", without_models)
        yield


@pytest.fixture(autouse=True)
def _cheap_passwords(settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def clock(settings: Any, tmp_path: Path) -> Callable[[datetime], None]:
    """A frozen business clock of this test, at 2027-03-01; call it with a later instant to move it."""
    from commerce.clock import set_test_clock

    settings.CLOCK_FILE = str(tmp_path / "clock")
    set_test_clock(datetime(2027, 3, 1, tzinfo=UTC))
    return set_test_clock


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Throw away the wake-ups that committed tests have sent and no worker takes."""
    if not hasattr(session.config, "workerinput"):
        from commerce.celery import app

        app.control.purge()
