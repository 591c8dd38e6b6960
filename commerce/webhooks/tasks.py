"""The periodic work of webhooks: making messages, sending them, and forgetting what is over."""

from celery import shared_task

from commerce import clock
from commerce.outbox.events import wake_up
from commerce.webhooks import delivery
from commerce.webhooks.fan_out import fan_out as make_messages


@shared_task(name="webhooks.fan_out")
def fan_out() -> int:
    """Make the messages of new events, and wake who sends them."""
    done = make_messages(at=clock.now())
    if done:
        wake()
    return done


@shared_task(name="webhooks.deliver")
def deliver() -> int:
    """Send what is due, however slow the receivers are: their queue is their own."""
    return delivery.deliver_due(at=clock.now(), seconds=20).sent


@shared_task(name="webhooks.keep")
def keep() -> int:
    """What no request and no attempt does: disable what has failed for five days, cancel what is pending for
    deleted endpoints, send again what was asked for, and forget expired secrets and old messages."""
    return (
        delivery.disable_failing(at=clock.now())
        + delivery.cancel_of_deleted()
        + delivery.resend_rest()
        + delivery.forget_expired_secrets()
        + delivery.forget_old_messages()
    )


def wake() -> None:
    """Ask for a delivery now; the tick finds the work anyway if this is lost."""
    wake_up(deliver)
