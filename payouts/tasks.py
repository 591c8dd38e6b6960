"""Beat's wake-ups: run due policies, and look at the bank for what no webhook told."""

from celery import shared_task

from commerce import clock
from commerce.actor import Actor
from payouts import services


@shared_task(name="payouts.advance")
def advance() -> int:
    return services.pay_due(at=clock.now(), actor=Actor.system("payouts.advance"))


@shared_task(name="payouts.poll")
def poll() -> int:
    return services.poll_payouts(at=clock.now(), actor=Actor.system("payouts.poll"))
