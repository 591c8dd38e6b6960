"""What contracts do about what happened. Each handler calls one service."""

from uuid import UUID

from commerce import clock
from commerce.actor import Actor
from commerce.outbox import on
from commerce.outbox.models import OutboxEvent
from contracts import services

RELAY = Actor.system("contracts")


@on("contract.took_effect", "contract.expired", group="contracts.reservations")
def give_back_units(event: OutboxEvent) -> None:
    services.refit_reservations(contract_id=UUID(event.aggregate_id), actor=RELAY, at=clock.now())


@on(
    "contract.signed",
    "contract.activated",
    "contract.product_added",
    "contract.product_removed",
    "contract.quantity_changed",
    "contract.suspended",
    "contract.resumed",
    "contract.terminated",
    "contract.cancelled",
    "contract.renewed",
    "contract.corrected",
    "contract.took_effect",
    "contract.expired",
    group="contracts.service",
)
def say_what_the_contract_says_of_its_units(event: OutboxEvent) -> None:
    services.follow_contract(contract_id=event.aggregate_id, actor=RELAY, at=clock.now())
