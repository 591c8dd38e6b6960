"""The verbs of payouts: settle an invoice, release its legs, pay payees, follow the bank."""

from payouts.services.bank import (
    poll_payout,
    poll_payouts,
    poll_settlement,
    read_order,
    read_return,
    record_order,
    request_poll,
    request_settlement_poll,
    submit_payout,
)
from payouts.services.giving_up import give_up_payout, giving_up_means, request_giving_up, why_not_give_up
from payouts.services.payees import policy_of, set_policy, unblock_account, wake_payee
from payouts.services.payouts import (
    approve_payout,
    cancel_payout,
    pay_due,
    payables,
    reject_payout,
    release_leg,
    request_payout,
    unanswered_payouts,
    unresolved_payouts,
)
from payouts.services.settlements import follow_release, hold_leg, lift_leg, plan_settlement

__all__ = [
    "approve_payout",
    "cancel_payout",
    "follow_release",
    "give_up_payout",
    "giving_up_means",
    "hold_leg",
    "lift_leg",
    "pay_due",
    "payables",
    "plan_settlement",
    "policy_of",
    "poll_payout",
    "poll_payouts",
    "poll_settlement",
    "read_order",
    "read_return",
    "record_order",
    "reject_payout",
    "release_leg",
    "request_giving_up",
    "request_payout",
    "request_poll",
    "request_settlement_poll",
    "set_policy",
    "submit_payout",
    "unanswered_payouts",
    "unblock_account",
    "unresolved_payouts",
    "wake_payee",
    "why_not_give_up",
]
