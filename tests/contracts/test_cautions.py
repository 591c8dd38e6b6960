"""What a preview warns of, the same through both doors: allowed, and likely to surprise."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.test import Client

from contracts.models import Contract, ContractEdit
from contracts.services import OperationRequest, preview_edits
from tests.contracts.conftest import MARCH, OPERATOR, create, edit
from tests.contracts.console.conftest import browser, form_of, hidden
from tests.contracts.test_doors import Api, platform

__all__ = ["browser", "platform"]
pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
NOW = MARCH + 20 * DAY
VOLUME = {"model": "volume", "tiers": [{"up_to": "10", "rate": "100.00"}, {"up_to": None, "rate": "90.00"}]}


def warned(contract: Contract, *operations: OperationRequest) -> list[str]:
    before = ContractEdit.objects.count()
    found = preview_edits(
        contract_id=contract.pk, operations=operations, actor=OPERATOR, at=NOW, expected_version=None
    ).warnings
    assert ContractEdit.objects.count() == before
    return found


def more(servers: UUID, **payload: Any) -> dict[str, Any]:
    return {"line_id": str(servers), **payload}


def test_a_back_dated_change_names_the_edits_that_hide_it(active: Contract, servers: UUID) -> None:
    edit(active, "change_quantity", more(servers, quantity=5), at=MARCH + 10 * DAY)
    edit(active, "change_quantity", more(servers, delta=1), at=MARCH + 12 * DAY)
    late = OperationRequest("change_quantity", more(servers, delta=2), MARCH + 5 * DAY, "Forgotten")
    [said] = warned(active, late)
    assert (
        said == "The change of h100-server by +2 is hidden by what counts later: #5 sets 5 from 11 Mar 2027."
    )
    pinned = OperationRequest("change_quantity", more(servers, quantity=4), MARCH + 5 * DAY, "Forgotten")
    assert warned(active, pinned) == [], "a number says itself until when it holds"
    after = OperationRequest("change_quantity", more(servers, delta=2), MARCH + 11 * DAY, "Forgotten")
    assert warned(active, after) == []


def test_a_pin_that_was_voided_or_is_of_another_line_hides_nothing(
    payload: dict[str, Any], servers: UUID
) -> None:
    other = {**payload["lines"][0], "line_id": str(UUID(int=77))}
    payload["lines"].append(other)
    contract = create(payload).contract
    for stage in ("submit", "signed", "live"):
        contract = edit(contract, "activate", {"stage": stage}).contract
    edit(contract, "change_quantity", more(UUID(int=77), quantity=5), at=MARCH + 10 * DAY)
    edit(contract, "change_quantity", more(servers, quantity=5), at=MARCH + 10 * DAY)
    late = OperationRequest("change_quantity", more(servers, delta=2), MARCH + 5 * DAY, "Forgotten")
    assert len(warned(contract, late)) == 1
    void = OperationRequest("correct", {"target_seq": 6, "mode": "void"}, reason="Never ordered")
    assert warned(contract, void, late) == []


def test_a_correction_that_makes_an_edit_a_change_is_looked_at_too(active: Contract, servers: UUID) -> None:
    edit(active, "change_quantity", more(servers, quantity=3), at=MARCH + 5 * DAY)
    edit(active, "change_quantity", more(servers, quantity=5), at=MARCH + 10 * DAY)
    instead = {"target_seq": 5, "mode": "replace", "replacement": {"payload": more(servers, delta=4)}}
    said = warned(active, OperationRequest("correct", instead, reason="Typed wrong"))
    assert any("by +4 is hidden" in one and "#6 sets 5" in one for one in said)


def test_a_volume_price_whose_total_falls_as_units_rise_is_said_with_both_totals(
    payload: dict[str, Any], servers: UUID
) -> None:
    payload["lines"][0] |= {"price": VOLUME, "quantity": 10}
    contract = create(payload).contract
    cheaper = OperationRequest("change_quantity", more(servers, delta=1))
    [said] = warned(contract, cheaper)
    assert said.startswith("10 of h100-server cost 1,000.00 USD a month, 11 cost 990.00 USD:")
    assert warned(contract, OperationRequest("change_quantity", more(servers, delta=2))) == []
    assert warned(contract, OperationRequest("change_quantity", more(servers, delta=-1))) == []


def test_what_a_volume_price_costs_is_bounded_by_the_contracts_own_period(
    payload: dict[str, Any], servers: UUID
) -> None:
    """A quarter's maximum of 2,985.00 is 995.00 a month: 1,000.00 fall to 990.00 by 5.00 of it only."""
    payload["lines"][0] |= {"price": {**VOLUME, "max_minor": 298_500}, "quantity": 10}
    payload["billing"] = {**payload.get("billing", {}), "cadence": "P3M"}
    contract = create(payload).contract
    [said] = warned(contract, OperationRequest("change_quantity", more(servers, delta=1)))
    assert said.startswith("10 of h100-server cost 995.00 USD a month, 11 cost 990.00 USD:")
    payload["lines"][0]["price"]["max_minor"] = 290_000
    bounded = create(payload).contract
    assert warned(bounded, OperationRequest("change_quantity", more(servers, delta=1))) == []


def test_a_hold_that_remains_is_said_through_both_doors(
    active: Contract, platform: Api, browser: Callable[[str], Client], clock: Any
) -> None:
    edit(active, "suspend", {"reason": "legal"}, at=MARCH + DAY)
    edit(active, "suspend", {"reason": "buyer"}, at=MARCH + 2 * DAY)
    clock(NOW)
    body = {"operation": "resume", "payload": {"reason": "buyer"}}
    answer = platform.post(f"contracts/{active.pk}/preview/", body).json()
    assert "1 other hold remains." in answer["warnings"]
    batch = platform.post(f"contracts/{active.pk}/batches/preview/", {"operations": [body]}).json()
    assert batch["warnings"] == answer["warnings"]
    operator = browser("operator")
    filled = hidden(operator.get(form_of(active, "resume"))) | {
        "payload.reason": "buyer",
        "payload.scope": [],
    }
    page = operator.post(form_of(active, "resume"), {**filled, "reason": "Agreed", "step": "preview"})
    for said in answer["warnings"]:
        assert said in page.content.decode()
    both = [OperationRequest("resume", {"reason": reason}) for reason in ("buyer", "legal")]
    for operations in (both, [OperationRequest("suspend", {"reason": "abuse"})]):
        assert not any("remain" in one for one in warned(active, *operations))


def test_what_is_plain_is_warned_of_by_nothing(active: Contract, servers: UUID) -> None:
    assert warned(active, OperationRequest("change_quantity", more(servers, delta=1))) == []
    assert warned(active, OperationRequest("change_terms", {"references": {"notes": "one"}})) == []


def test_periods_that_are_over_are_named(active: Contract, servers: UUID) -> None:
    late = OperationRequest("change_quantity", more(servers, delta=1), MARCH + DAY, "Forgotten")
    assert warned(active, late) == []
    found = preview_edits(
        contract_id=active.pk, operations=[late], actor=OPERATOR, at=MARCH + 40 * DAY, expected_version=None
    )
    assert [one for one in found.warnings if one.startswith("Periods that are over change")]
