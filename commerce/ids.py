"""Time-ordered identifiers (UUID version 7, RFC 9562), made by us before anything is sent anywhere.

The 12 bits after the version count within a millisecond, so that ids made by one process sort
in the order they were made; `ORDER BY id` is therefore creation order.
"""

import os
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Anybody may write a UUID; years end with 9999.
LAST_MILLISECOND = (datetime(9999, 12, 30, tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)
_lock = threading.Lock()
_last = 0


def uuid7() -> uuid.UUID:
    """Return a new UUIDv7; strictly increasing within the process."""
    global _last
    with _lock:
        stamp = max((time.time_ns() // 1_000_000) << 12, _last + 1)
        _last = stamp
    milliseconds, counter = stamp >> 12, stamp & 0xFFF
    random = int.from_bytes(os.urandom(8)) & (2**62 - 1)
    return uuid.UUID(int=(milliseconds << 80) | (0x7 << 76) | (counter << 64) | (0b10 << 62) | random)


def made_at(id_: uuid.UUID) -> datetime | None:
    """When a UUIDv7 was made, by its maker's clock; None for any other UUID."""
    if id_.version != 7:
        return None
    return EPOCH + timedelta(milliseconds=min(id_.int >> 80, LAST_MILLISECOND))


def first_at(instant: datetime) -> uuid.UUID:
    """The least UUIDv7 that can have been made at an instant: what sorts before it was made before."""
    return uuid.UUID(int=((instant - EPOCH) // timedelta(milliseconds=1) << 80) | (0x7 << 76) | (0b10 << 62))
