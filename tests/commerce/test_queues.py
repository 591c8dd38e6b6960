"""A queue per kind of work: each task has one, each is taken by somebody, and a delay is never a message."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery.exceptions import QueueNotFound
from django.conf import settings

from commerce import beat
from commerce.beat import Scheduler
from commerce.celery import app, waiting
from commerce.outbox import registry
from commerce.processes import WORKERS

ROOT = Path(__file__).resolve().parents[2]
DECLARED = {queue.name for queue in settings.CELERY_TASK_QUEUES}
app.loader.import_default_modules()
OURS = sorted(name for name in app.tasks if not name.startswith("celery."))


def queue_of(task: str, *arguments: str) -> str:
    return str(app.amqp.router.route({}, task, arguments, {})["queue"].name)


def test_each_tick_goes_to_the_queue_of_its_kind() -> None:
    ticks: dict[str, set[str]] = defaultdict(set)
    for name, entry in app.conf.beat_schedule.items():
        assert entry["options"].keys() == {"expires"}
        ticks[queue_of(entry["task"], *entry["args"])].add(name)
    assert ticks == {
        "outbox": {"outbox.local", "outbox.batch", "outbox.publish"},
        "provider-openmeter": {"outbox.openmeter", "billing.poll_invoices", "billing.check_drift"},
        "provider-modern_treasury": {
            "outbox.modern_treasury", "billing.poll_incoming_payments", "payouts.poll"
        },
        "webhooks": {"webhooks.deliver"},
        "schedule": {
            "commerce.heartbeat", "contracts.run_schedule", "contracts.take_effect",
            "contracts.release_holds", "ledger.release_due", "billing.advance",
            "payouts.advance", "parties.poll", "webhooks.fan_out",
        },
        "bulk": {
            "ledger.keep", "ledger.finish_closings", "commerce.expire_approvals", "webhooks.keep",
            "console.expire_exports", "api.forget_old_answers", "outbox.make_partitions",
            "contracts.run_bulk",
        },
        "exports": {"console.run_exports"},
    }  # fmt: skip


def test_every_task_is_assigned_to_a_declared_queue() -> None:
    _, table = settings.CELERY_TASK_ROUTES
    assert set(OURS) - {"outbox.drain"} == set(table)
    assert {queue_of(task) for task in table} <= DECLARED
    assert {queue_of("outbox.drain", lane) for lane in registry.lanes()} <= DECLARED


def test_every_task_has_a_tick_and_every_lane_its_own() -> None:
    ticks = app.conf.beat_schedule.values()
    assert {entry["task"] for entry in ticks} == set(OURS)
    drained = [entry["args"][0] for entry in ticks if entry["task"] == "outbox.drain"]
    assert sorted(drained) == registry.lanes()
    assert "openmeter" in drained


def test_no_message_makes_a_queue_that_nobody_takes() -> None:
    with pytest.raises(QueueNotFound):
        app.send_task("outbox.drain", ("nowhere",))
    assert not app.conf.task_create_missing_queues


def test_the_workers_of_demo_and_tests_take_each_queue_once() -> None:
    taken = [name for queues in WORKERS.values() for name in _taken(*queues)]
    assert sorted(taken) == sorted(DECLARED)


def test_the_workers_of_the_compose_file_take_each_queue_once() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    commands = [service.get("command", []) for service in compose["services"].values()]
    taken = [name for command in commands if "worker" in command for name in _taken(*command)]
    assert sorted(taken) == sorted(DECLARED)


def _taken(*arguments: str) -> set[str]:
    for option, value in pairwise(arguments):
        if option == "--queues":
            return set(value.split(","))
        if option == "--exclude-queues":
            return DECLARED - set(value.split(","))
    return DECLARED


def test_nothing_is_put_off_by_a_message() -> None:
    """A delay is a `due_at` in the database: on Redis a message that waits is delivered again and again."""
    sources = [path for folder in ("commerce", "contracts", "ledger", "billing", "payouts")
               for path in (ROOT / folder).rglob("*.py")]  # fmt: skip
    asked = re.compile(r"\b(eta|countdown)\s*=|[\"'](eta|countdown)[\"']\s*:|\.retry\(|\.delay\(")
    found = [f"{path}: {line}" for path in sources
             for line in path.read_text().splitlines() if asked.search(line)]  # fmt: skip
    assert found == []
    assert len(sources) > 100
    assert not app.conf.task_retry_on_worker_lost  # it would publish a countdown


def test_a_tick_that_was_not_taken_expires() -> None:
    for entry in app.conf.beat_schedule.values():
        assert entry["options"]["expires"] == max(entry["schedule"], 10)


def test_every_limit_leaves_time_for_the_one_inside_it() -> None:
    redis = app.conf.broker_transport_options["visibility_timeout"]
    for name in OURS:
        task = app.tasks[name]
        soft = task.soft_time_limit or app.conf.task_soft_time_limit
        hard = task.time_limit or app.conf.task_time_limit
        assert soft < hard
        if task.acks_late:
            assert hard < redis, name
    assert app.conf.task_time_limit < settings.OUTBOX_LEASE_SECONDS
    assert app.conf.task_soft_time_limit > settings.PROVIDER_TIMEOUT_SECONDS
    assert app.conf.worker_prefetch_multiplier == 1


def test_beat_is_ours_and_begins_with_everything_due() -> None:
    assert app.conf.beat_scheduler == f"{Scheduler.__module__}.{Scheduler.__qualname__}"
    scheduler = Scheduler(app)
    assert set(scheduler.schedule) == set(app.conf.beat_schedule)
    assert all(entry.is_due()[0] for entry in scheduler.schedule.values())


def test_ticks_that_nobody_takes_do_not_fill_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beat, "FULL", 5)
    monkeypatch.setattr(beat, "LOOK_SECONDS", -1.0)
    scheduler = Scheduler(app)
    app.control.purge()
    before = waiting()["bulk"]
    for _ in range(12):
        scheduler.apply_entry(scheduler.schedule["console.run_exports"])
    assert waiting()["exports"] == 5
    scheduler.apply_entry(scheduler.schedule["ledger.keep"])
    assert waiting()["bulk"] == before + 1, "another queue is not full"


READ = """
from django.conf import settings
import json
print(json.dumps([settings.CELERY_BROKER_URL, settings.CELERY_BROKER_TRANSPORT_OPTIONS,
                  getattr(settings, "CELERY_BROKER_HEARTBEAT", None)]))
"""


def _settings(**environment: str) -> Any:
    kept = {name: value for name, value in os.environ.items() if name not in ("BROKER_URL", "REDIS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", READ], cwd=ROOT, text=True, capture_output=True, check=True,
        env={**kept, "DJANGO_SETTINGS_MODULE": "commerce.settings", **environment},
    )  # fmt: skip
    return json.loads(done.stdout)


def test_rabbitmq_gets_options_of_its_own_and_none_of_redis() -> None:
    address = "amqp://user:password@rabbit:5672//"
    url, options, heartbeat = _settings(BROKER_URL=address, REDIS_URL="redis://redis:6379/0")
    assert url == address
    assert options == {"max_retries": 0, "confirm_publish": True}
    assert heartbeat == 30


@pytest.mark.parametrize("name", ["BROKER_URL", "REDIS_URL"])
def test_redis_gets_none_of_rabbitmq(name: str) -> None:
    url, options, heartbeat = _settings(**{name: "redis://redis:6379/0"})
    assert url == "redis://redis:6379/0"
    assert options == {
        "max_retries": 0, "visibility_timeout": 600, "socket_connect_timeout": 1, "socket_timeout": 3,
    }  # fmt: skip
    assert heartbeat is None
