"""suspend and resume in full: reduced billing, holds that end by themselves or extend the term, scopes."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from contracts.rules.fold import Edit, fold, timeline
from contracts.rules.segments import billable_segments
from contracts.rules.state import Hold
from tests.contracts.operating import ACTIVE, BUYER, HOURS, NOW, SELLER, SERVERS, admit, days, parsed, refusal

END = ACTIVE.end_at
assert END is not None
BUYERS = {"reason": "buyer"}


def held(*payloads: dict[str, Any]) -> Any:
    """ACTIVE with holds, the first one since NOW, each a day after the one before."""
    state = ACTIVE
    for i, payload in enumerate(payloads):
        state = admit(state, "suspend", payload, at=NOW + days(i))
    return state


def test_a_hold_says_what_is_billed_what_is_open_and_when_it_ends() -> None:
    payload = {
        "reason": "seller_fault", "billing": "reduced", "reduced_to": "0.25", "access": "keep",
        "term": "extend_on_resume", "resume_at": "2027-07-01T00:00:00Z",
    }  # fmt: skip
    after = admit(ACTIVE, "suspend", payload)
    assert after.holds == (
        Hold("seller_fault", "all", "reduced", "keep", NOW, Decimal("0.25"), True,
             datetime(2027, 7, 1, tzinfo=UTC)),
    )  # fmt: skip
    assert after.billing_share(after.lines[SERVERS]) == Decimal("0.25")


@pytest.mark.parametrize(
    ("payload", "code", "pointer"),
    [
        ({"billing": "reduced"}, "required", "/reduced_to"),
        ({"billing": "stop", "reduced_to": "0.5"}, "field_misplaced", "/reduced_to"),
        ({"billing": "reduced", "reduced_to": "1.1"}, "out_of_range", "/reduced_to"),
        ({"resume_at": NOW.isoformat()}, "resume_before_suspend", "/resume_at"),
        ({"term": "extend_on_resume", "scope": [str(SERVERS)]}, "scope_invalid", "/term"),
        ({"scope": []}, "line_not_found", "/scope"),
        ({"scope": [str(BUYER)]}, "line_not_found", "/scope/0"),
        ({"reason": "maintenance", "notice_given_at": (NOW - days(2.9)).isoformat()},
         "min_notice", "/notice_given_at"),
    ],
)  # fmt: skip
def test_what_is_not_a_hold(payload: dict[str, Any], code: str, pointer: str) -> None:
    assert refusal(ACTIVE, "suspend", {**BUYERS, **payload}) == (code, pointer)


def test_maintenance_is_announced_three_days_before() -> None:
    payload = {"reason": "maintenance", "notice_given_at": (NOW - days(3)).isoformat()}
    assert admit(ACTIVE, "suspend", payload).holds


def test_a_reason_holds_once_and_is_lifted_once() -> None:
    state = held(BUYERS)
    assert refusal(state, "suspend", BUYERS) == ("already_suspended_for_reason", "/reason")
    assert refusal(state, "resume", {"reason": "abuse"}) == ("not_suspended", "/reason")
    assert admit(state, "resume", BUYERS) == ACTIVE


def test_a_hold_is_lifted_from_some_of_its_lines() -> None:
    state = held(BUYERS)
    after = admit(state, "resume", {**BUYERS, "scope": [str(HOURS)]})
    assert (after.status, after.holds[0].scope) == ("active", (SERVERS,))
    again = {**BUYERS, "scope": [str(HOURS)]}
    assert refusal(after, "resume", again) == ("not_suspended", "/scope/0")
    assert admit(after, "resume", {**BUYERS, "scope": [str(SERVERS)]}) == ACTIVE


def test_a_hold_is_over_when_all_lines_that_are_left_go_on() -> None:
    state = admit(held(BUYERS), "remove_product", {"line_id": str(HOURS)})
    whole = {**BUYERS, "scope": [str(SERVERS), str(HOURS)]}
    named = admit(admit(ACTIVE, "suspend", whole), "remove_product", {"line_id": str(HOURS)})
    for one in (state, named):
        after = admit(one, "resume", {**BUYERS, "scope": [str(SERVERS)]}, at=NOW + days(1))
        assert (after.holds, after.status) == ((), "active")
        assert admit(after, "suspend", BUYERS, at=NOW + days(2)).status == "suspended"


def test_what_a_hold_lasted_is_added_to_the_term_if_that_was_agreed() -> None:
    extending = {**BUYERS, "term": "extend_on_resume"}
    later = NOW + days(30)
    assert admit(held(extending), "resume", BUYERS, at=later).end_at == END + days(30)
    assert admit(held(BUYERS), "resume", BUYERS, at=later).end_at == END
    assert admit(held(BUYERS), "resume", {**BUYERS, "extend_term": True}, at=later).end_at == END + days(30)
    assert admit(held(extending), "resume", {**BUYERS, "extend_term": False}, at=later).end_at == END
    evergreen = replace(held(extending), end_at=None)
    assert admit(evergreen, "resume", BUYERS, at=later).end_at is None


def test_a_hold_on_some_lines_extends_no_term() -> None:
    some = held({**BUYERS, "scope": [str(SERVERS)]})
    longer = {**BUYERS, "extend_term": True}
    assert refusal(some, "resume", longer, at=NOW + days(9)) == ("scope_invalid", "/extend_term")
    assert admit(some, "resume", {**BUYERS, "extend_term": False}, at=NOW + days(9)).end_at == END
    whole = held({**BUYERS, "term": "extend_on_resume"})
    left = admit(whole, "resume", {**BUYERS, "scope": [str(HOURS)]}, at=NOW + days(3))
    assert admit(left, "resume", longer, at=NOW + days(9)).end_at == END + days(9)


@pytest.mark.parametrize("first", ["buyer", "abuse"])
def test_days_that_two_holds_share_are_added_once(first: str) -> None:
    """The buyer's hold from day 0, the other from day 1; lifted on days 10 and 20."""
    state = held(*({"reason": reason, "term": "extend_on_resume"} for reason in ("buyer", "abuse")))
    second = "abuse" if first == "buyer" else "buyer"
    state = admit(state, "resume", {"reason": first}, at=NOW + days(10))
    state = admit(state, "resume", {"reason": second}, at=NOW + days(20))
    assert state.end_at == END + days(20)


