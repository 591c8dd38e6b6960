"""What billing does about what happened elsewhere. Each handler calls one service."""

from uuid import UUID

from billing import services
from commerce import clock
from commerce.actor import Actor
from commerce.outbox import on
from commerce.outbox.models import OutboxEvent

RELAY = Actor.system("billing")

SUBSCRIPTION_EVENTS = (
    "contract.activated",
    "contract.product_added",
    "contract.product_removed",
    "contract.quantity_changed",
    "contract.price_changed",
    "contract.discount_applied",
    "contract.discount_ended",
    "contract.commitment_set",
    "contract.commitment_ended",
    "contract.financing_attached",
    "contract.financing_closed",
    "contract.terms_changed",
    "contract.renewed",
    "contract.suspended",
    "contract.resumed",
    "contract.terminated",
    "contract.transferred",
    "contract.corrected",
    "contract.expired",
    "contract.took_effect",
)


# One group for what opens and closes an account: a contract signed and cancelled is seen in that order.


@on("contract.signed", group="billing.account")
def set_aside_at_signature(event: OutboxEvent) -> None:
    services.open_account(
        contract_id=event.aggregate_id, version=event.payload["to_version"], actor=RELAY, at=event.occurred_at
    )


@on(*SUBSCRIPTION_EVENTS, group="billing.openmeter", provider="openmeter")
def follow_the_contract(event: OutboxEvent) -> None:
    services.sync_subscription(contract_id=event.aggregate_id, actor=RELAY, at=clock.now())


@on("service.status_changed", group="billing.openmeter", provider="openmeter")
def follow_the_service(event: OutboxEvent) -> None:
    services.follow_service(contract_id=event.aggregate_id, actor=RELAY, at=clock.now())


@on(
    "contract.terminated",
    "contract.cancelled",
    "contract.expired",
    "contract.transferred",
    "contract.corrected",
    "contract.took_effect",
    group="billing.account",
)
def look_at_the_accounts(event: OutboxEvent) -> None:
    services.follow_contract(
        contract_id=event.aggregate_id, version=event.payload["to_version"], actor=RELAY, at=clock.now()
    )
    follow_the_prepayment(event)


@on("contract.commitment_set", "contract.commitment_ended", group="billing.account")
def follow_the_prepayment(event: OutboxEvent) -> None:
    if services.moves_prepayment(event.payload):
        services.follow_prepayment(
            contract_id=event.aggregate_id, version=event.payload["to_version"], actor=RELAY, at=clock.now()
        )


@on("billing_account.status_changed", group="billing.collection")
def spend_what_was_given_back(event: OutboxEvent) -> None:
    if event.payload["billing_status"] == "settled":
        services.spend_what_was_given_back(account_id=event.aggregate_id, actor=RELAY, at=clock.now())


@on("subscription.sync_requested", group="billing.openmeter", provider="openmeter")
def sync_again(event: OutboxEvent) -> None:
    services.resync(sync_id=event.payload["sync_id"], actor=RELAY, at=clock.now())


@on("usage.accepted", group="billing.openmeter", provider="openmeter")
def forward_usage(event: OutboxEvent) -> None:
    services.forward_usage(batch_id=event.aggregate_id, at=clock.now())


@on("openmeter.invoice_changed", group="billing.openmeter", provider="openmeter")
def fetch_invoice(event: OutboxEvent) -> None:
    services.refresh_invoice(provider_id=event.payload["object_id"], actor=RELAY, at=clock.now())


@on("invoice.verified", group="billing.openmeter", provider="openmeter")
def confirm_invoice(event: OutboxEvent) -> None:
    services.confirm_invoice(invoice_id=event.aggregate_id, actor=RELAY, at=clock.now())


@on("invoice.paid", group="billing.openmeter", provider="openmeter")
def report_paid(event: OutboxEvent) -> None:
    services.report_paid(invoice_id=event.aggregate_id, actor=RELAY, at=clock.now())


@on("invoice.overdue", group="billing.openmeter", provider="openmeter")
def report_overdue(event: OutboxEvent) -> None:
    services.report_overdue(invoice_id=event.aggregate_id, actor=RELAY, at=clock.now())


@on("invoice.issued", group="billing.collection")
def collect_invoice(event: OutboxEvent) -> None:
    services.collect_invoice(invoice_id=event.aggregate_id, actor=RELAY, at=clock.now())


@on("modern_treasury.incoming_payment_changed", group="billing.modern_treasury", provider="modern_treasury")
def fetch_incoming_payment(event: OutboxEvent) -> None:
    services.refresh_incoming_payment(provider_id=event.payload["object_id"], actor=RELAY, at=clock.now())


@on("pay_in.completed", group="billing.collection")
def collect_what_is_open(event: OutboxEvent) -> None:
    if event.payload["buyer_id"]:
        services.collect_for_buyer(
            buyer_id=UUID(event.payload["buyer_id"]),
            source=f"pay_in:{event.aggregate_id}",
            actor=RELAY,
            at=clock.now(),
        )
