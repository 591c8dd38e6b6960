"""Named crash points: where a test may kill this process, as a power cut would.

`CRASH_AT=name` makes the first process to pass that point kill itself with SIGKILL, once (the
marker file `CRASH_MARKER` remembers). Without the variable a point costs one comparison, and a
system check forbids the variable in production.
"""

import os
import signal
from pathlib import Path

_AT = os.environ.get("CRASH_AT", "")
_MARKER = os.environ.get("CRASH_MARKER", "")


def crash_point(name: str) -> None:
    """Die here if this is the point that was asked for and nobody has died here yet."""
    if name != _AT:
        return
    try:
        Path(_MARKER).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
