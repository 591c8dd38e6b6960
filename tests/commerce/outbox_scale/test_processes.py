"""Several workers and beats on one set of streams: once each, in order, and nobody idle or in the way."""

import time
from pathlib import Path

from django.db import transaction
from django.utils import timezone

from commerce.outbox import append
from commerce.outbox.models import OutboxEvent, OutboxStream
from tests.commerce.outbox_scale.conftest import AT, Machines, Redis, eventually, once_and_in_order, write

GROUPS = ("scale.local", "scale.batch", "scale.remote")
STREAMS, EVENTS = 40, 15


def test_three_workers_on_one_set_of_streams_do_everything_once_in_order_and_together(
    machines: Machines, redis: Redis
) -> None:
    redis.start()
    workers = [machines.worker(f"worker{n}") for n in range(3)]
    machines.ready("worker0", "worker1", "worker2")
    machines.beat()
    for _ in range(EVENTS):
        with transaction.atomic():
            for stream in range(STREAMS):
                append("thing", str(stream), "scale.everywhere", {"seconds": 0.005}, at=AT)
    total = STREAMS * EVENTS * len(GROUPS)
    eventually(lambda: len(machines.effects()) >= total, 120)
    time.sleep(1.5)
    shares = [machines.by(worker) for worker in workers]
    print(f"{total} effects, by worker: {shares}")
    assert all(share > 0 for share in shares)
    assert sum(shares) == total
    once_and_in_order(machines.effects(), {(g, str(s)): EVENTS for g in GROUPS for s in range(STREAMS)})
    assert not OutboxEvent.objects.filter(published_at__isnull=True).exists()
    assert not OutboxStream.objects.exclude(lease_token=None).exists()


def test_two_beats_double_no_effect_and_pile_nothing_up(machines: Machines, redis: Redis) -> None:
    redis.start()
    beats = [machines.beat("beat0"), machines.beat("beat1")]
    machines.worker(
        queues="outbox,provider-openmeter,schedule,bulk,exports,webhooks,provider-modern_treasury"
    )
    machines.ready("worker")
    for sequence in range(1, 21):
        write("scale.everywhere", str(sequence % 4))
        time.sleep(0.1)
    eventually(lambda: len(machines.effects()) >= 60)
    time.sleep(3)
    once_and_in_order(
        machines.effects(), {(group, str(stream)): 5 for group in GROUPS for stream in range(4)}
    )
    waiting = {queue: redis.length(queue) for queue in ("outbox", "schedule", "bulk", "provider-openmeter")}
    assert max(waiting.values()) < 30, waiting
    assert all(beat.exit_code is None for beat in beats)


def test_a_worker_that_is_told_to_end_finishes_the_event_in_hand_and_gives_back_the_rest(
    machines: Machines, redis: Redis, tmp_path: Path
) -> None:
    redis.start()
    asked = tmp_path / "asked"
    write("scale.local", "slow", marker=str(asked), seconds=3)
    write("scale.local", "slow")
    for n in range(5):
        write("scale.local", f"other{n}")
    worker, beat = machines.worker(), machines.beat()
    eventually(asked.exists)
    held = OutboxStream.objects.exclude(lease_token=None).filter(due_at__gt=timezone.now())
    assert held.count() == 6  # all of one claim
    beat.kill()
    worker.terminate()
    assert worker.wait(10)
    assert worker.exit_code == 0
    assert [effect[:3] for effect in machines.effects()] == [("scale.local", "slow", 1)]
    assert not OutboxStream.objects.exclude(lease_token=None).exists()
    assert OutboxStream.objects.filter(due_at__lte=timezone.now(), attempts=0).count() == 6
    machines.worker("next")
    machines.beat("beat again")
    eventually(lambda: len(machines.effects()) == 7)
    once_and_in_order(
        machines.effects(), {("scale.local", "slow"): 2} | {("scale.local", f"other{n}"): 1 for n in range(5)}
    )


def test_another_broker_than_redis_carries_the_ticks(counted: None, tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    machines = Machines(tmp_path, BROKER_URL="filesystem://")
    try:
        worker, _ = machines.worker(), machines.beat()
        machines.ready("worker")
        write("scale.everywhere")
        eventually(lambda: len(machines.effects()) == 3)
        assert machines.by(worker) == 3
        once_and_in_order(machines.effects(), {(group, "1"): 1 for group in GROUPS})
    finally:
        machines.stop()
