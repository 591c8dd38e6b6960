"""A card payment: spendable at capture, settled later in a batch, partly kept in the processor's reserve."""

from uuid import UUID

from commerce.money import Money
from ledger.rules.kinds import Kind
from ledger.rules.recipes.base import Entry, Flow, against, balanced, mirrored, recipe


@recipe(Flow.CARD, "A card was charged for a buyer's wallet; the processor owes us the amount.")
def capture_card(*, platform: UUID, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.SETTLEMENT_RECEIVABLE, amount)], credits=[(buyer, Kind.AVAILABLE, amount)]
    )


@recipe(Flow.CARD, "The processor's fee for a card payment, booked when it arises and settled later.")
def accrue_processing_fee(*, platform: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.PROCESSING_FEES, amount)],
        credits=[(platform, Kind.ACCRUED_PROCESSING_FEES, amount)],
    )


@recipe(Flow.CARD, "A processing fee came out lower than it was booked; the difference is no expense.")
def release_processing_fee(*, platform: UUID, amount: Money) -> tuple[Entry, ...]:
    return mirrored(accrue_processing_fee(platform=platform, amount=amount))


@recipe(
    Flow.CARD,
    "The processor settled a batch of card payments: what it paid, its fees, and what it keeps in reserve.",
)
def settle_card_batch(*, platform: UUID, received: Money, fee: Money, reserved: Money) -> tuple[Entry, ...]:
    debits = [
        (platform, Kind.CASH_PROCESSOR, received),
        (platform, Kind.ACCRUED_PROCESSING_FEES, fee),
        (platform, Kind.PROCESSOR_RESERVE, reserved),
    ]
    return balanced(debits=debits, credits=against(platform, Kind.SETTLEMENT_RECEIVABLE, debits))


@recipe(Flow.CARD, "The processor paid out what it had kept in reserve.")
def release_processor_reserve(*, platform: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.CASH_PROCESSOR, amount)], credits=[(platform, Kind.PROCESSOR_RESERVE, amount)]
    )


@recipe(Flow.CARD, "Our balance at the processor was moved to our bank.")
def sweep_processor_cash(*, platform: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.CASH_BANK, amount)], credits=[(platform, Kind.CASH_PROCESSOR, amount)]
    )
