"""Lines in full: units, minimum terms, fees for leaving early, what a commitment needs of them."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from commerce.errors import Conflict
from contracts.rules.fold import Edit, fold
from contracts.rules.segments import billable_segments
from contracts.rules.state import Charge, Commitment, ContractState, Forfeited, LineState, Price, Trial
from tests.contracts.operating import (
    ACTIVE,
    BUYER,
    DRAFT,
    HOURS,
    LINES,
    NOW,
    SELLER,
    SERVERS,
    START,
    admit,
    approval,
    days,
    instant,
    parsed,
    refusal,
)

NEW = UUID(int=4)
ADD = {
    "line_id": str(NEW),
    "product": "rack",
    "seller_id": str(SELLER),
    "quantity": 3,
    "price": {"model": "unit", "rate": "100"},
}
LINE = {"line_id": str(SERVERS)}
JULY = datetime(2027, 7, 1, tzinfo=UTC)
BOUND = ACTIVE.with_line(replace(LINES[SERVERS], min_term_until=datetime(2028, 2, 1, tzinfo=UTC)))
NAMED = ACTIVE.with_line(replace(LINES[SERVERS], unit_ids=("srv-1", "srv-2")))
EVERGREEN = replace(ACTIVE, end_at=None)


def test_a_line_has_units_dates_and_terms_of_its_own() -> None:
    after = admit(
        EVERGREEN,
        "add_product",
        {**ADD, "unit_ids": ["r-1", "r-2"], "bill_from": "in_service", "min_term_months": 6,
         "end_at": "2028-01-01T00:00:00Z", "sla_policy": "gold", "tax_code": "dc"},
    )  # fmt: skip
    assert after.lines[NEW] == LineState(
        NEW, "rack", "recurring", "", "", SELLER, 3, Price("unit", Decimal(100), "USD"),
        unit_ids=("r-1", "r-2"), bill_from="in_service", added_at=NOW,
        end_at=datetime(2028, 1, 1, tzinfo=UTC), min_term_until=datetime(2027, 12, 10, tzinfo=UTC),
        sla_policy="gold", tax_code="dc",
    )  # fmt: skip


def test_no_line_is_promised_a_fee_of_its_own() -> None:
    """The contract's fee is taken of all of them."""
    own = {**ADD, "settlement": {"fee_rate": "0.1"}}
    assert refusal(ACTIVE, "add_product", own) == ("not_supported", "/settlement")
    assert refusal(DRAFT, "add_product", own) == ("not_supported", "/settlement")


def test_a_line_of_a_draft_begins_with_the_contract() -> None:
    after = admit(DRAFT, "add_product", {**ADD, "min_term_months": 6}, at=START - days(40))
    assert after.lines[NEW].added_at == START
    assert after.lines[NEW].min_term_until == datetime(2027, 9, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("payload", "code", "pointer"),
    [
        ({"line_id": str(SERVERS)}, "line_id_taken", "/line_id"),
        (
            {"price": {"model": "unit", "rate": "1", "currency": "EUR"}},
            "currency_mismatch",
            "/price/currency",
        ),
        ({"price": {"model": "unit", "rate": "-1"}}, "amount_negative", "/price/rate"),
        ({"quantity": 0}, "out_of_range", "/quantity"),
        ({"min_term_months": 9}, "min_term_beyond_contract_end", "/min_term_months"),
        ({"end_at": NOW.isoformat()}, "line_end_invalid", "/end_at"),
        ({"min_term_months": 6, "end_at": "2027-12-01T00:00:00Z"}, "line_end_invalid", "/end_at"),
        ({"unit_ids": ["a", "a"]}, "unit_unavailable", "/unit_ids/1"),
        ({"unit_ids": ["srv-1"]}, "unit_unavailable", "/unit_ids/0"),
        ({"unit_ids": ["a", "b", "c", "d"]}, "units_exceed_quantity", "/unit_ids"),
    ],
)
def test_what_cannot_be_added(payload: dict[str, Any], code: str, pointer: str) -> None:
    assert refusal(NAMED, "add_product", {**ADD, **payload}) == (code, pointer)


