"""Money enters a buyer's wallet, is set aside for contracts, and leaves it again.

What a wallet lacks when a payment is pulled back, the buyer owes; later money repays that first.
"""

from uuid import UUID

from commerce.money import Money
from ledger.rules.kinds import Kind
from ledger.rules.recipes.base import Entry, Flow, against, balanced, mirrored, recipe


@recipe(Flow.WALLET, "Money arrived at the bank for a buyer and can be spent from the wallet.")
def fund_wallet(*, platform: UUID, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(debits=[(platform, Kind.CASH_BANK, amount)], credits=[(buyer, Kind.AVAILABLE, amount)])


@recipe(Flow.WALLET, "Money arrived for a buyer who owes us: it repays the debt, the rest can be spent.")
def fund_owing_wallet(*, platform: UUID, buyer: UUID, repaid: Money, rest: Money) -> tuple[Entry, ...]:
    credits = [(buyer, Kind.BUYER_RECEIVABLE, repaid), (buyer, Kind.AVAILABLE, rest)]
    return balanced(debits=against(platform, Kind.CASH_BANK, credits), credits=credits)


@recipe(Flow.WALLET, "A buyer's debt to us is repaid from what the wallet holds.")
def repay_from_wallet(*, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(buyer, Kind.AVAILABLE, amount)], credits=[(buyer, Kind.BUYER_RECEIVABLE, amount)]
    )


@recipe(
    Flow.WALLET,
    "Part of the wallet is set aside for a contract: the downpayment and the period's expected total.",
)
def commit(*, buyer: UUID, downpayment: Money, expected: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(buyer, Kind.AVAILABLE, downpayment), (buyer, Kind.AVAILABLE, expected)],
        credits=[(buyer, Kind.COMMITTED_DOWNPAYMENT, downpayment), (buyer, Kind.COMMITTED, expected)],
    )


@recipe(Flow.WALLET, "What was set aside for a contract and is not needed returns to the free wallet.")
def uncommit(*, buyer: UUID, downpayment: Money, expected: Money) -> tuple[Entry, ...]:
    return mirrored(commit(buyer=buyer, downpayment=downpayment, expected=expected))


@recipe(Flow.WALLET, "A buyer's payment was pulled back by the bank; it leaves the wallet again.")
def return_pay_in(*, platform: UUID, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return mirrored(fund_wallet(platform=platform, buyer=buyer, amount=amount))


@recipe(
    Flow.WALLET,
    "A buyer's payment was pulled back after it was spent; what the wallet lacks, the buyer owes us.",
)
def return_spent_pay_in(
    *, platform: UUID, buyer: UUID, from_available: Money, owed: Money
) -> tuple[Entry, ...]:
    debits = [(buyer, Kind.AVAILABLE, from_available), (buyer, Kind.BUYER_RECEIVABLE, owed)]
    return balanced(debits=debits, credits=against(platform, Kind.CASH_BANK, debits))


@recipe(Flow.DEPOSIT, "Money arrived at the bank and nobody knows yet whose it is.")
def unapplied_deposit(*, platform: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.CASH_BANK, amount)], credits=[(platform, Kind.UNAPPLIED_CASH, amount)]
    )


@recipe(Flow.DEPOSIT, "A deposit's owner was found; the money can be spent from the wallet.")
def match_deposit(*, platform: UUID, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.UNAPPLIED_CASH, amount)], credits=[(buyer, Kind.AVAILABLE, amount)]
    )


@recipe(Flow.REFUND, "A buyer asked for unspent money back; it can no longer be spent.")
def request_refund(*, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(debits=[(buyer, Kind.AVAILABLE, amount)], credits=[(buyer, Kind.REFUND_PAYABLE, amount)])


@recipe(Flow.REFUND, "A refund to the card was settled; the processor keeps it from what it owes us.")
def confirm_card_refund(*, platform: UUID, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(buyer, Kind.REFUND_PAYABLE, amount)],
        credits=[(platform, Kind.SETTLEMENT_RECEIVABLE, amount)],
    )


@recipe(Flow.REFUND, "A refund to the buyer's bank was confirmed; the cash has left.")
def confirm_bank_refund(*, platform: UUID, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(buyer, Kind.REFUND_PAYABLE, amount)], credits=[(platform, Kind.CASH_BANK, amount)]
    )


@recipe(Flow.REFUND, "A refund failed before the money left; it can be spent from the wallet again.")
def fail_refund(*, buyer: UUID, amount: Money) -> tuple[Entry, ...]:
    return mirrored(request_refund(buyer=buyer, amount=amount))
