"""The same stories under faults: the same ledger to the cent, each provider effect exactly once."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

import pytest

from commerce.processes import WORKERS
from commerce.sandbox.scenarios import World
from tests.scenarios.conftest import ROOT, System


def assert_each_effect_once(system: System, world: World) -> None:
    """Everything this play was to do at the providers happened there, and happened once."""
    buyer, seller, partner = (id_ for id_, name in world.names.items() if name != "Platform")
    contract = next(row["id"] for row in world.all("contracts") if row["buyer_id"] == buyer)
    references = {
        (row["kind"], row["reference"])
        for owner in (buyer, seller, partner)
        for row in world.all(f"organizations/{owner}/references")
    }
    payouts = [
        row["external_id"] for payee in (seller, partner) for row in world.all("payouts", payee_id=payee)
    ]
    invoices = [row["provider_id"] for row in world.all("invoices", contract_id=contract)]
    assert (len(references), len(payouts), len(invoices)) == (7, 2, 1)
    intended = {
        "modern_treasury.counterparty": [ref for kind, ref in references if kind == "counterparty"],
        "modern_treasury.virtual_account": [ref for kind, ref in references if kind == "virtual_account"],
        "modern_treasury.external_account": [ref for kind, ref in references if kind == "external_account"],
        "modern_treasury.payment_order": payouts,
        "openmeter.customer": [ref for kind, ref in references if kind == "customer"],
        "openmeter.subscription": [contract],
        "openmeter.usage_event": [f"{contract}-{n}" for n in range(10)],
        "openmeter.issuing_synchronized": invoices,
        "openmeter.payment_status": invoices,
    }
    happened = system.effects()["counts"]
    for kind, wanted in intended.items():
        assert {ref: happened[kind].get(ref, 0) for ref in wanted} == dict.fromkeys(wanted, 1), kind
    assert max(happened["modern_treasury.payment_order"].values()) == 1


def test_every_webhook_three_times_in_shuffled_order_changes_nothing(system: System) -> None:
    system.stack.control("webhooks", {"copies": 3, "shuffle": True, "delay_ms": 30, "seed": 7})
    world = system.play("first_dollar")
    assert_each_effect_once(system, world)
    system.verify()
    delivered = system.stack.control("webhooks")
    assert delivered["delivered"] > 60, f"the fault was not injected: {delivered}"


@pytest.mark.parametrize("lost", [0.3, 1.0])
def test_lost_webhooks_cost_minutes_and_no_money(system: System, lost: float) -> None:
    system.stack.control("webhooks", {"lose": lost, "seed": 11})
    world = system.play("first_dollar")
    assert_each_effect_once(system, world)
    system.verify()
    assert system.stack.control("webhooks")["lost"] > 0, "the fault was not injected"


@pytest.mark.parametrize("story", ["first_dollar", "changed_mid_period", "terminated_mid_period"])
def test_each_provider_calls_answer_lost_once_changes_nothing(system: System, story: str) -> None:
    system.stack.control("faults", {"kind": "answer_lost_once_each"})
    if story == "first_dollar":
        assert_each_effect_once(system, system.play(story))
    else:
        system.play(story)
    faults = system.stack.control("faults")
    assert any(fault.get("hits", 0) > 5 for fault in faults), f"not injected: {faults}"
    system.verify()


def test_a_provider_that_answers_503_now_and_then_only_costs_time(system: System) -> None:
    for provider in ("modern_treasury", "openmeter"):
        system.stack.control("faults", {"provider": provider, "kind": "error", "status": 503, "count": 5})
    world = system.play("first_dollar")
    assert_each_effect_once(system, world)
    system.verify()


def crash_points() -> set[str]:
    """Every point named in the code that ships, but for those that no story's worker comes to: exports, the
    archive, outgoing webhooks, batches and the edits of people, which are killed by their own tests.
    """
    found: set[str] = set()
    for folder in ("commerce", "contracts", "ledger", "billing", "payouts"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= set(re.findall(r'crash_point\(f?"([\w.]+)"\)', path.read_text()))
    elsewhere = ("exports.", "ledger.archive_", "webhooks.", "outbox.before_batch_commit", "contracts.edit_")
    return {point for point in found if not point.startswith(elsewhere)}


@contextmanager
def revived(system: System, points: set[str]) -> Iterator[None]:
    """The worker process that passes one of these points first dies there; the pool starts another."""
    system.stack.restart(*WORKERS, env={"CRASH_AT": ",".join(sorted(points))})
    yield
    system.stack.restart(*WORKERS)


def until_delivered(system: System) -> None:
    """Wait until the relay has nothing left to do."""
    deadline = time.monotonic() + 60
    while '"unpublished": 0' not in system.manage("outbox", "--json", "status"):
        assert time.monotonic() < deadline, system.manage("outbox", "status")
        time.sleep(0.5)


def test_a_worker_killed_at_every_crash_point_leaves_the_same_ledger(fragile_system: System) -> None:
    """kill -9 at each named point of the whole code base; every point must have been reached."""
    points = crash_points()
    assert len(points) >= 29
    with revived(fragile_system, points):
        assert_each_effect_once(fragile_system, fragile_system.play("first_dollar", patience=240))
        for story in ("changed_mid_period", "terminated_mid_period"):
            fragile_system.play(story, patience=120)
        until_delivered(fragile_system)
    assert fragile_system.stack.crashed() == points
    fragile_system.verify()


def test_a_whole_worker_killed_at_a_crash_point_goes_on_when_it_is_started_again(system: System) -> None:
    """Parent and pool at once: no survivor hands the message on, nobody but a supervisor starts another."""
    points = {"outbox.before_local_commit", "outbox.after_remote_effect"}
    environment = {"CRASH_AT": ",".join(sorted(points)), "CRASH_ALL": "true"}
    system.stack.restart(*WORKERS, env=environment)
    started_again = []
    with ThreadPoolExecutor(1) as pool:
        story = pool.submit(system.play, "first_dollar", patience=120)
        while not wait([story], 0.2).done:
            for name in WORKERS:
                if system.stack.processes[name].exit_code is not None:
                    system.stack.restart(name, env=environment)
                    started_again.append(name)
        world = story.result()
    assert system.stack.crashed() == points
    assert sorted(started_again) == sorted(WORKERS), "each whole worker died once"
    assert_each_effect_once(system, world)
    system.verify()


def test_stories_survive_a_worker_killed_at_random(system: System) -> None:
    """Every worker, pool and all, is killed while a contract is played, and started again."""
    kills = 0
    with ThreadPoolExecutor(1) as pool:
        # The story runs beside us: a child lives no longer than the thread that started it.
        story = pool.submit(system.play, "first_dollar", patience=180)
        for pause in (1.0, 5.0, 5.5, 5.0):
            if wait([story], pause).done:
                break
            system.stack.restart(*WORKERS)
            kills += 1
        world = story.result()
    assert kills >= 2, "the fault was not injected"
    assert_each_effect_once(system, world)
    system.verify()
