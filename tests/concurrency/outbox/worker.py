"""A worker process that a test stops for good in the middle of an effect, and lets go on later.

`python -m tests.concurrency.outbox.worker LANE` says `working` from inside its first effect, goes on when it
is told to, and ends by saying how many events it has handled.
"""

import sys

import django


def main(lane: str) -> None:
    django.setup()
    from commerce.outbox import drain, registry
    from commerce.outbox.models import OutboxEvent
    from tests.concurrency.outbox.sides import keep, listen

    def effect(event: OutboxEvent) -> None:
        keep(event, by="paused")
        print("working", flush=True)
        sys.stdin.readline()

    registry._handlers.clear()
    listen(lane, effect)
    print(drain(lanes=[lane]).handled, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
