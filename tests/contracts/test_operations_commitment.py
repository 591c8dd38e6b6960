"""set_commitment: minimums over windows, prepayment, and what may not be counted twice."""

from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from contracts.rules.state import Amount, Billing, Commitment
from tests.contracts.operating import (
    ACTIVE,
    DRAFT,
    HOURS,
    LINES,
    NOW,
    SERVERS,
    SIGNED,
    START,
    admit,
    approval,
    days,
    refusal,
)

ID, OTHER = UUID(int=60), UUID(int=61)
SPEND = {"commitment_id": str(ID), "kind": "minimum_spend", "amount_minor": 5_850_000}
UNITS = {"commitment_id": str(ID), "kind": "minimum_quantity", "units": "30000", "scope": [str(HOURS)]}
PREPAID = {"commitment_id": str(ID), "kind": "prepaid", "amount_minor": 1_000_000}
END = {"commitment_id": str(ID), "mode": "end"}


def test_a_minimum_of_money_counts_every_line_from_its_instant_on() -> None:
    after = admit(ACTIVE, "set_commitment", SPEND)
    assert after.commitments == {
        ID: Commitment(ID, "minimum_spend", "all", since=NOW, amount_minor=5_850_000)
    }
    assert after.terms == ACTIVE.terms


def test_a_minimum_of_units_has_a_window_a_factor_and_what_stays_open() -> None:
    payload = {
        **UNITS, "window": "quarter", "true_up": "term_end", "overage_factor": "1.25",
        "rollover_units": "500", "on_termination": "full",
    }  # fmt: skip
    assert admit(ACTIVE, "set_commitment", payload).commitments[ID] == Commitment(
        ID, "minimum_quantity", (HOURS,), since=NOW, units=Decimal(30000), window="quarter",
        true_up="term_end", overage_factor=Decimal("1.25"), rollover_units=Decimal(500),
        on_termination="full",
    )  # fmt: skip


def test_what_is_agreed_before_the_start_begins_with_the_contract() -> None:
    assert admit(DRAFT, "set_commitment", SPEND, at=START - days(9)).commitments[ID].since == START


def test_a_prepayment_is_the_downpayment_of_the_terms_and_no_minimum() -> None:
    after = admit(ACTIVE, "set_commitment", PREPAID)
    assert after.terms.commitment.downpayment == Amount(1_000_000, "USD")
    assert after.commitments == {}
    ended = admit(after, "set_commitment", {**END, "kind": "prepaid"})
    assert ended == ACTIVE


def test_a_commitment_set_again_takes_the_place_of_the_one_of_its_id() -> None:
    first = admit(ACTIVE, "set_commitment", SPEND, at=NOW - days(30))
    again = admit(first, "set_commitment", {**SPEND, "amount_minor": 6_000_000})
    assert again.commitments[ID].amount_minor == 6_000_000
    assert again.commitments[ID].since == NOW
    assert admit(again, "set_commitment", END).commitments == {}


def test_two_people_agree_to_lower_or_end_what_sellers_were_promised() -> None:
    state = admit(ACTIVE, "set_commitment", SPEND)
    assert approval(state, "set_commitment", {**SPEND, "amount_minor": 5_849_999})
    assert approval(state, "set_commitment", END)
    assert not approval(state, "set_commitment", {**SPEND, "amount_minor": 5_850_001})
    assert not approval(ACTIVE, "set_commitment", SPEND)
    assert not approval(replace(state, status="draft"), "set_commitment", END)


@pytest.mark.parametrize(
    "change",
    [
        {"true_up": "none"},
        {"true_up": "term_end"},
        {"on_termination": "waive"},
        {"window": "term"},
        {"scope": [str(SERVERS)]},
        {"kind": "minimum_quantity", "amount_minor": None, "units": "9999999", "scope": [str(SERVERS)]},
    ],
)
def test_one_person_sets_a_commitment_again_with_more_in_it_and_not_otherwise(change: dict[str, Any]) -> None:
    state = admit(ACTIVE, "set_commitment", SPEND)
    assert approval(state, "set_commitment", SPEND | change)
    assert not approval(state, "set_commitment", {**SPEND, "overage_factor": "2"})


