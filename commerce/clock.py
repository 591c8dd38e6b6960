"""Business time. Doors and handlers read `now()` once and pass it on as `at`.

Outside production `CLOCK_FILE` may name a file that holds one instant; the file is then the clock,
shared by every process and by the provider simulators, and it only moves forward. Leases, back-off
and `recorded_at` are system time and never come from here.
"""

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings

from commerce.errors import Conflict, InvalidInput


def now() -> datetime:
    """The current business instant, aware, in UTC."""
    if settings.CLOCK_FILE:
        return _read(Path(settings.CLOCK_FILE)) or datetime.now(UTC)
    return datetime.now(UTC)


def is_simulated() -> bool:
    return bool(settings.CLOCK_FILE)


def is_readable() -> bool:
    """Whether the test clock's file holds an instant, or is yet to be made in a folder that exists."""
    path = Path(settings.CLOCK_FILE)
    try:
        return _read(path) is not None or path.parent.is_dir()
    except (OSError, ValueError):
        return False


def set_test_clock(to: datetime) -> None:
    """Move the test clock forward to `to`. Conflict when there is none or `to` lies behind it."""
    if not settings.CLOCK_FILE:
        raise Conflict("There is no test clock here: CLOCK_FILE is not set.", code="no_test_clock")
    if to.tzinfo is None:
        raise InvalidInput("The instant has no offset.", pointer="/now", code="invalid_instant")
    path = Path(settings.CLOCK_FILE)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        current = _read(path)
        if current and to < current:
            raise Conflict(f"The test clock is already at {current.isoformat()}.", code="clock_backwards")
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(to.astimezone(UTC).isoformat())
        draft.rename(path)


def _read(path: Path) -> datetime | None:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return None
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"The test clock holds an instant without an offset: {text}")
    return instant.astimezone(UTC)
