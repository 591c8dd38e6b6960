"""Money lent and repaid, fees for lateness, and what is given up.

Principal is a claim on the borrower; only interest and fees are revenue.
"""

from uuid import UUID

from commerce.money import Money
from ledger.rules.kinds import Kind
from ledger.rules.recipes.base import Entry, Flow, against, balanced, recipe


@recipe(Flow.FINANCING, "We lent a buyer money; it can be spent from the wallet.")
def advance_to_buyer(*, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(buyer, Kind.FINANCING_RECEIVABLE, amount)], credits=[(buyer, Kind.AVAILABLE, amount)]
    )


@recipe(Flow.FINANCING, "We lent a seller money; it may be paid out.")
def advance_to_seller(*, seller: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(seller, Kind.FINANCING_RECEIVABLE, amount)], credits=[(seller, Kind.PAYABLE, amount)]
    )


@recipe(Flow.FINANCING, "A buyer paid an instalment: interest is our revenue, principal lowers the debt.")
def pay_instalment(*, platform: UUID, buyer: UUID, principal: Money, interest: Money) -> tuple[Entry, ...]:
    return _repaid(platform, buyer, Kind.AVAILABLE, principal, interest)


@recipe(Flow.FINANCING, "A buyer repaid all that was left, with the interest up to the day.")
def pay_off_financing(*, platform: UUID, buyer: UUID, principal: Money, interest: Money) -> tuple[Entry, ...]:
    return _repaid(platform, buyer, Kind.AVAILABLE, principal, interest)


@recipe(Flow.FINANCING, "Part of a seller's earnings repays what we lent.")
def garnish_financing(
    *, platform: UUID, seller: UUID, principal: Money, interest: Money
) -> tuple[Entry, ...]:
    return _repaid(platform, seller, Kind.PAYABLE, principal, interest)


@recipe(Flow.FINANCING, "Part of a seller's earnings goes to the lender who financed the seller.")
def garnish_for_lender(*, seller: UUID, lender: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(debits=[(seller, Kind.PAYABLE, amount)], credits=[(lender, Kind.PAYABLE, amount)])


@recipe(Flow.FINANCING, "We gave up the principal that a borrower still owes; it is our loss.")
def write_off_financing(*, platform: UUID, borrower: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.BAD_DEBT, amount)], credits=[(borrower, Kind.FINANCING_RECEIVABLE, amount)]
    )


@recipe(Flow.BAD_DEBT, "A late buyer was charged a fee, from the wallet as far as it goes; the rest is owed.")
def charge_late_fee(*, platform: UUID, buyer: UUID, from_available: Money, owed: Money) -> tuple[Entry, ...]:
    debits = [(buyer, Kind.AVAILABLE, from_available), (buyer, Kind.BUYER_RECEIVABLE, owed)]
    return balanced(debits=debits, credits=against(platform, Kind.LATE_FEES, debits))


@recipe(Flow.BAD_DEBT, "We gave up what a buyer owes us; it is our loss.")
def write_off_buyer_debt(*, platform: UUID, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.BAD_DEBT, amount)], credits=[(buyer, Kind.BUYER_RECEIVABLE, amount)]
    )


def _repaid(
    platform: UUID, borrower: UUID, source: Kind, principal: Money, interest: Money
) -> tuple[Entry, ...]:
    credits = [
        (borrower, Kind.FINANCING_RECEIVABLE, principal),
        (platform, Kind.FINANCING_INTEREST, interest),
    ]
    return balanced(debits=against(borrower, source, credits), credits=credits)
