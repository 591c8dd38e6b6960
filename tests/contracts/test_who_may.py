"""What a buyer's own key may record, and what is asked whoever records it."""

from copy import deepcopy
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from commerce.errors import Conflict
from commerce.parties.models import Organization
from commerce.states import transition
from contracts.models import Contract
from tests.contracts.conftest import MARCH, OPERATOR, Parties, create, edit
from tests.contracts.scheduling import day, renewing, tick
from tests.contracts.test_doors import Api, operate
from tests.contracts.test_schedule import guarded

pytestmark = pytest.mark.django_db


@pytest.fixture
def platform(parties: Parties) -> Api:
    return Api(Organization.objects.platform())


@pytest.fixture
def buyer(parties: Parties) -> Api:
    return Api(parties.buyer)


def live(payload: dict[str, Any]) -> Contract:
    contract = create(payload).contract
    for stage in ("submit", "signed", "live"):
        contract = edit(contract, "activate", {"stage": stage}).contract
    return contract


def asked(api: Api, contract: Contract, operation: str, payload: dict[str, Any], **more: Any) -> str:
    """The code with which an operation and its preview are refused; empty when both are not."""
    done = contract.edits.count()
    preview = api.post(
        f"contracts/{contract.pk}/preview/", {"operation": operation, "payload": payload, **more}
    )
    recorded = operate(api, contract, operation, payload, **more)
    if recorded.status_code == 201:
        assert preview.status_code == 200, preview.json()
        return ""
    assert contract.edits.count() == done
    code: str = recorded.json()["code"]
    if code != "approval_required":
        assert (preview.status_code, preview.json()["code"]) == (recorded.status_code, code)
        assert preview.json()["errors"] == recorded.json()["errors"]
    else:
        assert preview.json()["approval"]
    return code


# Dates


def test_a_buyers_key_records_nothing_in_the_past(
    platform: Api, buyer: Api, active: Contract, servers: UUID, clock: Any
) -> None:
    clock(MARCH + timedelta(days=25))
    none = {"line_id": str(servers), "quantity": 0}
    back = {"effective_at": "2027-03-01T00:00:00Z", "reason": "We used none."}
    assert asked(buyer, active, "change_quantity", none, **back) == "backdate_limit"
    desired = f"contracts/{active.pk}/desired-lines/?start=2027-03-01T00:00:00Z&end=2027-04-01T00:00:00Z"
    assert buyer.get(desired).json()["net"]["amount_minor"] == 3_600_000
    ahead = {"effective_at": "2027-03-27T00:00:00Z"}
    assert asked(buyer, active, "change_quantity", none, **ahead) == ""
    assert asked(platform, active, "change_quantity", {**none, "quantity": 1}, **back) == ""


def test_a_trial_that_is_over_is_not_left_by_a_date(buyer: Api, payload: dict[str, Any], clock: Any) -> None:
    contract = live({**payload, "trial": {"days": 10}})
    clock(day("2027-04-05"))
    tick(day("2027-04-05"))
    back = {"effective_at": "2027-03-10T00:00:00Z", "reason": "On trial"}
    assert asked(buyer, contract, "terminate", {"when": "date"}, **back) == "backdate_limit"
    assert Contract.objects.get(pk=contract.pk).status == "active"


def test_who_opts_out_says_so_in_time_whatever_the_date_of_it(
    platform: Api, buyer: Api, payload: dict[str, Any], clock: Any
) -> None:
    contract = renewing(payload, "2027-03-01", months=2, renewal={"notice_days": 30, "opt_out_days": 20})
    out = {"renewal": {"auto": False}}
    back = {"effective_at": "2027-04-05T00:00:00Z", "reason": "We meant to."}
    clock(day("2027-04-11"))
    in_time = {"operation": "change_terms", "payload": out, **back}
    assert platform.post(f"contracts/{contract.pk}/preview/", in_time).status_code == 200
    clock(day("2027-04-20"))
    assert asked(buyer, contract, "change_terms", out) == "opt_out_too_late"
    assert asked(buyer, contract, "change_terms", out, **back) == "backdate_limit"
    assert asked(platform, contract, "change_terms", out, **back) == "opt_out_too_late"


