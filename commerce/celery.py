"""The Celery application and the beat timetable.

Tasks carry wake-ups, never facts: each finds its work in the database, so every one is safe to
lose and safe to run twice. Delays are `due_at` columns; `eta` and `countdown` are not used.
"""

import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_init

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "commerce.settings")

from django.conf import settings

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


def _every(seconds: float, task: str, *arguments: str, **options: Any) -> dict[str, Any]:
    # A tick that could not run before the next one is dropped rather than piled up.
    options["expires"] = max(seconds, 1)
    return {"task": task, "args": arguments, "schedule": seconds, "options": options}


app.conf.beat_schedule = {
    "heartbeat": _every(min(30, settings.TICK_SECONDS * 5), "commerce.heartbeat"),
    "outbox.local": _every(settings.TICK_SECONDS, "outbox.drain", "local"),
    "outbox.batch": _every(settings.TICK_SECONDS, "outbox.drain", "batch"),
    "outbox.openmeter": _every(settings.TICK_SECONDS, "outbox.drain", "openmeter", queue="providers"),
    "outbox.modern_treasury": _every(
        settings.TICK_SECONDS, "outbox.drain", "modern_treasury", queue="providers"
    ),
    "outbox.publish": _every(settings.TICK_SECONDS * 5, "outbox.publish"),
    "contracts.take_effect": _every(settings.TICK_SECONDS, "contracts.take_effect"),
    "ledger.release_due": _every(settings.TICK_SECONDS, "ledger.release_due"),
    "ledger.finish_closings": _every(settings.TICK_SECONDS * 5, "ledger.finish_closings"),
    "ledger.keep": _every(10, "ledger.keep"),
    "billing.advance": _every(settings.TICK_SECONDS, "billing.advance"),
    "payouts.advance": _every(settings.TICK_SECONDS, "payouts.advance"),
    "billing.poll_invoices": _every(settings.POLL_SECONDS, "billing.poll_invoices"),
    "billing.poll_incoming_payments": _every(settings.POLL_SECONDS, "billing.poll_incoming_payments"),
    "payouts.poll": _every(settings.POLL_SECONDS, "payouts.poll"),
    "parties.poll": _every(settings.POLL_SECONDS, "parties.poll"),
    "commerce.expire_approvals": _every(settings.POLL_SECONDS, "commerce.expire_approvals"),
    "console.run_exports": _every(settings.TICK_SECONDS, "console.run_exports"),
    "console.expire_exports": _every(3600, "console.expire_exports"),
    "api.forget_old_answers": _every(3600, "api.forget_old_answers"),
}
