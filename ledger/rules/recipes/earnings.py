"""What a buyer pays is divided: tax, the platform's fee, and each payee's share; or it is taken back.

As agent the platform's revenue is its fee; as principal it is the whole net, and the payees' shares
are its cost.
"""

from collections.abc import Mapping
from uuid import UUID

from commerce.money import Money
from ledger.rules.kinds import Kind
from ledger.rules.recipes.base import Entry, Flow, Leg, against, balanced, each, recipe


def _drawn(buyer: UUID, downpayment: Money, committed: Money, available: Money) -> list[Leg]:
    return [
        (buyer, Kind.COMMITTED_DOWNPAYMENT, downpayment),
        (buyer, Kind.COMMITTED, committed),
        (buyer, Kind.AVAILABLE, available),
    ]


@recipe(
    Flow.USAGE,
    "An invoice is paid from the wallet and divided: tax, the platform's fee, and holding for each payee.",
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
    return balanced(
        debits=_drawn(buyer, from_downpayment, from_committed, from_available),
        credits=[
            (platform, Kind.TAX_PAYABLE, tax),
            (platform, Kind.PLATFORM_FEES, fee),
            *each(Kind.PAY_IN_HOLDING, payees),
        ],
    )


@recipe(
    Flow.USAGE,
    "An invoice of our own sale is paid from the wallet: the net is our revenue, payees' shares our cost.",
)
def collect_as_principal(
    *,
    platform: UUID,
    buyer: UUID,
    from_downpayment: Money,
    from_committed: Money,
    from_available: Money,
    tax: Money,
    revenue: Money,
    payees: Mapping[UUID, Money],
) -> tuple[Entry, ...]:
    shares = each(Kind.PAY_IN_HOLDING, payees)
    return balanced(
        debits=[
            *_drawn(buyer, from_downpayment, from_committed, from_available),
            *against(platform, Kind.COMPUTE_COSTS, shares),
        ],
        credits=[(platform, Kind.TAX_PAYABLE, tax), (platform, Kind.COMPUTE_REVENUE, revenue), *shares],
    )


@recipe(
    Flow.USAGE, "An invoice with a term of payment is divided at once; until it is paid, the buyer owes it."
)
def bill_on_terms(
    *, platform: UUID, buyer: UUID, tax: Money, fee: Money, payees: Mapping[UUID, Money]
) -> tuple[Entry, ...]:
    credits = [
        (platform, Kind.TAX_PAYABLE, tax),
        (platform, Kind.PLATFORM_FEES, fee),
        *each(Kind.PAY_IN_HOLDING, payees),
    ]
    return balanced(debits=against(buyer, Kind.BUYER_RECEIVABLE, credits), credits=credits)


@recipe(Flow.DOWNPAYMENT, "A buyer broke off; what is left of the downpayment goes to platform and payees.")
def forfeit_downpayment(
    *, platform: UUID, buyer: UUID, fee: Money, payees: Mapping[UUID, Money]
) -> tuple[Entry, ...]:
    credits = [(platform, Kind.PLATFORM_FEES, fee), *each(Kind.PAY_IN_HOLDING, payees)]
    return balanced(debits=against(buyer, Kind.COMMITTED_DOWNPAYMENT, credits), credits=credits)


@recipe(
    Flow.REFUND,
    "A charge is given back to the wallet by all who had a share; a payee paid out already owes it to us.",
)
def refund_charge(
    *,
    platform: UUID,
    buyer: UUID,
    tax: Money,
    fee: Money,
    payees: Mapping[UUID, Money],
    owed: Mapping[UUID, Money],
) -> tuple[Entry, ...]:
    debits = [
        (platform, Kind.TAX_PAYABLE, tax),
        (platform, Kind.PLATFORM_FEES, fee),
        *each(Kind.PAY_IN_HOLDING, payees),
        *each(Kind.SELLER_RECEIVABLE, owed),
    ]
    return balanced(debits=debits, credits=against(buyer, Kind.AVAILABLE, debits))


@recipe(Flow.TAX, "Collected tax was paid to the authority.")
def remit_tax(*, platform: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.TAX_PAYABLE, amount)], credits=[(platform, Kind.CASH_BANK, amount)]
    )


@recipe(Flow.REFERRAL, "A partner earned a commission, which is our expense; it seasons as well.")
def accrue_referral(*, platform: UUID, partner: UUID, amount: Money) -> tuple[Entry, ...]:
    return balanced(
        debits=[(platform, Kind.REFERRAL_COMMISSIONS, amount)],
        credits=[(partner, Kind.PAY_IN_HOLDING, amount)],
    )


@recipe(
    Flow.REFERRAL, "A commission is taken back with its charge; a partner paid out already owes it to us."
)
def claw_back_referral(
    *, platform: UUID, partner: UUID, from_holding: Money, owed: Money
) -> tuple[Entry, ...]:
    debits = [(partner, Kind.PAY_IN_HOLDING, from_holding), (partner, Kind.SELLER_RECEIVABLE, owed)]
    return balanced(debits=debits, credits=against(platform, Kind.REFERRAL_COMMISSIONS, debits))
