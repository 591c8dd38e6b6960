"""A worker process that a test stops in the middle of its effects, one in each lane, and lets go on later.

`python -m tests.concurrency.outbox.worker LANE…` says each lane from inside its first effect, goes on when it
is told to, and ends by saying how many events it has handled in all.
"""

import sys
import threading

import django


def main(*lanes: str) -> None:
    django.setup()
    from commerce.outbox import drain, registry
    from commerce.outbox.models import OutboxEvent
    from tests.concurrency.outbox.sides import Side, keep, listen

    go_on = threading.Event()

    def effect(event: OutboxEvent) -> None:
        keep(event, by="paused")
        print(event.group, flush=True)
        go_on.wait()

    registry._handlers.clear()
    for lane in lanes:
        listen(lane, effect, group=lane)
    sides = [Side(lambda lane=lane: drain(lanes=[lane]).handled) for lane in lanes]
    sys.stdin.readline()
    go_on.set()
    print(sum(side.answer() for side in sides), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
