"""What payees get: settlements split into legs, the payouts that pay them, and each payee's policy."""

from payouts.models.payouts import (
    AT_THE_BANK,
    CAME_BACK,
    MONEY_UNDER_WAY,
    WITHOUT_ORDER,
    Payout,
    PayoutItem,
    PayoutQuerySet,
    new_references,
)
from payouts.models.policies import PayeePolicy
from payouts.models.settlements import Settlement, SettlementLeg

__all__ = [
    "AT_THE_BANK",
    "CAME_BACK",
    "MONEY_UNDER_WAY",
    "WITHOUT_ORDER",
    "PayeePolicy",
    "Payout",
    "PayoutItem",
    "PayoutQuerySet",
    "Settlement",
    "SettlementLeg",
    "new_references",
]
