"""The server killed while it is written to: `python -m tests.crashes ledger --rounds 50 [--json]`."""
