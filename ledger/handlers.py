"""The ledger listens to nobody; these of its events are for the outside."""

from commerce.outbox import external

external("ledger.release_held", "ledger.release_lifted", "ledger.release_cancelled")
