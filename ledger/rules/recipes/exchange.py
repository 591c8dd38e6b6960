"""Money changes its currency through FX_POSITION, which balances each currency on its own.

A stablecoin is a currency like any other, never one to one by definition. After the spread, or the
gain or loss of a sale, is booked, the position is zero at the rate that was used.
"""

from uuid import UUID

from commerce.money import Money
from ledger.rules.kinds import Kind
from ledger.rules.recipes.base import Entry, Flow, Leg, against, balanced, mirrored, recipe


@recipe(Flow.FX, "Money at the processor was exchanged: one currency left, another arrived.")
def exchange_currency(*, platform: UUID, sold: Money, bought: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.FX_POSITION, sold), (platform, Kind.CASH_PROCESSOR, bought)],
        credits=[(platform, Kind.CASH_PROCESSOR, sold), (platform, Kind.FX_POSITION, bought)],
    )


@recipe(Flow.FX, "What an exchange cost against the mid rate.")
def book_fx_spread(*, platform: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.FX_SPREAD, amount)], credits=[(platform, Kind.FX_POSITION, amount)]
    )


@recipe(Flow.FX, "What an exchange brought above the mid rate; it lowers what exchanges cost.")
def book_fx_gain(*, platform: UUID, amount: Money) -> tuple[Entry, ...]:
    return mirrored(book_fx_spread(platform=platform, amount=amount))


@recipe(Flow.STABLECOIN, "Coins arrived for a buyer; the wallet gets what they are worth at the stored rate.")
def receive_stablecoin(*, platform: UUID, buyer: UUID, received: Money, worth: Money) -> tuple[Entry, ...]:
    return _coins(platform, buyer, received, [(platform, Kind.FX_POSITION, worth)])


@recipe(
    Flow.STABLECOIN, "Coins arrived a little short of the quote; the wallet gets the quote, the rest is ours."
)
def receive_quoted_stablecoin(
    *, platform: UUID, buyer: UUID, received: Money, worth: Money, short: Money
) -> tuple[Entry, ...]:
    value = [(platform, Kind.FX_POSITION, worth), (platform, Kind.CRYPTO_SLIPPAGE, short)]
    return _coins(platform, buyer, received, value)


@recipe(Flow.STABLECOIN, "Coins were sold and the proceeds arrived at the bank.")
def sell_stablecoin(*, platform: UUID, sold: Money, proceeds: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.FX_POSITION, sold), (platform, Kind.CASH_BANK, proceeds)],
        credits=[(platform, Kind.CRYPTO, sold), (platform, Kind.FX_POSITION, proceeds)],
    )


@recipe(Flow.STABLECOIN, "Coins brought less than the wallet was given for them; it is our loss.")
def book_stablecoin_loss(*, platform: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.CRYPTO_SLIPPAGE, amount)], credits=[(platform, Kind.FX_POSITION, amount)]
    )


@recipe(Flow.STABLECOIN, "Coins brought more than the wallet was given for them; it lowers our losses.")
def book_stablecoin_gain(*, platform: UUID, amount: Money) -> tuple[Entry, ...]:
    return mirrored(book_stablecoin_loss(platform=platform, amount=amount))


def _coins(platform: UUID, buyer: UUID, received: Money, value: list[Leg]) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.CRYPTO, received), *value],
        credits=[(platform, Kind.FX_POSITION, received), *against(buyer, Kind.AVAILABLE, value)],
    )
