"""What payouts do about events: settle paid invoices, follow releases, send payouts, read the bank."""

from uuid import UUID

from commerce import clock
from commerce.actor import Actor
from commerce.outbox import on
from commerce.outbox.models import OutboxEvent
from payouts import services

RELAY = Actor.system("payouts")
LEG = "settlement_leg:"


@on("invoice.paid", group="payouts.settlement")
def settle(event: OutboxEvent) -> None:
    services.plan_settlement(invoice=event.payload, actor=RELAY, at=event.occurred_at)


@on("ledger.released", group="payouts.settlement")
def release(event: OutboxEvent) -> None:
    if event.payload["source"].startswith(LEG):
        services.release_leg(leg_id=_leg(event), actor=RELAY, at=event.occurred_at)


@on("ledger.release_held", "ledger.release_lifted", "ledger.release_cancelled", group="payouts.settlement")
def follow_release(event: OutboxEvent) -> None:
    if event.payload["source"].startswith(LEG):
        services.follow_release(leg_id=_leg(event), actor=RELAY, at=event.occurred_at)


@on("provider_reference.activated", group="payouts.policy")
def pay_to_new_account(event: OutboxEvent) -> None:
    if event.payload["kind"] == "external_account":
        services.wake_payee(organization_id=UUID(event.payload["organization_id"]), at=event.occurred_at)


@on("payout.approved", group="payouts.modern_treasury", provider="modern_treasury")
def submit(event: OutboxEvent) -> None:
    services.submit_payout(payout_id=UUID(event.aggregate_id), actor=RELAY, at=clock.now())


@on("payout.give_up_approved", group="payouts.modern_treasury", provider="modern_treasury")
def give_up(event: OutboxEvent) -> None:
    services.give_up_payout(
        payout_id=UUID(event.aggregate_id), reason=event.payload["reason"], actor=RELAY, at=clock.now()
    )


@on("payout.poll_requested", group="payouts.poll", provider="modern_treasury")
def poll(event: OutboxEvent) -> None:
    services.poll_payout(payout_id=UUID(event.aggregate_id), actor=RELAY, at=clock.now())


@on("settlement.poll_requested", group="payouts.poll", provider="modern_treasury")
def poll_all(event: OutboxEvent) -> None:
    services.poll_settlement(settlement_id=UUID(event.aggregate_id), actor=RELAY, at=clock.now())


@on("modern_treasury.payment_order_changed", group="payouts.modern_treasury", provider="modern_treasury")
def read_order(event: OutboxEvent) -> None:
    services.read_order(order_id=event.payload["object_id"], actor=RELAY, at=clock.now())


@on("modern_treasury.return_changed", group="payouts.modern_treasury", provider="modern_treasury")
def read_return(event: OutboxEvent) -> None:
    services.read_return(return_id=event.payload["object_id"], actor=RELAY, at=clock.now())


def _leg(event: OutboxEvent) -> UUID:
    return UUID(event.payload["source"].removeprefix(LEG))
