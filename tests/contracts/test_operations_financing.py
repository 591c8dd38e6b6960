"""attach_financing: loans that are opened, replaced, paid off and taken off; what a lender must agree to."""

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from contracts.rules.loans import payoff_of, schedule_of
from contracts.rules.operations.financing import settled
from contracts.rules.state import Charge, ContractState, Financing, Lender, LineState, Price
from tests.contracts.operating import (
    ACTIVE,
    DRAFT,
    HOURS,
    SELLER,
    SERVERS,
    SIGNED,
    START,
    admit,
    approval,
    days,
    refusal,
)

LOAN, NEXT, RACK = UUID(int=70), UUID(int=71), UUID(int=3)
TERMS = {
    "financing_id": str(LOAN),
    "principal_minor": 18_000_000,
    "apr": "0.09",
    "term_months": 24,
    "first_due_on": "2027-04-01",
}
LENT = admit(ACTIVE, "attach_financing", TERMS, at=START)
YEAR = datetime(2028, 2, 1, tzinfo=UTC)
LATER = {**TERMS, "financing_id": str(NEXT), "first_due_on": "2028-05-01", "replaces": str(LOAN)}
PRICED = LineState(
    RACK, "rack", "one_off", "rack", "", SELLER, 2, Price("one_off", Decimal(120_000), "USD"), added_at=START
)
BOUGHT = ACTIVE.with_line(PRICED)


def test_the_schedule_follows_from_the_terms_of_the_loan() -> None:
    """The worked loan: 180,000.00 at 9 % in 24 months is 8,223.25 a month and 8,223.35 at last."""
    rows = schedule_of(LENT.financings[LOAN]).rows
    assert [rows[i].payment_minor for i in (0, 22, 23)] == [822_325, 822_325, 822_335]
    assert [rows[i].balance_minor for i in (0, 11, 23)] == [17_312_675, 9_403_224, 0]
    assert sum(row.interest_minor for row in rows) == 1_735_810


def test_a_payoff_on_a_due_date_is_the_balance_and_accrues_from_there() -> None:
    loan = LENT.financings[LOAN]
    due = datetime(2028, 3, 1, tzinfo=UTC)
    assert payoff_of(loan, due).total_minor == 9_403_224
    later = payoff_of(loan, due + days(10))
    assert (later.balance_minor, later.interest_minor) == (9_403_224, 22_750)
    assert payoff_of(loan, START).total_minor == 18_000_000
    assert payoff_of(loan, datetime(2029, 3, 1, tzinfo=UTC)).total_minor == 0


def test_a_loan_that_is_agreed_before_the_start_begins_with_the_contract() -> None:
    assert admit(DRAFT, "attach_financing", TERMS, at=START - days(9)).financings[LOAN].since == START


def test_a_loan_is_what_the_payload_says_and_its_fee_is_owed_at_once() -> None:
    terms = {
        **TERMS, "fee_minor": 50_000, "downpayment_minor": 6_000_000, "day_count": "actual_365",
        "method": "interest_only_then_level", "interest_only_months": 6, "prepayment_penalty": "0.02",
        "late_fee_minor": 2_500, "on_terminate": "continue", "collateral": [str(RACK)],
        "lender": {"kind": "seller", "id": str(SELLER)},
    }  # fmt: skip
    after = admit(BOUGHT, "attach_financing", terms, at=START)
    assert after.financings == {
        LOAN: Financing(
            LOAN, 18_000_000, Decimal("0.09"), 24, date(2027, 4, 1), START, downpayment_minor=6_000_000,
            day_count="actual_365", method="interest_only_then_level", interest_only_months=6,
            fee_minor=50_000, lender=Lender("seller", SELLER), collateral=(RACK,),
            prepayment_penalty=Decimal("0.02"), late_fee_minor=2_500, on_terminate="continue",
        )
    }  # fmt: skip
    assert after.charges == (Charge(f"{LOAN}:fee", "financing_fee", START, 50_000, seller_id=SELLER),)
    assert schedule_of(after.financings[LOAN]).rows[5].principal_minor == 0


@pytest.mark.parametrize("mode", ["attach", "refinance", "top_up", "detach"])
@pytest.mark.parametrize("state", [DRAFT, ACTIVE])
def test_two_people_grant_a_loan_and_take_one_off(state: ContractState, mode: str) -> None:
    assert approval(state, "attach_financing", {**TERMS, "mode": mode})


