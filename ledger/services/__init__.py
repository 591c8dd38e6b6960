"""The ledger's verbs. Everything that moves money goes through `post` and its kin."""

from ledger.services.balances import (
    AccountBalance,
    Statement,
    StatementLine,
    account_balances,
    balance,
    balances,
    entries_of,
    statement,
    statement_line,
)
from ledger.services.posting import (
    Posting,
    discard_pending,
    open_accounts,
    post,
    post_all,
    post_pending,
    reverse,
    settle_pending,
)
from ledger.services.releases import cancel_release, hold_release, lift_release, release_due, schedule_release

__all__ = [
    "AccountBalance",
    "Posting",
    "Statement",
    "StatementLine",
    "account_balances",
    "balance",
    "balances",
    "cancel_release",
    "discard_pending",
    "entries_of",
    "hold_release",
    "lift_release",
    "open_accounts",
    "post",
    "post_all",
    "post_pending",
    "release_due",
    "reverse",
    "schedule_release",
    "settle_pending",
    "statement",
    "statement_line",
]
