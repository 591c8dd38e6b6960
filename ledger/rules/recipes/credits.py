"""What a buyer gets without paying: a trial, whose grant is memo until it is used, and SLA credits."""

from collections.abc import Mapping
from uuid import UUID

from commerce.money import Money
from ledger.rules.kinds import Kind
from ledger.rules.recipes.base import Entry, Flow, against, balanced, each, mirrored, recipe


@recipe(Flow.TRIAL, "A buyer was granted a free trial; noted beside the books, for no money moved.")
def grant_trial(*, funder: UUID, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(funder, Kind.NOTIONAL_GRANTED, amount)], credits=[(buyer, Kind.NOTIONAL, amount)]
    )


@recipe(Flow.TRIAL, "A trial was used at our expense: our promotion pays payees and fee, the grant shrinks.")
def use_trial(*, platform: UUID, buyer: UUID, fee: Money, payees: Mapping[UUID, Money]) -> tuple[Entry, ...]:
    earned = [(platform, Kind.PLATFORM_FEES, fee), *each(Kind.PAY_IN_HOLDING, payees)]
    return (
        *balanced(debits=against(platform, Kind.PROMOTIONS, earned), credits=earned),
        *balanced(
            debits=against(buyer, Kind.NOTIONAL, earned),
            credits=against(platform, Kind.NOTIONAL_GRANTED, earned),
        ),
    )


@recipe(Flow.TRIAL, "A trial was used at the seller's expense: nobody earns, only the grant shrinks.")
def use_seller_funded_trial(*, seller: UUID, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return mirrored(grant_trial(funder=seller, buyer=buyer, amount=amount))


@recipe(Flow.TRIAL, "A trial ended with some of it unused; the rest of the grant lapses.")
def expire_trial(*, funder: UUID, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return mirrored(grant_trial(funder=funder, buyer=buyer, amount=amount))


@recipe(
    Flow.SLA,
    "Service fell short: seller and platform credit the wallet; a seller paid out already owes us its part.",
)
def credit_sla(
    *,
    platform: UUID,
    buyer: UUID,
    seller: UUID,
    tax: Money,
    from_platform: Money,
    from_holding: Money,
    owed: Money,
) -> tuple[Entry, ...]:
    debits = [
        (platform, Kind.TAX_PAYABLE, tax),
        (platform, Kind.SLA_CREDITS, from_platform),
        (seller, Kind.PAY_IN_HOLDING, from_holding),
        (seller, Kind.SELLER_RECEIVABLE, owed),
    ]
    return balanced(debits=debits, credits=against(buyer, Kind.AVAILABLE, debits))
