"""What Modern Treasury must know about an organization."""

from commerce import clock
from commerce.actor import Actor
from commerce.outbox import on
from commerce.outbox.models import OutboxEvent
from commerce.parties import services


@on(
    "organization.registered",
    "organization.bank_account_added",
    group="parties.modern_treasury",
    provider="modern_treasury",
)
def provision(event: OutboxEvent) -> None:
    actor = Actor.system("parties")
    services.provision(organization_id=event.aggregate_id, actor=actor, at=clock.now())
