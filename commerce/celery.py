"""The Celery application and the beat timetable.

Tasks carry wake-ups, never facts: each finds its work in the database, so every one is safe to
lose and safe to run twice. Delays are `due_at` columns; `eta` and `countdown` are not used.
"""

import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging, task_failure, worker_init

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "commerce.settings")

from django.conf import settings
from django.db import close_old_connections

app = Celery("commerce")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["commerce", *settings.INSTALLED_APPS])


@setup_logging.connect
def _keep_our_logging(**_: Any) -> None:
    """Django's LOGGING has configured the process already."""


@worker_init.connect
def _load_before_the_fork(**_: Any) -> None:
    """Spend the second that this import takes once, not in every child's first call."""
    import modern_treasury  # noqa: F401


@task_failure.connect
def _leave_a_lost_connection(**_: Any) -> None:
    """Celery keeps a connection for hundreds of tasks, which would all fail when the server has closed it."""
    close_old_connections()


def waiting() -> dict[str, int]:
    """Messages that no worker has taken, by queue. Raises whatever the broker's library does."""
    with app.connection_for_write() as broker:
        channel: Any = broker.default_channel
        return {
            name: channel.queue_declare(queue=name, durable=True, auto_delete=False).message_count
            for name in sorted(app.amqp.queues)
        }


def _every(seconds: float, task: str, *arguments: str) -> dict[str, Any]:
    # A tick that could not run for a while is dropped: the next ones are there.
    return {"task": task, "args": arguments, "schedule": seconds, "options": {"expires": max(seconds, 10)}}


TICK, POLL, HOUR = settings.TICK_SECONDS, settings.POLL_SECONDS, 3600

app.conf.beat_schedule = {
    "outbox.local": _every(TICK, "outbox.drain", "local"),
    "outbox.batch": _every(TICK, "outbox.drain", "batch"),
    "outbox.openmeter": _every(TICK, "outbox.drain", "openmeter"),
    "outbox.modern_treasury": _every(TICK, "outbox.drain", "modern_treasury"),
    "outbox.publish": _every(TICK * 5, "outbox.publish"),
    "commerce.heartbeat": _every(min(30, TICK * 5), "commerce.heartbeat"),
    "contracts.run_schedule": _every(TICK, "contracts.run_schedule"),
    "contracts.take_effect": _every(TICK, "contracts.take_effect"),
    "contracts.run_bulk": _every(TICK * 5, "contracts.run_bulk"),
    "contracts.release_holds": _every(POLL, "contracts.release_holds"),
    "ledger.release_due": _every(TICK, "ledger.release_due"),
    "billing.advance": _every(TICK, "billing.advance"),
    "payouts.advance": _every(TICK, "payouts.advance"),
    "parties.poll": _every(POLL, "parties.poll"),
    "webhooks.fan_out": _every(TICK, "webhooks.fan_out"),
    "webhooks.deliver": _every(TICK, "webhooks.deliver"),
    "webhooks.keep": _every(POLL, "webhooks.keep"),
    "billing.poll_invoices": _every(POLL, "billing.poll_invoices"),
    "billing.check_drift": _every(POLL, "billing.check_drift"),
    "billing.poll_incoming_payments": _every(POLL, "billing.poll_incoming_payments"),
    "payouts.poll": _every(POLL, "payouts.poll"),
    "ledger.keep": _every(10, "ledger.keep"),
    "ledger.finish_closings": _every(TICK * 5, "ledger.finish_closings"),
    "commerce.expire_approvals": _every(POLL, "commerce.expire_approvals"),
    "console.run_exports": _every(TICK, "console.run_exports"),
    "console.expire_exports": _every(HOUR, "console.expire_exports"),
    "outbox.make_partitions": _every(HOUR, "outbox.make_partitions"),
    "api.forget_old_answers": _every(HOUR, "api.forget_old_answers"),
}
