"""What is kept behind the postings: sums of days, the chain of seals, next month's partitions.

Safe to lose and safe to run twice: whatever it did not get to, reads add from the entries.
"""

import logging
import time
from datetime import timedelta
from typing import Any

from django.db import connection

log = logging.getLogger(__name__)

LIMIT = 10_000
PATIENCE = timedelta(seconds=3)
# A clock that is set back by less than this gives no posting an instant that is sealed already.
MARGIN = timedelta(seconds=1)
MONTHS_AHEAD = 3


def keep(
    *,
    limit: int = LIMIT,
    deadline: timedelta = timedelta(seconds=20),
    margin: timedelta = MARGIN,
    patience: timedelta = PATIENCE,
) -> int:
    """Fold and seal what was recorded until `margin` ago, `limit` transactions at a time; returns how many.

    Waits up to `patience` for postings that began earlier. When one lasts longer nothing is sealed
    behind it; the next call tries again. Safe to run beside itself and beside postings.
    """
    end = time.monotonic() + deadline.total_seconds()
    arguments: list[Any] = [limit, margin, patience]
    sealed = 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT ledger_make_partitions(now() + make_interval(months => %s))", [MONTHS_AHEAD])
        while time.monotonic() < end:
            cursor.execute("SELECT ledger_keep(%s, %s, %s)", arguments)
            (some,) = cursor.fetchone()
            if some is None:
                log.warning("nothing was sealed: a posting has been open for longer than %s", patience)
            if not some:
                break
            sealed += some
    return sealed
