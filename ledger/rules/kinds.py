"""The chart of accounts: which kinds exist, what each is, and which may not fall below zero.

The normal side is the side on which a balance is counted as positive. Wallet and payee accounts have
a floor of zero; the platform's own accounts take every posting and have none.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class AccountClass(StrEnum):
    ASSET = "asset"
    LIABILITY = "liability"
    REVENUE = "revenue"
    EXPENSE = "expense"
    MEMO = "memo"


class Side(StrEnum):
    DEBIT = "debit"
    CREDIT = "credit"


class Kind(StrEnum):
    # owed to buyers
    AVAILABLE = "AVAILABLE"
    COMMITTED = "COMMITTED"
    COMMITTED_DOWNPAYMENT = "COMMITTED_DOWNPAYMENT"
    DISPUTE_HOLD = "DISPUTE_HOLD"
    REFUND_PAYABLE = "REFUND_PAYABLE"
    # owed to payees
    PAY_IN_HOLDING = "PAY_IN_HOLDING"
    RESERVE = "RESERVE"
    PAYABLE = "PAYABLE"
    PAYOUT_IN_TRANSIT = "PAYOUT_IN_TRANSIT"
    PAYEE_DISPUTE_HOLD = "PAYEE_DISPUTE_HOLD"
    # assets
    CASH_BANK = "CASH_BANK"
    CASH_PROCESSOR = "CASH_PROCESSOR"
    CRYPTO = "CRYPTO"
    SETTLEMENT_RECEIVABLE = "SETTLEMENT_RECEIVABLE"
    PROCESSOR_RESERVE = "PROCESSOR_RESERVE"
    BUYER_RECEIVABLE = "BUYER_RECEIVABLE"
    SELLER_RECEIVABLE = "SELLER_RECEIVABLE"
    DISPUTE_RECEIVABLE = "DISPUTE_RECEIVABLE"
    FINANCING_RECEIVABLE = "FINANCING_RECEIVABLE"
    FX_POSITION = "FX_POSITION"
    # owed by the platform
    TAX_PAYABLE = "TAX_PAYABLE"
    UNAPPLIED_CASH = "UNAPPLIED_CASH"
    ACCRUED_PROCESSING_FEES = "ACCRUED_PROCESSING_FEES"
    # revenue, contra-revenue, expense
    PLATFORM_FEES = "PLATFORM_FEES"
    COMPUTE_REVENUE = "COMPUTE_REVENUE"
    HOSTING_FEES = "HOSTING_FEES"
    FINANCING_INTEREST = "FINANCING_INTEREST"
    LATE_FEES = "LATE_FEES"
    PROMOTIONS = "PROMOTIONS"
    SLA_CREDITS = "SLA_CREDITS"
    COMPUTE_COSTS = "COMPUTE_COSTS"
    PROCESSING_FEES = "PROCESSING_FEES"
    REFERRAL_COMMISSIONS = "REFERRAL_COMMISSIONS"
    CRYPTO_SLIPPAGE = "CRYPTO_SLIPPAGE"
    FX_SPREAD = "FX_SPREAD"
    CHARGEBACK_LOSS = "CHARGEBACK_LOSS"
    BAD_DEBT = "BAD_DEBT"
    # memo
    NOTIONAL = "NOTIONAL"
    NOTIONAL_GRANTED = "NOTIONAL_GRANTED"

    @property
    def label(self) -> str:
        """As people read it: "Pay-in holding"."""
        first, *others = self.value.replace("PAY_IN", "PAY-IN").split("_")
        return " ".join([first if first in ("FX", "SLA") else first.capitalize(), *map(str.lower, others)])

    @property
    def nature(self) -> "Nature":
        return _NATURES[self]


@dataclass(frozen=True)
class Nature:
    """What an account of some kind is.

    `floor` is credit-side minor units, None for no condition. `stripes` is over how many rows the
    balance is spread, so that writers of the platform's own accounts do not queue; a floor needs one row.
    """

    account_class: AccountClass
    normal: Side
    floor: int | None = None
    stripes: int = 1


WALLET = (Kind.AVAILABLE, Kind.COMMITTED, Kind.COMMITTED_DOWNPAYMENT)
BUYER = (*WALLET, Kind.DISPUTE_HOLD, Kind.REFUND_PAYABLE)
PAYEE = (Kind.PAY_IN_HOLDING, Kind.RESERVE, Kind.PAYABLE, Kind.PAYOUT_IN_TRANSIT, Kind.PAYEE_DISPUTE_HOLD)
_HOT_ASSETS = (
    Kind.CASH_BANK,
    Kind.CASH_PROCESSOR,
    Kind.CRYPTO,
    Kind.SETTLEMENT_RECEIVABLE,
    Kind.PROCESSOR_RESERVE,
    Kind.DISPUTE_RECEIVABLE,
    Kind.FX_POSITION,
)
_CLAIMS = (Kind.BUYER_RECEIVABLE, Kind.SELLER_RECEIVABLE, Kind.FINANCING_RECEIVABLE)
_PLATFORM_LIABILITIES = (Kind.TAX_PAYABLE, Kind.UNAPPLIED_CASH, Kind.ACCRUED_PROCESSING_FEES)
_REVENUE = (
    Kind.PLATFORM_FEES,
    Kind.COMPUTE_REVENUE,
    Kind.HOSTING_FEES,
    Kind.FINANCING_INTEREST,
    Kind.LATE_FEES,
)
_CONTRA_REVENUE = (Kind.PROMOTIONS, Kind.SLA_CREDITS)
_EXPENSE = (
    Kind.COMPUTE_COSTS,
    Kind.PROCESSING_FEES,
    Kind.REFERRAL_COMMISSIONS,
    Kind.CRYPTO_SLIPPAGE,
    Kind.FX_SPREAD,
    Kind.CHARGEBACK_LOSS,
    Kind.BAD_DEBT,
)

_HOT = 16
_ASSET = Nature(AccountClass.ASSET, Side.DEBIT)

_NATURES: dict[Kind, Nature] = {
    **dict.fromkeys((*BUYER, *PAYEE), Nature(AccountClass.LIABILITY, Side.CREDIT, floor=0)),
    **dict.fromkeys(_HOT_ASSETS, replace(_ASSET, stripes=_HOT)),
    **dict.fromkeys(_CLAIMS, _ASSET),
    **dict.fromkeys(_PLATFORM_LIABILITIES, Nature(AccountClass.LIABILITY, Side.CREDIT, stripes=_HOT)),
    **dict.fromkeys(_REVENUE, Nature(AccountClass.REVENUE, Side.CREDIT, stripes=_HOT)),
    **dict.fromkeys(_CONTRA_REVENUE, Nature(AccountClass.REVENUE, Side.DEBIT, stripes=_HOT)),
    **dict.fromkeys(_EXPENSE, Nature(AccountClass.EXPENSE, Side.DEBIT, stripes=_HOT)),
    Kind.NOTIONAL: Nature(AccountClass.MEMO, Side.CREDIT),
    Kind.NOTIONAL_GRANTED: Nature(AccountClass.MEMO, Side.DEBIT, stripes=_HOT),
}
