"""The schedule of a contract: planned with its log, done once, as of its own instants."""

from typing import Any

from contracts.models import Contract
from tests.contracts.conftest import edit
from tests.contracts.scheduling import day, renewing, rows, tick, tick_through


def test_monthly_terms_from_the_31st_clamp_and_return_and_downtime_loses_none(payload: dict[str, Any]) -> None:
    """OW-13: down from 20 February to 5 April."""
    contract = renewing(payload)
    tick_through(day("2026-01-31"), day("2026-02-19"))
    assert rows(contract, kind="renewal") == [("renew:2", "2026-02-28", "planned")]

    assert tick(day("2026-04-05")) == 4  # each renewal after the last moment to opt out of it

    assert rows(contract, kind="renewal") == [
        ("renew:2", "2026-02-28", "done"),
        ("renew:3", "2026-03-31", "done"),
        ("renew:4", "2026-04-30", "planned"),
    ]
    renewals = contract.edits.filter(operation="renew").order_by("seq")
    assert [f"{row.effective_at:%Y-%m-%d}" for row in renewals] == ["2026-02-28", "2026-03-31"]
    contract.refresh_from_db()
    assert (contract.status, contract.end_at) == ("active", day("2026-04-30"))
    assert tick(day("2026-04-05")) == 0
    assert tick(day("2026-04-30")) == 2
    contract.refresh_from_db()
    assert contract.end_at == day("2026-05-31")