def log(*steps: tuple[str, dict[str, Any], datetime]) -> list[Edit]:
    line = {"line_id": str(SERVERS), "product": "h100", "seller_id": str(SELLER), "quantity": 1,
            "price": {"model": "unit", "rate": "100"}}  # fmt: skip
    create = {"buyer_id": str(BUYER), "currency": "USD", "start_at": "2027-01-01T00:00:00Z",
              "term": {"kind": "fixed", "months": 12}, "lines": [line]}  # fmt: skip
    first = datetime(2027, 1, 1, tzinfo=UTC)
    begun = [("create", create, first)]
    begun += [("activate", {"stage": stage}, first) for stage in ("submit", "signed", "live")]
    return [
        Edit(seq, name, parsed(name, payload), at, at)
        for seq, (name, payload, at) in enumerate([*begun, *steps], 1)
    ]


def month(number: int) -> datetime:
    return datetime(2027, number, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("resume", "basic", "premium"), [(5, [(1, 4), (5, 6)], [(6, 13)]), (7, [(1, 4)], [(7, 13)])]
)
def test_a_future_edit_inside_a_suspension_bills_from_the_resume(
    resume: int, basic: list[Any], premium: list[Any]
) -> None:
    """ZU-03: Basic from January, Premium from June, suspended in April, resumed in May or in July."""
    edits = log(
        ("change_quantity", {"line_id": str(SERVERS), "quantity": 2}, month(6)),
        ("suspend", {**BUYERS, "billing": "stop"}, month(4)),
        ("resume", BUYERS, month(resume)),
    )
    end = datetime(2028, 1, 1, tzinfo=UTC)
    found = billable_segments(edits, start=month(1), end=end)
    months = [(s.quantity, s.valid_from.month, s.valid_to.month + (s.valid_to == end) * 12) for s in found]
    assert months == [(1, *span) for span in basic] + [(2, *span) for span in premium]


def test_a_term_does_not_run_out_while_a_hold_extends_it() -> None:
    extending = {**BUYERS, "term": "extend_on_resume"}
    suspended = log(("suspend", extending, month(12)))
    end = datetime(2028, 1, 1, tzinfo=UTC)
    assert fold(suspended, valid_at=end + days(5)).status == "suspended"
    resumed = log(("suspend", extending, month(12)), ("resume", BUYERS, end + days(9)))
    assert fold(resumed, valid_at=end + days(39)).status == "active"
    assert timeline(resumed)[-1].state.status == "expired"
    assert timeline(resumed)[-1].at == end + days(40)
    runs_on = log(("suspend", BUYERS, month(12)))
    assert fold(runs_on, valid_at=end).status == "expired"
