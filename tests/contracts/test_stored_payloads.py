"""Payloads as they were stored, one of each operation and version for good: today's code reads them all.

A file is never changed once contracts have been recorded with its versions; a new version gets its own.
"""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from commerce.invariants import REGISTRY as INVARIANTS
from contracts import services
from contracts.models import Contract
from contracts.rules import fold, schema, upcasting
from contracts.rules.fold import Edit
from contracts.rules.operations import NAMES, REGISTRY
from contracts.rules.operations.products import ChangeQuantityOperation
from contracts.rules.upcasting import UnknownVersion
from tests.contracts.conftest import edit
from tests.contracts.test_projection import without_guards

GOLDEN = Path(__file__).parent / "golden"
LINE, BURST = UUID("01956f1c-3c00-7000-8000-000000000011"), UUID("01956f1c-3c00-7000-8000-000000000012")


def stored(name: str = "version_1") -> list[dict[str, Any]]:
    return list(json.loads((GOLDEN / f"{name}.json").read_text()))


def log() -> list[Edit]:
    return [
        Edit(
            seq,
            row["operation"],
            upcasting.load(row["operation"], row["payload"], row["op_version"]),
            datetime.fromisoformat(row["effective_at"]),
            datetime(2027, 1, 1, tzinfo=UTC) + timedelta(seconds=seq),
        )
        for seq, row in enumerate(stored(), 1)
    ]


def test_there_is_a_stored_payload_of_every_operation_and_version() -> None:
    kept = {(row["operation"], row["op_version"]) for path in GOLDEN.iterdir() for row in stored(path.stem)}
    wanted = {(name, n) for name in NAMES for n in range(1, REGISTRY[name].op_version + 1)}
    assert wanted <= kept, wanted - kept


@pytest.mark.parametrize(
    "row",
    [row for path in sorted(GOLDEN.iterdir()) for row in stored(path.stem)],
    ids=lambda row: f"{row['operation']}-{row['op_version']}",
)
def test_what_is_read_is_written_as_it_was(row: dict[str, Any]) -> None:
    parsed = upcasting.load(row["operation"], row["payload"], row["op_version"])
    if row["op_version"] == REGISTRY[row["operation"]].op_version:
        written = schema.dump(parsed)
        assert {name: written[name] for name in row["payload"]} == row["payload"]


def test_the_stored_log_says_what_it_said() -> None:
    steps = fold.timeline(log())
    assert [f"{step.at:%Y-%m-%d}" for step in steps if step.state.status == "active"] == [
        "2027-03-01", "2027-04-01", "2027-04-16", "2027-05-01", "2027-06-01", "2027-07-01", "2027-08-01",
        "2027-08-10", "2027-09-01", "2028-03-01", "2028-04-01",
    ]  # fmt: skip
    assert [
        (f"{step.at:%Y-%m-%d}", step.state.status) for step in steps if step.state.status != "active"
    ] == [("2027-08-05", "suspended"), ("2028-06-01", "terminated")]
    last = steps[-1].state
    assert last.lines[LINE].quantity == 7  # 4, and 3 as the correction says
    assert last.lines[LINE].price.rate == Decimal("17698.50")  # 18,000 less 5 %, and 3.5 % more
    assert [tier.rate for tier in last.lines[BURST].price.tiers] == [Decimal("2.07"), Decimal("1.5525")]
    assert (last.owner_epoch, last.term_no, last.terms.payment.net_days) == (2, 2, 30)
    assert last.discounts == {}
    assert {loan.closed_by for loan in last.financings.values()} == {"payoff"}
    assert fold.moot(log()) == []


def test_an_older_payload_is_read_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if quantities had once been called count, and before that amount."""
    monkeypatch.setattr(ChangeQuantityOperation, "op_version", 3)
    monkeypatch.setattr(upcasting, "_steps", {})

    @upcasting.upcaster("change_quantity", 1)
    def _(payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "count": payload["amount"]}

    @upcasting.upcaster("change_quantity", 2)
    def _(payload: dict[str, Any]) -> dict[str, Any]:
        return {"line_id": payload["line_id"], "quantity": payload["count"]}

    old = {"line_id": str(LINE), "amount": 3}
    assert upcasting.load("change_quantity", old, 1).quantity == 3
    assert upcasting.load("change_quantity", {"line_id": str(LINE), "count": 4}, 2).quantity == 4
    assert old == {"line_id": str(LINE), "amount": 3}
    with pytest.raises(UnknownVersion):
        upcasting.load("change_quantity", old, 4)


@pytest.mark.django_db
def test_a_contract_written_by_a_newer_release_is_read_and_not_edited(
    active: Contract, servers: UUID
) -> None:
    edit(active, "change_quantity", {"line_id": str(servers), "quantity": 3})
    without_guards(
        "UPDATE contracts_contractedit SET op_version = 9 WHERE contract_id = %s AND seq = 5", active.pk
    )
    active.refresh_from_db()
    assert active.current.lines[servers].quantity == 3
    with pytest.raises(UnknownVersion):
        edit(active, "change_quantity", {"line_id": str(servers), "quantity": 4})
    assert services.take_effect_due(at=datetime(2030, 1, 1, tzinfo=UTC)) == 0
    found = [
        finding.detail
        for invariant in INVARIANTS
        if invariant.check.__module__ == "contracts.invariants"
        for finding in invariant.check()
    ]
    assert any("newer" in detail for detail in found)
