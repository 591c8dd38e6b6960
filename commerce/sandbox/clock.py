"""The test clock shared with the application: one file holding an ISO instant, forward only.

Without a file, or before somebody wrote it, business time is system time.
"""

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path


class ClockBackwards(ValueError):
    pass


class Clock:
    def __init__(self, path: Path | None) -> None:
        self.path = path

    def now(self) -> datetime:
        return self._read() or datetime.now(UTC)

    def advance(self, to: datetime) -> None:
        """Move the shared clock to `to`; ClockBackwards when it is already later or there is no file."""
        if self.path is None:
            raise ClockBackwards("There is no test clock: CLOCK_FILE is not set.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            current = self._read()
            if current and to < current:
                raise ClockBackwards(f"The test clock is already at {current.isoformat()}.")
            draft = self.path.with_suffix(f".{os.getpid()}")
            draft.write_text(to.astimezone(UTC).isoformat())
            draft.rename(self.path)

    def _read(self) -> datetime | None:
        if self.path is None:
            return None
        try:
            text = self.path.read_text().strip()
        except FileNotFoundError:
            return None
        return datetime.fromisoformat(text).astimezone(UTC) if text else None


def iso(instant: datetime) -> str:
    text = instant.astimezone(UTC).isoformat(timespec="microseconds" if instant.microsecond else "seconds")
    return text.replace("+00:00", "Z")


def parse(text: str) -> datetime:
    """An aware instant; ValueError for anything else."""
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("the instant has no offset")
    return instant.astimezone(UTC)