def test_a_contract_that_is_renewed_has_room_for_a_longer_minimum_term() -> None:
    renewal = replace(ACTIVE.terms.renewal, auto=True)
    renewing = replace(ACTIVE, terms=replace(ACTIVE.terms, renewal=renewal))
    after = admit(renewing, "add_product", {**ADD, "min_term_months": 12})
    assert after.lines[NEW].min_term_until == datetime(2028, 6, 10, tzinfo=UTC)


def test_units_of_a_removed_line_may_be_used_again() -> None:
    kept = admit(NAMED, "remove_product", {**LINE, "release_units": False})
    assert kept.lines[SERVERS].unit_ids == ("srv-1", "srv-2")
    gone = admit(NAMED, "remove_product", LINE)
    assert gone.lines[SERVERS].unit_ids == ()
    assert admit(gone, "add_product", {**ADD, "unit_ids": ["srv-1"]}).lines[NEW].unit_ids == ("srv-1",)


@pytest.mark.parametrize(
    ("when", "expected"),
    [("immediate", None), ("date", None), ("end_of_period", JULY),
     ("end_of_min_term", datetime(2028, 2, 1, tzinfo=UTC))],
)  # fmt: skip
def test_a_line_is_removed_now_with_the_period_or_with_its_minimum_term(when: str, expected: Any) -> None:
    assert instant(BOUND, "remove_product", {**LINE, "when": when}) == expected


def test_a_line_without_a_minimum_term_has_no_end_of_one() -> None:
    with pytest.raises(Conflict) as raised:
        instant(ACTIVE, "remove_product", {**LINE, "when": "end_of_min_term"})
    assert raised.value.code == "min_term_required"


def test_within_its_minimum_term_a_line_is_not_removed_without_a_word_about_the_fee() -> None:
    assert refusal(BOUND, "remove_product", LINE) == ("min_term_not_met", "/early_fee")
    over = datetime(2028, 2, 1, tzinfo=UTC)
    assert not admit(BOUND, "remove_product", LINE, at=over).lines[SERVERS].live
    assert not admit(replace(BOUND, status="draft"), "remove_product", LINE).lines[SERVERS].live
    assert not admit(replace(BOUND, trial=Trial()), "remove_product", LINE).lines[SERVERS].live


@pytest.mark.parametrize(
    ("fee", "minor"),
    [
        ({"kind": "pct_remaining", "percent": "0.5"}, 12_600_000),
        ({"kind": "months", "months": 2}, 7_200_000),
        ({"kind": "fixed", "amount_minor": 123}, 123),
        ({"kind": "none", "waived_by": "sales"}, None),
    ],
)
def test_leaving_early_costs_what_is_said(fee: dict[str, Any], minor: int | None) -> None:
    """Seven months of two servers at 18,000.00 are left on 1 July; half of that is 126,000.00."""
    after = admit(BOUND, "remove_product", {**LINE, "early_fee": fee}, at=JULY)
    owed = [Charge(f"{SERVERS}:early_fee", "early_fee", JULY, minor, SERVERS, SELLER)] if minor else []
    assert list(after.charges) == owed
    assert bool(approval(BOUND, "remove_product", {**LINE, "early_fee": fee})) is (minor is None)
    assert not approval(ACTIVE, "remove_product", {**LINE, "early_fee": fee})


@pytest.mark.parametrize("free", [ACTIVE, replace(BOUND, trial=Trial()), replace(BOUND, status="draft")])
def test_a_fee_for_leaving_early_is_refused_where_nobody_does(free: ContractState) -> None:
    fee = {**LINE, "early_fee": {"kind": "fixed", "amount_minor": 123}}
    assert refusal(free, "remove_product", fee, at=JULY) == ("fee_not_due", "/early_fee")
    waived = {**LINE, "early_fee": {"kind": "none"}}
    assert admit(free, "remove_product", waived, at=JULY).charges == ()


def test_a_months_fee_has_a_months_part_of_what_the_price_asks_for_a_quarter() -> None:
    """Three months of two servers at 18,000.00 are 108,000.00; at least 90,000.00 or 120,000.00 are owed."""
    for minimum, minor in ((9_000_000, 3_600_000), (12_000_000, 4_000_000)):
        line = BOUND.lines[SERVERS]
        bound = BOUND.with_line(replace(line, price=replace(line.price, min_minor=minimum)))
        quarterly = replace(bound, billing=replace(bound.billing, cadence="P3M"))
        fee = {**LINE, "early_fee": {"kind": "months", "months": 1}}
        after = admit(quarterly, "remove_product", fee, at=JULY)
        assert [charge.amount_minor for charge in after.charges] == [minor]