def test_one_person_records_that_a_loan_is_paid_off() -> None:
    assert not approval(LENT, "attach_financing", {"financing_id": str(LOAN), "mode": "payoff"})


def test_a_loan_after_signature_must_be_signed_again() -> None:
    assert admit(SIGNED, "attach_financing", TERMS, at=START).needs_resign
    assert not LENT.needs_resign


def test_a_loan_is_paid_off_by_the_amount_that_was_quoted_for_the_day() -> None:
    quote = {"financing_id": str(LOAN), "mode": "payoff", "payoff_minor": 9_403_224}
    due = datetime(2028, 3, 1, tzinfo=UTC)
    after = admit(LENT, "attach_financing", quote, at=due)
    loan = after.financings[LOAN]
    assert (loan.closed_at, loan.closed_by, loan.payoff_minor) == (due, "payoff", 9_403_224)
    assert after.charges == (Charge(f"{LOAN}:payoff", "financing_payoff", due, 9_403_224),)
    stale = ("payoff_amount_stale", "/payoff_minor")
    assert refusal(LENT, "attach_financing", quote, at=due + days(1)) == stale
    assert refusal(LENT, "attach_financing", {**quote, "payoff_minor": None}, at=due) == stale


def test_paying_off_early_costs_the_penalty_that_was_agreed() -> None:
    state = admit(ACTIVE, "attach_financing", {**TERMS, "prepayment_penalty": "0.01"}, at=START)
    due = datetime(2028, 3, 1, tzinfo=UTC)
    quote = {"financing_id": str(LOAN), "mode": "payoff", "payoff_minor": 9_403_224 + 94_032}
    assert admit(state, "attach_financing", quote, at=due).financings[LOAN].payoff_minor == 9_497_256


def test_a_loan_that_is_detached_is_owed_by_nobody_here() -> None:
    after = admit(LENT, "attach_financing", {"financing_id": str(LOAN), "mode": "detach"}, at=YEAR)
    assert after.financings[LOAN].closed_by == "detach"
    assert after.charges == ()


def test_a_refinancing_repays_the_loan_that_it_replaces_and_charges_nothing() -> None:
    left = payoff_of(LENT.financings[LOAN], YEAR).total_minor
    again = {**LATER, "mode": "refinance", "principal_minor": left, "apr": "0.06"}
    after = admit(LENT, "attach_financing", again, at=YEAR)
    old, new = after.financings[LOAN], after.financings[NEXT]
    assert (old.closed_at, old.closed_by, old.payoff_minor) == (YEAR, "refinance", left)
    assert (new.principal_minor, new.since, new.closed_at) == (left, YEAR, None)
    assert after.charges == ()
    mismatch = ("principal_mismatch", "/principal_minor")
    for other in (left - 1, left + 1):
        assert refusal(LENT, "attach_financing", {**again, "principal_minor": other}, at=YEAR) == mismatch


def test_a_top_up_lends_more_than_what_is_left() -> None:
    left = payoff_of(LENT.financings[LOAN], YEAR).total_minor
    more = {**LATER, "mode": "top_up", "principal_minor": left + 5_000_000}
    after = admit(LENT, "attach_financing", more, at=YEAR)
    assert after.financings[NEXT].principal_minor == left + 5_000_000
    assert after.financings[LOAN].closed_by == "top_up"
    less = {**more, "principal_minor": left - 1}
    assert refusal(LENT, "attach_financing", less, at=YEAR) == ("principal_mismatch", "/principal_minor")


