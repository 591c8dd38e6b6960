"""Posting patterns: named pure functions from amounts to entries that balance.

The owning app chooses the recipe and passes its name to the posting, so that every transaction can
say in one line what it means (`RECIPES`). Zero amounts are dropped.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from commerce.errors import InvalidInput
from commerce.money import Money
from ledger.rules.kinds import Kind, Side

RECIPES: dict[str, str] = {
    "reversal": "Takes back an earlier transaction, entry by entry; the original stays."
}
Recipe = TypeVar("Recipe", bound=Callable[..., tuple["Entry", ...]])


@dataclass(frozen=True)
class Entry:
    """One leg: `amount` is positive, `side` says which way it goes."""

    owner: UUID
    kind: str
    amount: Money
    side: str

    def __post_init__(self) -> None:
        if self.kind not in Kind.__members__:
            raise InvalidInput(
                f"There is no account kind {self.kind!r}.", pointer="/kind", code="unknown_kind"
            )
        if self.side not in (Side.DEBIT, Side.CREDIT):
            raise InvalidInput(
                f"A side is debit or credit, not {self.side!r}.", pointer="/side", code="unknown_side"
            )
        if self.amount.minor <= 0:
            raise InvalidInput(
                f"An entry moves more than nothing; {self.kind} was given {self.amount}.",
                pointer="/amount",
                code="amount_not_positive",
            )

    @property
    def signed(self) -> int:
        """Minor units, credit positive and debit negative."""
        return self.amount.minor if self.side == Side.CREDIT else -self.amount.minor


def recipe(explanation: str) -> Callable[[Recipe], Recipe]:
    """Register a recipe under its function's name with the line that the console shows."""

    def register(function: Recipe) -> Recipe:
        RECIPES[function.__name__] = explanation
        return function

    return register


