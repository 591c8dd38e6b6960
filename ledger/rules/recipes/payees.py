"""A payee's money seasons, is released, and is paid out; what a payee owes is taken from it first.

One payee's debt is never netted against another's credit.
"""

from uuid import UUID

from commerce.money import Money
from ledger.rules.kinds import Kind
from ledger.rules.recipes.base import Entry, Flow, against, balanced, mirrored, recipe


@recipe(Flow.SEASONING, "A payee's seasoned money leaves holding and may be paid out.")
def release(*, payee: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(debits=[(payee, Kind.PAY_IN_HOLDING, amount)], credits=[(payee, Kind.PAYABLE, amount)])


@recipe(Flow.SEASONING, "A payee's seasoned money leaves holding; a part stays back as a rolling reserve.")
def release_with_reserve(*, payee: UUID, payable: Money, reserved: Money) -> tuple[Entry, ...]:
    credits = [(payee, Kind.PAYABLE, payable), (payee, Kind.RESERVE, reserved)]
    return balanced(debits=against(payee, Kind.PAY_IN_HOLDING, credits), credits=credits)


@recipe(Flow.SEASONING, "A payee's reserve has served its time and may be paid out.")
def release_reserve(*, payee: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(debits=[(payee, Kind.RESERVE, amount)], credits=[(payee, Kind.PAYABLE, amount)])


@recipe(Flow.SEASONING, "Released money that was not paid out goes back to holding, where it can be claimed.")
def take_back_release(*, payee: UUID, amount: Money) -> tuple[Entry, ...]:
    return mirrored(release(payee=payee, amount=amount))


@recipe(Flow.PAYOUT, "A payout was ordered; the money is on its way to the payee's bank.")
def request_payout(*, payee: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(debits=[(payee, Kind.PAYABLE, amount)], credits=[(payee, Kind.PAYOUT_IN_TRANSIT, amount)])


@recipe(Flow.PAYOUT, "The bank confirmed a payout; the cash has left.")
def confirm_payout(*, platform: UUID, payee: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(payee, Kind.PAYOUT_IN_TRANSIT, amount)], credits=[(platform, Kind.CASH_BANK, amount)]
    )


@recipe(Flow.PAYOUT, "The bank confirmed a payout and charged us for it; both have left.")
def confirm_payout_with_fee(*, platform: UUID, payee: UUID, amount: Money, fee: Money) -> tuple[Entry, ...]:
    debits = [(payee, Kind.PAYOUT_IN_TRANSIT, amount), (platform, Kind.PROCESSING_FEES, fee)]
    return balanced(debits=debits, credits=against(platform, Kind.CASH_BANK, debits))


@recipe(Flow.PAYOUT, "A payout failed before the cash left; the payee is owed the money again.")
def fail_payout(*, payee: UUID, amount: Money) -> tuple[Entry, ...]:
    return mirrored(request_payout(payee=payee, amount=amount))


@recipe(Flow.PAYOUT, "A confirmed payout came back from the payee's bank; the payee is owed the money again.")
def return_payout(*, platform: UUID, payee: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(debits=[(platform, Kind.CASH_BANK, amount)], credits=[(payee, Kind.PAYABLE, amount)])


@recipe(Flow.HOSTING, "A seller's hosting is paid from what we owe; what that lacks, the seller owes us.")
def charge_hosting(*, platform: UUID, seller: UUID, from_payable: Money, owed: Money) -> tuple[Entry, ...]:
    debits = [(seller, Kind.PAYABLE, from_payable), (seller, Kind.SELLER_RECEIVABLE, owed)]
    return balanced(debits=debits, credits=against(platform, Kind.HOSTING_FEES, debits))


@recipe(Flow.OWING_PAYEE, "What a payee owes us is taken from what the same payee has earned.")
def offset_payee_debt(*, payee: UUID, from_holding: Money, from_payable: Money) -> tuple[Entry, ...]:
    debits = [(payee, Kind.PAY_IN_HOLDING, from_holding), (payee, Kind.PAYABLE, from_payable)]
    return balanced(debits=debits, credits=against(payee, Kind.SELLER_RECEIVABLE, debits))


@recipe(Flow.OWING_PAYEE, "A payee wired what we asked for: it repays the debt, any excess is owed back.")
def receive_funding(*, platform: UUID, payee: UUID, repaid: Money, excess: Money) -> tuple[Entry, ...]:
    credits = [(payee, Kind.SELLER_RECEIVABLE, repaid), (payee, Kind.PAYABLE, excess)]
    return balanced(debits=against(platform, Kind.CASH_BANK, credits), credits=credits)


@recipe(Flow.OWING_PAYEE, "We gave up what a payee owes us; it is our loss.")
def write_off_payee_debt(*, platform: UUID, payee: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.BAD_DEBT, amount)], credits=[(payee, Kind.SELLER_RECEIVABLE, amount)]
    )
