"""A point in time behind which nothing can arrive any more.

A posting's `recorded_at` is read before it commits. Whoever draws a line under what is recorded (a
seal, a closed period) first waits until every transaction that was writing has ended.
"""

import time

from django.db import connection

POLL_SECONDS = 0.02


def wait_for_writers(*, seconds: float) -> bool:
    """Wait until all transactions that write now have ended; False when some last longer than that.

    What they committed is visible afterwards, and what this connection committed before is seen by
    every writer that begins later. Not inside a transaction, which would wait for itself.
    """
    if connection.in_atomic_block:
        raise RuntimeError("Waiting for writers inside a transaction waits for itself.")
    deadline = time.monotonic() + seconds
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        (first_after,) = cursor.fetchone()
        while True:
            cursor.execute(
                "SELECT pg_snapshot_xmin(pg_current_snapshot()) >= %s::text::xid8", [first_after]
            )
            (ended,) = cursor.fetchone()
            if ended:
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
