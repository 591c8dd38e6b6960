"""Without a broker beat runs its ticks itself: an event waits for seconds, and nothing happens twice."""

from pathlib import Path

from tests.commerce.outbox_scale.conftest import Machines, Redis, eventually, once_and_in_order, write

SECONDS = 5  # of ticks every half of one


def test_redis_killed_under_a_running_stack_costs_seconds_and_comes_back_empty(
    machines: Machines, redis: Redis
) -> None:
    redis.start()
    worker, beat = machines.worker(), machines.beat()
    machines.ready("worker")
    write("scale.everywhere")
    eventually(lambda: len(machines.effects()) == 3)
    assert machines.by(worker) == 3
    redis.kill()
    waited = []
    for count in range(2, 8):
        write("scale.everywhere")
        waited.append(eventually(lambda count=count: len(machines.effects()) == 3 * count, SECONDS))
    print(f"without Redis, commit to handled: {max(waited):.2f} s at most of {len(waited)}")
    assert machines.by(beat) == 18
    redis.start()
    taken = machines.by(worker)

    def worker_is_back() -> bool:
        write("scale.everywhere")
        return machines.by(worker) > taken

    back = eventually(worker_is_back)
    print(f"a worker took part again {back:.1f} s after Redis came back")
    last = machines.effects()
    written = _written()
    eventually(lambda: len(machines.effects()) == 3 * written, SECONDS)
    assert len(last) <= 3 * written
    groups = ("scale.local", "scale.batch", "scale.remote")
    once_and_in_order(machines.effects(), {(group, "1"): written for group in groups})
    assert worker.exit_code is None
    assert beat.exit_code is None


def _written() -> int:
    from commerce.outbox.models import OutboxEvent

    return OutboxEvent.objects.filter(aggregate_type="thing").count()


def test_a_stack_that_starts_without_redis_works_and_takes_it_when_it_comes(
    machines: Machines, redis: Redis, tmp_path: Path
) -> None:
    beat, worker = machines.beat(), machines.worker()
    write("scale.local", "first")
    eventually(lambda: len(machines.effects()) == 1)
    assert machines.by(beat) == 1
    slow = tmp_path / "asked"
    write("scale.remote", "slow", marker=str(slow), seconds=15)
    eventually(slow.exists, SECONDS)
    write("scale.local", "second")
    eventually(lambda: len(machines.effects()) == 2, SECONDS)  # a provider holds up no local tick
    redis.start()
    machines.ready("worker")
    eventually(lambda: len(machines.effects()) == 3)
    once_and_in_order(
        machines.effects(),
        {("scale.local", "first"): 1, ("scale.local", "second"): 1, ("scale.remote", "slow"): 1},
    )
    assert worker.exit_code is None
