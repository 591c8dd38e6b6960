"""The ledger listens to nobody; these of its events are for the outside."""

from commerce.outbox import external

external(
    "ledger.release_held",
    "ledger.release_lifted",
    "ledger.release_cancelled",
    "ledger.period_closing",
    "ledger.period_closed",
    "ledger.period_reopened",
)