def test_more_of_a_commitment_is_less_beyond_it_where_that_is_dearer() -> None:
    dear = {**SPEND, "overage_factor": "2"}
    state = admit(ACTIVE, "set_commitment", dear)
    assert approval(state, "set_commitment", {**dear, "amount_minor": 9_000_000})
    assert approval(state, "set_commitment", SPEND)
    assert not approval(state, "set_commitment", {**dear, "overage_factor": "3"})


def test_units_that_stay_open_are_bought_once_only() -> None:
    state = admit(ACTIVE, "set_commitment", UNITS)
    assert approval(state, "set_commitment", {**UNITS, "rollover_units": "100"})
    assert not approval(state, "set_commitment", {**UNITS, "units": "30001"})


def test_a_commitment_after_signature_must_be_signed_again() -> None:
    assert admit(SIGNED, "set_commitment", SPEND).needs_resign
    assert admit(SIGNED, "set_commitment", PREPAID).needs_resign


@pytest.mark.parametrize(
    ("payload", "code", "pointer"),
    [
        ({"commitment_id": str(ID)}, "required", "/kind"),
        ({**SPEND, "amount_minor": None}, "required", "/amount_minor"),
        ({**SPEND, "amount_minor": -1}, "amount_negative", "/amount_minor"),
        ({**SPEND, "units": "1"}, "field_misplaced", "/units"),
        ({**UNITS, "units": "-1"}, "quantity_negative", "/units"),
        ({**UNITS, "amount_minor": 1}, "field_misplaced", "/amount_minor"),
        ({**PREPAID, "amount_minor": 0}, "required", "/amount_minor"),
        ({**SPEND, "rollover_units": "1"}, "field_misplaced", "/rollover_units"),
        ({**UNITS, "overage_factor": "0.9"}, "out_of_range", "/overage_factor"),
        ({**UNITS, "scope": [str(OTHER)]}, "line_not_found", "/scope/0"),
        ({**UNITS, "scope": "all"}, "units_differ", "/scope"),
        (END, "commitment_not_found", "/commitment_id"),
        ({**END, "kind": "prepaid"}, "commitment_not_found", "/commitment_id"),
        ({**END, "window": "quarter"}, "field_misplaced", "/mode"),
    ],
)
def test_what_is_not_a_commitment(payload: dict[str, Any], code: str, pointer: str) -> None:
    assert refusal(ACTIVE, "set_commitment", payload) == (code, pointer)


@pytest.mark.parametrize(
    ("changes", "payload", "pointer"),
    [
        ({"billing": Billing(cadence="P1Y")}, {"window": "quarter"}, "/window"),
        ({"end_at": None}, {"window": "term"}, "/window"),
        ({"end_at": None}, {"true_up": "term_end"}, "/true_up"),
    ],
)
def test_a_window_is_made_of_whole_billing_periods(
    changes: dict[str, Any], payload: dict[str, Any], pointer: str
) -> None:
    state = replace(ACTIVE, **changes)
    assert refusal(state, "set_commitment", {**SPEND, **payload}) == ("window_misaligned", pointer)
    assert admit(ACTIVE, "set_commitment", {**SPEND, **payload}).commitments


def test_a_line_is_counted_by_one_commitment_at_a_time() -> None:
    state = admit(ACTIVE, "set_commitment", UNITS)
    other = {**SPEND, "commitment_id": str(OTHER)}
    assert refusal(state, "set_commitment", other) == ("commitment_overlap", "/scope")
    scoped = {**other, "scope": [str(SERVERS)]}
    assert admit(state, "set_commitment", scoped).commitments.keys() == {ID, OTHER}


def test_a_removed_line_is_not_counted() -> None:
    gone = ACTIVE.with_line(replace(LINES[HOURS], live=False))
    assert refusal(gone, "set_commitment", UNITS) == ("line_not_live", "/scope/0")
