"""The console's periodic work: making exports, and removing their files when their days are over."""

from celery import shared_task

from commerce import clock
from commerce.actor import Actor
from commerce.console.exports import expire_exports, run_next

LONGEST_SECONDS = 3600


# Acknowledged at once: no broker waits an hour for an answer, and the job's lease finds a lost one again.
@shared_task(
    name="console.run_exports",
    acks_late=False,
    soft_time_limit=LONGEST_SECONDS,
    time_limit=LONGEST_SECONDS + 60,
)
def run_exports() -> bool:
    """Make one export; the next wake-up makes the next."""
    return run_next(actor=Actor.system("exports"), at=clock.now())


@shared_task(name="console.expire_exports")
def expire() -> int:
    """Remove up to 500 files; the next wake-up goes on."""
    return expire_exports(actor=Actor.system("exports"), at=clock.now())
