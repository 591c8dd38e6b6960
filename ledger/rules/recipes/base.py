"""What every recipe is made of: entries, legs that balance, and the register that explains them.

A recipe's name goes with its posting, so that every transaction can say in one line what it means
(`RECIPES`) and to which flow of money it belongs (`FLOWS`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

from commerce.errors import InvalidInput
from commerce.money import MAX_MINOR, Money
from ledger.rules.kinds import Kind, Side

Recipe = TypeVar("Recipe", bound=Callable[..., tuple["Entry", ...]])


class Flow(StrEnum):
    """The story that a recipe is a step of, in the order in which money travels."""

    WALLET = "Wallet"
    DEPOSIT = "Unidentified deposit"
    CARD = "Card pay-in"
    STABLECOIN = "Stablecoin pay-in"
    FX = "Currency exchange"
    USAGE = "Usage"
    DOWNPAYMENT = "Downpayment"
    TRIAL = "Free trial"
    SLA = "SLA credit"
    TAX = "Tax"
    REFERRAL = "Referral"
    SEASONING = "Seasoning and reserve"
    PAYOUT = "Payout"
    HOSTING = "Hosting"
    REFUND = "Refund"
    CHARGEBACK = "Chargeback"
    OWING_PAYEE = "Payee who owes"
    FINANCING = "Financing"
    BAD_DEBT = "Late fee and bad debt"
    CORRECTION = "Correction"


RECIPES: dict[str, str] = {
    "reversal": "Takes back an earlier transaction, entry by entry; the original stays."
}
FLOWS: dict[str, Flow] = {"reversal": Flow.CORRECTION}


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


def recipe(flow: Flow, explanation: str) -> Callable[[Recipe], Recipe]:
    """Register a recipe under its function's name with its flow and the line that the console shows."""

    def register(function: Recipe) -> Recipe:
        FLOWS[function.__name__] = flow
        RECIPES[function.__name__] = explanation
        return function

    return register


Leg = tuple[UUID, Kind, Money]


def balanced(*, debits: Iterable[Leg], credits: Iterable[Leg]) -> tuple[Entry, ...]:
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


def each(kind: Kind, amounts: Mapping[UUID, Money]) -> list[Leg]:
    """One leg per owner, all on accounts of one kind."""
    return [(owner, kind, amount) for owner, amount in amounts.items()]


def against(owner: UUID, kind: Kind, legs: Iterable[Leg]) -> list[Leg]:
    """The counterpart of legs: their amounts, all on one account."""
    return [(owner, kind, amount) for _, _, amount in legs]


def mirrored(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The same legs on the opposite sides."""
    return tuple(
        Entry(e.owner, e.kind, e.amount, Side.DEBIT if e.side == Side.CREDIT else Side.CREDIT)
        for e in entries
    )


def require_balance(entries: Iterable[Entry]) -> None:
    """InvalidInput naming the currency and both sums unless debits equal credits per currency.

    The sums are amounts themselves and no larger than any amount may be.
    """
    debits: dict[str, int] = {}
    credits: dict[str, int] = {}
    for entry in entries:
        sums = credits if entry.side == Side.CREDIT else debits
        sums[entry.amount.currency] = sums.get(entry.amount.currency, 0) + entry.amount.minor
    for currency in sorted({*debits, *credits}):
        debit, credit = debits.get(currency, 0), credits.get(currency, 0)
        if max(debit, credit) > MAX_MINOR:
            raise InvalidInput(
                f"The entries in {currency} come to more than 2^53 - 1 minor units.",
                pointer="/entries",
                code="amount_overflow",
                currency=currency,
            )
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