@pytest.mark.parametrize(
    ("fee", "code", "pointer"),
    [
        ({"kind": "fixed"}, "required", "/early_fee/amount_minor"),
        ({"kind": "pct_remaining"}, "required", "/early_fee/percent"),
        ({"kind": "months"}, "required", "/early_fee/months"),
        ({"kind": "none", "months": 1}, "field_misplaced", "/early_fee/months"),
        ({"kind": "fixed", "amount_minor": 1, "waived_by": "x"}, "field_misplaced", "/early_fee/waived_by"),
        ({"kind": "fixed", "amount_minor": -1}, "amount_negative", "/early_fee/amount_minor"),
        ({"kind": "pct_remaining", "percent": "1.1"}, "percent_out_of_range", "/early_fee/percent"),
    ],
)
def test_a_fee_says_how_much_in_the_way_of_its_kind(fee: dict[str, Any], code: str, pointer: str) -> None:
    assert refusal(BOUND, "remove_product", {**LINE, "early_fee": fee}) == (code, pointer)


def test_what_is_forfeited_is_billed_to_the_end_of_the_period() -> None:
    removed = admit(ACTIVE, "remove_product", {**LINE, "unused": "forfeit"})
    assert removed.lines[SERVERS].forfeited == Forfeited(JULY, BUYER, 1)
    at_the_end = admit(ACTIVE, "remove_product", {**LINE, "unused": "forfeit"}, at=JULY)
    assert at_the_end.lines[SERVERS].forfeited is None
    metered = admit(ACTIVE, "remove_product", {"line_id": str(HOURS), "unused": "forfeit"})
    assert metered.lines[HOURS].forfeited is None
    assert admit(ACTIVE, "remove_product", {**LINE, "unused": "credit"}).lines[SERVERS].forfeited is None


def test_no_money_is_promised_back_for_what_is_unused() -> None:
    refused = ("not_supported", "/unused")
    assert refusal(ACTIVE, "remove_product", {**LINE, "unused": "refund"}) == refused
    assert refusal(ACTIVE, "terminate", {"cause": "mutual", "unused": "refund"}) == refused


def test_the_line_that_a_commitment_counts_by_stays() -> None:
    commitment = Commitment(NEW, "minimum_spend", (SERVERS,), since=START, amount_minor=1)
    state = replace(ACTIVE, commitments={NEW: commitment})
    assert refusal(state, "remove_product", LINE) == ("commitment_depends_on_line", "/line_id")
    assert not admit(state, "remove_product", {"line_id": str(HOURS)}).lines[HOURS].live
    both = replace(ACTIVE, commitments={NEW: replace(commitment, scope=(SERVERS, HOURS))})
    assert not admit(both, "remove_product", LINE).lines[SERVERS].live


def test_the_last_line_is_not_removed_but_from_a_draft() -> None:
    alone = replace(ACTIVE, lines={SERVERS: LINES[SERVERS]})
    assert refusal(alone, "remove_product", LINE) == ("last_line", "/line_id")
    assert not admit(replace(alone, status="draft"), "remove_product", LINE).live_lines


def test_units_come_and_go_with_the_quantity() -> None:
    more = admit(NAMED, "change_quantity", {**LINE, "delta": 1, "add_units": ["srv-3"]}).lines[SERVERS]
    assert (more.quantity, more.unit_ids) == (3, ("srv-1", "srv-2", "srv-3"))
    swapped = {**LINE, "quantity": 1, "add_units": ["srv-3"], "release_units": ["srv-1", "srv-2"]}
    less = admit(NAMED, "change_quantity", swapped).lines[SERVERS]
    assert (less.quantity, less.unit_ids) == (1, ("srv-3",))