@recipe("Money arrived at the bank for a buyer and can be spent from the wallet.")
def fund_wallet(*, platform: UUID, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return _entries(debits=[(platform, Kind.CASH_BANK, amount)], credits=[(buyer, Kind.AVAILABLE, amount)])


@recipe("Part of the wallet is set aside for a contract: the downpayment and the period's expected total.")
def commit(*, buyer: UUID, downpayment: Money, expected: Money) -> tuple[Entry, ...]:
    return _entries(
        debits=[(buyer, Kind.AVAILABLE, downpayment), (buyer, Kind.AVAILABLE, expected)],
        credits=[(buyer, Kind.COMMITTED_DOWNPAYMENT, downpayment), (buyer, Kind.COMMITTED, expected)],
    )


@recipe("What was set aside for a contract and is not needed returns to the free wallet.")
def uncommit(*, buyer: UUID, downpayment: Money, expected: Money) -> tuple[Entry, ...]:
    return mirrored(commit(buyer=buyer, downpayment=downpayment, expected=expected))


@recipe(
    "An invoice is paid from the wallet and divided: tax, the platform's fee, and holding for each payee."
)
def collect(
    *,
    platform: UUID,
    buyer: UUID,
    from_downpayment: Money,
    from_committed: Money,
    from_available: Money,
    tax: Money,
    fee: Money,
    payees: Mapping[UUID, Money],
) -> tuple[Entry, ...]:
    return _entries(
        debits=[
            (buyer, Kind.COMMITTED_DOWNPAYMENT, from_downpayment),
            (buyer, Kind.COMMITTED, from_committed),
            (buyer, Kind.AVAILABLE, from_available),
        ],
        credits=[
            (platform, Kind.TAX_PAYABLE, tax),
            (platform, Kind.PLATFORM_FEES, fee),
            *((payee, Kind.PAY_IN_HOLDING, share) for payee, share in payees.items()),
        ],
    )


@recipe("A payee's seasoned money leaves holding and may be paid out.")
def release(*, payee: UUID, amount: Money) -> tuple[Entry, ...]:
    return _entries(debits=[(payee, Kind.PAY_IN_HOLDING, amount)], credits=[(payee, Kind.PAYABLE, amount)])


@recipe("A payout was ordered; the money is on its way to the payee's bank.")
def request_payout(*, payee: UUID, amount: Money) -> tuple[Entry, ...]:
    return _entries(debits=[(payee, Kind.PAYABLE, amount)], credits=[(payee, Kind.PAYOUT_IN_TRANSIT, amount)])


@recipe("The bank confirmed a payout; the cash has left.")
def confirm_payout(*, platform: UUID, payee: UUID, amount: Money) -> tuple[Entry, ...]:
    return _entries(
        debits=[(payee, Kind.PAYOUT_IN_TRANSIT, amount)], credits=[(platform, Kind.CASH_BANK, amount)]
    )


@recipe("A payout failed before the cash left; the payee is owed the money again.")
def fail_payout(*, payee: UUID, amount: Money) -> tuple[Entry, ...]:
    return mirrored(request_payout(payee=payee, amount=amount))


@recipe("A confirmed payout came back from the payee's bank; the payee is owed the money again.")
def return_payout(*, platform: UUID, payee: UUID, amount: Money) -> tuple[Entry, ...]:
    return _entries(debits=[(platform, Kind.CASH_BANK, amount)], credits=[(payee, Kind.PAYABLE, amount)])


@recipe("A buyer's payment was pulled back by the bank; it leaves the wallet again.")
def return_pay_in(*, platform: UUID, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return mirrored(fund_wallet(platform=platform, buyer=buyer, amount=amount))


@recipe("A buyer's payment was pulled back after it was spent; what the wallet lacks, the buyer owes us.")
def return_spent_pay_in(
    *, platform: UUID, buyer: UUID, from_available: Money, owed: Money
) -> tuple[Entry, ...]:
    return _entries(
        debits=[(buyer, Kind.AVAILABLE, from_available), (buyer, Kind.BUYER_RECEIVABLE, owed)],
        credits=[(platform, Kind.CASH_BANK, from_available), (platform, Kind.CASH_BANK, owed)],
    )


@recipe("Money arrived at the bank and nobody knows yet whose it is.")
def unapplied_deposit(*, platform: UUID, amount: Money) -> tuple[Entry, ...]:
    return _entries(
        debits=[(platform, Kind.CASH_BANK, amount)], credits=[(platform, Kind.UNAPPLIED_CASH, amount)]
    )


Leg = tuple[UUID, Kind, Money]


def _entries(*, debits: Iterable[Leg], credits: Iterable[Leg]) -> tuple[Entry, ...]:
    """Join legs per account and side, drop zeros, and refuse what does not balance."""
    sums: dict[tuple[UUID, Kind, Side, str], int] = {}
    for side, legs in ((Side.DEBIT, debits), (Side.CREDIT, credits)):
        for owner, kind, amount in legs:
            if amount.minor < 0:
                raise InvalidInput(
                    f"{kind} was given the negative amount {amount}.", code="amount_not_positive"
                )
            leg = (owner, kind, side, amount.currency)
            sums[leg] = sums.get(leg, 0) + amount.minor
    entries = tuple(
        Entry(owner, kind, Money(minor, currency), side)
        for (owner, kind, side, currency), minor in sums.items()
        if minor
    )
    require_balance(entries)
    return entries


def mirrored(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The same legs on the opposite sides."""
    return tuple(
        Entry(e.owner, e.kind, e.amount, Side.DEBIT if e.side == Side.CREDIT else Side.CREDIT)
        for e in entries
    )


def require_balance(entries: Iterable[Entry]) -> None:
    """InvalidInput naming the currency and both sums unless debits equal credits per currency."""
    debits: dict[str, int] = {}
    credits: dict[str, int] = {}
    for entry in entries:
        sums = credits if entry.side == Side.CREDIT else debits
        sums[entry.amount.currency] = sums.get(entry.amount.currency, 0) + entry.amount.minor
    for currency in sorted({*debits, *credits}):
        debit, credit = debits.get(currency, 0), credits.get(currency, 0)
        if debit != credit:
            raise InvalidInput(
                f"The entries do not balance in {currency}: {Money(debit, currency)} debited, "
                f"{Money(credit, currency)} credited.",
                pointer="/entries",
                code="unbalanced",
                currency=currency,
                debit_minor=debit,
                credit_minor=credit,
            )