def test_a_date_of_going_live_is_refused_where_it_was_said(
    platform: Api, payload: dict[str, Any], clock: Any
) -> None:
    contract = create({**payload, "start_at": "2027-03-10T00:00:00Z"}).contract
    for stage in ("submit", "signed"):
        edit(contract, "activate", {"stage": stage})
    clock(MARCH + timedelta(days=20))
    dates = {"stage": "live", "contract_effective_at": "2027-03-05T00:00:00Z"}
    for body, place in (
        ({"payload": dates}, "/payload/contract_effective_at"),
        ({"payload": {"stage": "live"}, "effective_at": "2027-03-05T00:00:00Z"}, "/effective_at"),
    ):
        refused = operate(platform, contract, "activate", body.pop("payload"), reason="Late", **body)
        assert [(error["code"], error["pointer"]) for error in refused.json()["errors"]] == [
            ("effective_before_start", place)
        ]


# What a buyer is bound to


def test_a_buyer_leaves_no_minimum_term_by_ordering_fewer(
    platform: Api, buyer: Api, payload: dict[str, Any], servers: UUID, clock: Any
) -> None:
    body = deepcopy(payload)
    body["lines"][0]["min_term_months"] = 6
    contract = live(body)
    clock(MARCH + timedelta(days=2))
    line = {"line_id": str(servers)}
    assert asked(buyer, contract, "remove_product", line) == "min_term_not_met"
    for fewer in (
        {"quantity": 0},
        {"quantity": 1},
        {"delta": -1},
        {"quantity": 1, "proration": "next_period"},
    ):
        assert asked(buyer, contract, "change_quantity", {**line, **fewer}) == "approval_required"
        assert asked(platform, contract, "change_quantity", {**line, **fewer}) == "approval_required"
    after = {"effective_at": "2027-09-01T00:00:00Z"}
    assert asked(buyer, contract, "change_quantity", {**line, "quantity": 1}, **after) == ""
    assert asked(buyer, contract, "change_quantity", {**line, "quantity": 3}) == ""


def test_on_trial_and_without_a_minimum_term_fewer_may_be_ordered(
    buyer: Api, payload: dict[str, Any], servers: UUID, clock: Any
) -> None:
    body = deepcopy(payload) | {"trial": {"days": 10}}
    body["lines"][0]["min_term_months"] = 6
    clock(MARCH + timedelta(days=2))
    assert asked(buyer, live(body), "change_quantity", {"line_id": str(servers), "quantity": 1}) == ""


# Renewals by the buyer


def test_a_buyers_own_renewal_asks_what_the_clocks_does(
    platform: Api, buyer: Api, payload: dict[str, Any], parties: Parties, clock: Any
) -> None:
    contract = renewing(payload, "2027-03-01", months=2)
    clock(MARCH + timedelta(days=2))
    seller = transition(parties.seller, "activate", actor=OPERATOR, at=MARCH)
    transition(seller, "suspend", actor=OPERATOR, at=MARCH, reason="Fraud")
    assert asked(buyer, contract, "renew", {"term_months": 120}) == "seller_declined"
    assert asked(platform, contract, "renew", {"term_months": 12}) == ""


def test_a_buyers_own_renewal_is_asked_of_other_apps_too(
    platform: Api, buyer: Api, payload: dict[str, Any], clock: Any
) -> None:
    contract = renewing(payload, "2027-03-01", months=2)
    clock(MARCH + timedelta(days=2))

    def refuse(*_: Any) -> None:
        raise Conflict("Two invoices are overdue.", code="past_due_block")

    with guarded(refuse):
        assert asked(buyer, contract, "renew", {}) == "past_due_block"
        assert asked(platform, contract, "renew", {}) == ""


def test_the_window_to_opt_out_is_refused_at_its_field(
    platform: Api, payload: dict[str, Any], clock: Any
) -> None:
    contract = renewing(payload, "2027-03-01", months=2)
    clock(MARCH + timedelta(days=2))
    early = operate(platform, contract, "renew", {"trigger": "auto"})
    assert (early.status_code, early.json()["code"]) == (409, "notice_window_open")
    assert [error["pointer"] for error in early.json()["errors"]] == ["/payload/trigger"]
