"""The database's server goes and comes back: a worker's connection outlives many tasks, but not that."""

import pytest
from django.db import connection

from commerce.celery import app

pytestmark = pytest.mark.django_db(transaction=True)


def lose_connection() -> None:
    connection.ensure_connection()
    pid, other = connection.connection.info.backend_pid, connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    other.close()


def test_a_task_whose_connection_was_lost_leaves_a_new_one_to_the_next() -> None:
    lose_connection()
    drain = app.tasks["outbox.drain"]
    assert drain.apply(("local",)).failed()
    assert drain.apply(("local",)).successful()
