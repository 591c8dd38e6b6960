"""A chargeback pulls back a card payment: unspent money of the wallet goes first, then what it bought.

While the dispute is open the money is frozen; every end of it leaves the frozen accounts empty. The
platform always gives up its fee on what was spent.
"""

from collections.abc import Mapping
from uuid import UUID

from commerce.money import Money
from ledger.rules.kinds import Kind
from ledger.rules.recipes.base import Entry, Flow, Leg, against, balanced, each, mirrored, recipe


@recipe(Flow.CHARGEBACK, "A cardholder disputed a payment; the processor took it back and charged a fee.")
def open_dispute(*, platform: UUID, amount: Money, fee: Money) -> tuple[Entry, ...]:
    debits = [(platform, Kind.DISPUTE_RECEIVABLE, amount), (platform, Kind.PROCESSING_FEES, fee)]
    return balanced(debits=debits, credits=against(platform, Kind.SETTLEMENT_RECEIVABLE, debits))


@recipe(Flow.CHARGEBACK, "While a dispute is open, unspent money and the payees' shares are frozen.")
def freeze_disputed(*, buyer: UUID, unspent: Money, payees: Mapping[UUID, Money]) -> tuple[Entry, ...]:
    return balanced(
        debits=[(buyer, Kind.AVAILABLE, unspent), *each(Kind.PAY_IN_HOLDING, payees)],
        credits=[(buyer, Kind.DISPUTE_HOLD, unspent), *each(Kind.PAYEE_DISPUTE_HOLD, payees)],
    )


@recipe(Flow.CHARGEBACK, "What was frozen for a dispute is free again.")
def unfreeze_disputed(*, buyer: UUID, unspent: Money, payees: Mapping[UUID, Money]) -> tuple[Entry, ...]:
    return mirrored(freeze_disputed(buyer=buyer, unspent=unspent, payees=payees))


@recipe(
    Flow.CHARGEBACK, "We won a dispute: the processor owes us the payment again, what was frozen is free."
)
def win_dispute(
    *, platform: UUID, buyer: UUID, amount: Money, unspent: Money, payees: Mapping[UUID, Money]
) -> tuple[Entry, ...]:
    return (
        *balanced(
            debits=[(platform, Kind.SETTLEMENT_RECEIVABLE, amount)],
            credits=[(platform, Kind.DISPUTE_RECEIVABLE, amount)],
        ),
        *unfreeze_disputed(buyer=buyer, unspent=unspent, payees=payees),
    )


@recipe(Flow.CHARGEBACK, "The processor gave its fee for a dispute back.")
def return_dispute_fee(*, platform: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.SETTLEMENT_RECEIVABLE, amount)],
        credits=[(platform, Kind.PROCESSING_FEES, amount)],
    )


@recipe(Flow.CHARGEBACK, "We lost a dispute: the wallet's frozen money goes, payees lose shares, we our fee.")
def lose_dispute_payees_bear(
    *, platform: UUID, buyer: UUID, unspent: Money, tax: Money, fee: Money, payees: Mapping[UUID, Money]
) -> tuple[Entry, ...]:
    debits = [*_given_up(platform, buyer, unspent, tax, fee), *each(Kind.PAYEE_DISPUTE_HOLD, payees)]
    return balanced(debits=debits, credits=against(platform, Kind.DISPUTE_RECEIVABLE, debits))


@recipe(Flow.CHARGEBACK, "We lost a dispute and bear the payees' shares ourselves; theirs are free again.")
def lose_dispute_platform_bears(
    *, platform: UUID, buyer: UUID, unspent: Money, tax: Money, fee: Money, payees: Mapping[UUID, Money]
) -> tuple[Entry, ...]:
    frozen = each(Kind.PAYEE_DISPUTE_HOLD, payees)
    debits = [
        *_given_up(platform, buyer, unspent, tax, fee),
        *against(platform, Kind.CHARGEBACK_LOSS, frozen),
    ]
    return balanced(
        debits=[*debits, *frozen],
        credits=[*against(platform, Kind.DISPUTE_RECEIVABLE, debits), *each(Kind.PAY_IN_HOLDING, payees)],
    )


@recipe(
    Flow.CHARGEBACK,
    "We lost a dispute after payees were paid out: what is no longer frozen with us, they owe us.",
)
def lose_dispute_after_payout(
    *,
    platform: UUID,
    buyer: UUID,
    unspent: Money,
    tax: Money,
    fee: Money,
    payees: Mapping[UUID, Money],
    owed: Mapping[UUID, Money],
) -> tuple[Entry, ...]:
    debits = [
        *_given_up(platform, buyer, unspent, tax, fee),
        *each(Kind.PAYEE_DISPUTE_HOLD, payees),
        *each(Kind.SELLER_RECEIVABLE, owed),
    ]
    return balanced(debits=debits, credits=against(platform, Kind.DISPUTE_RECEIVABLE, debits))


def _given_up(platform: UUID, buyer: UUID, unspent: Money, tax: Money, fee: Money) -> list[Leg]:
    return [
        (buyer, Kind.DISPUTE_HOLD, unspent),
        (platform, Kind.TAX_PAYABLE, tax),
        (platform, Kind.PLATFORM_FEES, fee),
    ]