@pytest.mark.parametrize(
    ("payload", "code", "pointer"),
    [
        ({"principal_minor": None}, "required", "/principal_minor"),
        ({"principal_minor": 0}, "required", "/principal_minor"),
        ({"principal_minor": -1}, "amount_negative", "/principal_minor"),
        ({"term_months": None}, "required", "/term_months"),
        ({"term_months": 85}, "out_of_range", "/term_months"),
        ({"first_due_on": None}, "required", "/first_due_on"),
        ({"first_due_on": "2027-06-10"}, "first_due_before_start", "/first_due_on"),
        ({"apr": "1.01"}, "apr_cap", "/apr"),
        ({"payoff_minor": 1}, "field_misplaced", "/payoff_minor"),
        ({"replaces": str(LOAN)}, "field_misplaced", "/replaces"),
        ({"mode": "refinance"}, "required", "/replaces"),
        ({"mode": "refinance", "replaces": str(NEXT)}, "financing_not_found", "/replaces"),
        ({"interest_only_months": 3}, "method_invalid", "/interest_only_months"),
        ({"method": "interest_only_then_level"}, "method_invalid", "/interest_only_months"),
        ({"method": "interest_only_then_level", "interest_only_months": 24},
         "method_invalid", "/interest_only_months"),
        ({"lender": {"kind": "third_party"}}, "lender_invalid", "/lender/id"),
        ({"lender": {"kind": "platform", "id": str(SELLER)}}, "lender_invalid", "/lender/id"),
        ({"lender": {"kind": "seller", "id": str(LOAN)}}, "not_a_party", "/lender/id"),
        ({"collateral": [str(LOAN)]}, "line_not_found", "/collateral/0"),
        ({"collateral": [str(RACK)]}, "principal_mismatch", "/principal_minor"),
        ({"mode": "payoff"}, "field_misplaced", "/mode"),
    ],
)  # fmt: skip
def test_what_is_not_a_loan(payload: dict[str, Any], code: str, pointer: str) -> None:
    terms = {**TERMS, "first_due_on": "2027-07-01", **payload}
    assert refusal(BOUGHT, "attach_financing", terms) == (code, pointer)


def test_what_is_financed_is_paid_by_principal_and_downpayment() -> None:
    terms = {**TERMS, "downpayment_minor": 6_000_000, "collateral": [str(RACK)]}
    assert admit(BOUGHT, "attach_financing", terms, at=START).financings


def test_a_line_is_financed_once_at_a_time() -> None:
    first = admit(ACTIVE, "attach_financing", {**TERMS, "collateral": [str(SERVERS)]}, at=START)
    second = {**TERMS, "financing_id": str(NEXT), "collateral": [str(SERVERS), str(HOURS)]}
    assert refusal(first, "attach_financing", second, at=START) == ("schedule_overlap", "/collateral")
    gone = admit(first, "attach_financing", {"financing_id": str(LOAN), "mode": "detach"}, at=START)
    assert admit(gone, "attach_financing", second, at=START).financings.keys() == {LOAN, NEXT}
    left = payoff_of(first.financings[LOAN], YEAR).total_minor
    again = {**LATER, "mode": "refinance", "principal_minor": left, "collateral": [str(SERVERS)]}
    assert admit(first, "attach_financing", again, at=YEAR).financings[NEXT].collateral == (SERVERS,)


def test_a_loan_ends_once() -> None:
    detach = {"financing_id": str(LOAN), "mode": "detach"}
    gone = admit(LENT, "attach_financing", detach, at=YEAR)
    assert refusal(gone, "attach_financing", detach, at=YEAR) == ("financing_closed", "/financing_id")
    assert refusal(ACTIVE, "attach_financing", detach) == ("financing_not_found", "/financing_id")
    assert refusal(LENT, "attach_financing", TERMS, at=START) == ("financing_id_taken", "/financing_id")
    assert refusal(LENT, "attach_financing", {**detach, "payoff_minor": 1}) == ("field_misplaced", "/mode")


@pytest.mark.parametrize(
    ("own", "clause", "closed_by", "owed"),
    [
        ("accelerate", None, "accelerate", 9_403_224),
        ("payoff", None, "payoff", 9_497_256),
        ("continue", None, "", None),
        ("continue", "payoff", "payoff", 9_497_256),
        ("payoff", "continue", "", None),
    ],
)
def test_a_termination_ends_loans_as_it_says_or_as_they_say(
    own: str, clause: Any, closed_by: str, owed: int | None
) -> None:
    terms = {**TERMS, "prepayment_penalty": "0.01", "on_terminate": own}
    state = admit(ACTIVE, "attach_financing", terms, at=START)
    after = settled(state, datetime(2028, 3, 1, tzinfo=UTC), clause)
    assert after.financings[LOAN].closed_by == closed_by
    assert [charge.amount_minor for charge in after.charges] == ([owed] if owed else [])
    gone = replace(state, financings={LOAN: replace(state.financings[LOAN], closed_at=START)})
    assert settled(gone, YEAR, clause) == gone
