"""Whether this process was told to end: a drain then finishes the event in hand and gives back the rest.

One byte of memory that a worker shares with the processes it forks: no lock that a killed one would keep.
"""

import mmap
from typing import Any

from celery.signals import worker_shutting_down

_told = mmap.mmap(-1, 1)


def stop(**_: Any) -> None:
    _told[0] = 1


def stopping() -> bool:
    return _told[0] == 1


worker_shutting_down.connect(stop)
