"""Working through many rows, none of which may hold up the others."""

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

from celery.exceptions import SoftTimeLimitExceeded

log = logging.getLogger(__name__)
Item = TypeVar("Item")


def each(items: Iterable[Item], work: Callable[[Item], object], *, what: str, patience: int = 0) -> int:
    """Do `work` for every item; one that fails is logged and comes again. Returns how many succeeded.

    `patience` failures in a row mean that it is not the items: the rest is left for the next time.
    """
    done = in_a_row = 0
    for item in items:
        try:
            work(item)
            done, in_a_row = done + 1, 0
        except SoftTimeLimitExceeded:  # not the item's fault, and the next would be killed with its worker
            raise
        except Exception:  # the edge of a periodic task: what cannot be done now waits for the next one
            in_a_row += 1
            log.exception("%s left for the next time", what, extra={"item": str(item)})
            if in_a_row == patience:
                break
    return done
