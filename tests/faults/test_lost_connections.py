"""The database's server goes and comes back: a worker's connection outlives many tasks, but not that."""

import pytest
from django.db import connection

import commerce.celery  # noqa: F401 - what it does when a task fails
from commerce.outbox.tasks import drain_lane

pytestmark = pytest.mark.django_db(transaction=True)


def lose_connection() -> None:
    connection.ensure_connection()
    pid, other = connection.connection.info.backend_pid, connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    other.close()


def test_a_task_whose_connection_was_lost_leaves_a_new_one_to_the_next() -> None:
    lose_connection()
    assert drain_lane.apply(("local",)).failed()
    assert drain_lane.apply(("local",)).successful()