@pytest.mark.parametrize(
    ("payload", "code", "pointer"),
    [
        ({}, "quantity_or_delta", "/quantity"),
        ({"quantity": 1, "delta": 1}, "quantity_or_delta", "/quantity"),
        ({"delta": -3}, "quantity_negative", "/delta"),
        ({"quantity": -1}, "quantity_negative", "/quantity"),
        ({"quantity": 1}, "units_exceed_quantity", "/release_units"),
        ({"quantity": 1, "release_units": ["srv-9"]}, "unit_not_in_line", "/release_units/0"),
        ({"quantity": 4, "add_units": ["srv-1"]}, "unit_unavailable", "/add_units/0"),
        ({"quantity": 4, "add_units": ["a", "a"]}, "unit_unavailable", "/add_units/1"),
        ({"quantity": 2, "add_units": ["a"]}, "units_exceed_quantity", "/release_units"),
        ({"line_id": str(HOURS), "quantity": 2}, "line_is_metered", "/line_id"),
        ({"line_id": str(NEW), "quantity": 2}, "line_not_found", "/line_id"),
    ],
)
def test_what_a_quantity_cannot_become(payload: dict[str, Any], code: str, pointer: str) -> None:
    assert refusal(NAMED, "change_quantity", {**LINE, **payload}) == (code, pointer)


def test_a_quantity_changes_now_or_with_the_next_period() -> None:
    assert instant(ACTIVE, "change_quantity", {**LINE, "quantity": 3}) is None
    later = {**LINE, "quantity": 3, "proration": "next_period"}
    assert instant(ACTIVE, "change_quantity", later) == JULY


def test_a_change_that_is_not_prorated_leaves_the_bill_of_the_period_as_it_was() -> None:
    free = {**LINE, "quantity": 5, "proration": "none"}
    line = admit(ACTIVE, "change_quantity", free).lines[SERVERS]
    assert (line.quantity, line.billable, line.billed_until) == (5, 2, JULY)
    more = admit(admit(ACTIVE, "change_quantity", free), "change_quantity", {**LINE, "delta": 1})
    assert (more.lines[SERVERS].quantity, more.lines[SERVERS].billable) == (6, 3)
    assert admit(DRAFT, "change_quantity", free).lines[SERVERS].billable == 5


@pytest.mark.parametrize(
    ("unprorated", "then", "billed"), [(5, 1, 1), (5, 3, 2), (5, 0, 0), (5, 7, 4), (1, 0, 1), (1, 2, 3)]
)
def test_after_a_change_without_proration_a_prorated_one_bills_what_it_changes(
    unprorated: int, then: int, billed: int
) -> None:
    """Of two units: those that are not billed yet are the first to go, those that are billed on stay."""
    state = admit(ACTIVE, "change_quantity", {**LINE, "quantity": unprorated, "proration": "none"})
    line = admit(state, "change_quantity", {**LINE, "quantity": then}).lines[SERVERS]
    assert (line.quantity, line.billable, line.billed_until) == (then, billed, JULY)


@pytest.mark.parametrize("quantity", [5, 0])
def test_the_next_period_bills_what_there_is(quantity: int) -> None:
    create = {"buyer_id": str(BUYER), "currency": "USD", "start_at": "2027-03-01T00:00:00Z",
              "lines": [{**ADD, "line_id": str(SERVERS), "quantity": 2}]}  # fmt: skip
    steps = [
        ("create", create, START),
        *(("activate", {"stage": stage}, START) for stage in ("submit", "signed", "live")),
        ("change_quantity", {**LINE, "quantity": quantity, "proration": "none"}, NOW),
    ]
    log = [Edit(i, name, parsed(name, body), at, at) for i, (name, body, at) in enumerate(steps, 1)]
    found = billable_segments(log, start=START, end=JULY + days(30))
    expected = [(2, START, JULY), (quantity, JULY, JULY + days(30))]
    assert [(s.quantity, s.valid_from, s.valid_to) for s in found] == [one for one in expected if one[0]]
    assert fold(log, valid_at=NOW).lines[SERVERS].quantity == quantity


@pytest.mark.parametrize(("window", "units"), [("period", 2), ("quarter", 6), ("term", 24)])
def test_a_quantity_stays_within_reach_of_the_commitment_that_counts_it(window: Any, units: int) -> None:
    commitment = Commitment(
        NEW, "minimum_quantity", (SERVERS,), since=START, units=Decimal(units), window=window
    )
    state = replace(ACTIVE, commitments={NEW: commitment})
    below = ("quantity_below_commitment", "/quantity")
    assert refusal(state, "change_quantity", {**LINE, "quantity": 1}) == below
    assert refusal(state, "change_quantity", {**LINE, "delta": -1}) == (below[0], "/delta")
    assert admit(state, "change_quantity", {**LINE, "quantity": 3}).lines[SERVERS].quantity == 3
