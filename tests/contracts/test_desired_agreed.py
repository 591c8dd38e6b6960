"""Desired lines of what is agreed beside prices: discounts, commitments, early fees, loans."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from contracts.rules.fold import Edit
from contracts.rules.lines import DesiredLine
from contracts.rules.operations.commitment import SetCommitment
from contracts.rules.operations.discounts import ApplyDiscount, Duration, Funding
from contracts.rules.operations.fees import EarlyFee
from contracts.rules.operations.financing import AttachFinancing
from contracts.rules.operations.holds import Resume, Suspend
from contracts.rules.operations.products import AddProduct, ChangeQuantity
from contracts.rules.operations.terminate import Terminate
from contracts.rules.operations.transfer import TransferOwnership
from contracts.rules.state import Amount, RampStep, Tier, evolve
from contracts.rules.terms import Billing, Tax, Terms
from tests.contracts.logs import (
    BUYER,
    HOURS,
    OTHER_SELLER,
    SELLER,
    SERVERS,
    SETUP,
    Step,
    at,
    contract,
    desired,
    hours,
    servers,
    told,
    usd,
)

NEW_BUYER, LENDER, DEAL = UUID(int=11), UUID(int=12), UUID(int=50)
MARCH = "2026-03-01", "2026-04-01"
TAXED = Terms(tax=Tax(rate=Decimal("0.0825")))


def discount(no: int, when: str = "2026-03-01", **given: Any) -> Step:
    return "apply_discount", ApplyDiscount(UUID(int=100 + no), **given), when


def percent(no: int, share: str, when: str = "2026-03-01", **given: Any) -> Step:
    return discount(no, when, kind="percent", percent=Decimal(share), **given)


def off(lines: Sequence[DesiredLine]) -> list[tuple[UUID | None, int]]:
    return [(line.line_id, line.net_minor) for line in lines if line.kind == "discount"]


def test_percents_come_off_in_stack_order_each_of_what_is_left() -> None:
    edits = contract(
        "2026-03-01", [servers("100.00", 1)],
        percent(1, "0.2", stack_order=2), percent(2, "0.1", stack_order=1),
    )  # fmt: skip
    lines = desired(edits, *MARCH)
    assert told(lines) == [
        ("recurring", "03-01 04-01", 10_000),
        ("discount", "03-01 04-01", -1_000),
        ("discount", "03-01 04-01", -1_800),
    ]
    assert [line.source_id for line in lines[1:]] == [UUID(int=102), UUID(int=101)]


def test_a_discount_counts_from_the_day_it_begins_and_tax_follows_what_the_buyer_pays() -> None:
    edits = contract("2026-04-01", [servers("300.00", 1)], percent(1, "0.1", "2026-04-16"), terms=TAXED)
    charge, taken = desired(edits, "2026-04-01", "2026-05-01")
    assert (taken.net_minor, taken.start, taken.end) == (-1_500, charge.start, charge.end)
    assert (charge.tax_minor, charge.tax_minor + taken.tax_minor) == (2_475, 2_351)


def test_a_percent_of_what_is_used_takes_the_part_used_while_it_is_in_force() -> None:
    edits = contract("2026-03-01", [hours(usd("1.00"))], percent(1, "0.5", "2026-03-16"))
    used = {HOURS: [("2026-03-02", "30"), ("2026-03-20", "10")]}
    assert off(desired(edits, *MARCH, used)) == [(HOURS, -500)]


def test_a_fixed_discount_comes_after_percents_and_is_shared_by_what_is_left() -> None:
    edits = contract(
        "2026-03-01", [servers("100.00", 1), hours(usd("1.00"))],
        discount(1, kind="fixed_per_period", amount=Amount(10_000, "USD")),
        percent(2, "0.5", scope=(SERVERS,), stack_order=9),
    )  # fmt: skip
    used = {HOURS: [("2026-03-02", "100")]}
    assert off(desired(edits, *MARCH, used)) == [(SERVERS, -5_000), (SERVERS, -3_333), (HOURS, -6_667)]


def test_no_discount_takes_a_line_below_zero() -> None:
    edits = contract(
        "2026-03-01", [servers("10.00", 1)],
        discount(1, kind="fixed_per_period", amount=Amount(99_999, "USD")), percent(2, "0.35"),
    )  # fmt: skip
    lines = desired(edits, *MARCH)
    assert off(lines) == [(SERVERS, -350), (SERVERS, -650)]
    assert sum(line.net_minor for line in lines) == 0


def test_free_units_come_off_the_quantity_before_any_percent() -> None:
    tiers = (Tier(Decimal(10), Decimal(2)), Tier(None, Decimal(1)))
    edits = contract(
        "2026-03-01", [hours(usd("0", "graduated", tiers=tiers))],
        percent(1, "0.1"), discount(2, kind="free_units", units=Decimal(8)),
    )  # fmt: skip
    used = {HOURS: [("2026-03-02", "15")]}
    assert told(desired(edits, *MARCH, used)) == [
        ("usage", "03-01 04-01", 2_500),
        ("discount", "03-01 04-01", -1_100),
        ("discount", "03-01 04-01", -140),
    ]


def test_free_servers_are_free_however_the_quantity_changes_in_the_period() -> None:
    edits = contract(
        "2026-04-01", [servers("300.00", 1)],
        discount(1, "2026-04-01", kind="free_units", units=Decimal(1)),
        ("change_quantity", ChangeQuantity(SERVERS, quantity=3), "2026-04-16"),
    )  # fmt: skip
    lines = desired(edits, "2026-04-01", "2026-05-01")
    assert off(lines) == [(SERVERS, -15_000), (SERVERS, -15_000)]
    assert sum(line.net_minor for line in lines) == 30_000


def test_a_ramp_takes_off_what_its_month_says() -> None:
    ramp = (RampStep(1, Decimal("0.5")), RampStep(2, Decimal("0.25")), RampStep(3, Decimal(0)))
    edits = contract("2026-03-01", [servers("100.00", 1)], discount(1, kind="ramp", ramp=ramp))
    found = [off(desired(edits, f"2026-0{month}-01", f"2026-0{month + 1}-01")) for month in (3, 4, 5)]
    assert found == [[(SERVERS, -5_000)], [(SERVERS, -2_500)], []]


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (Duration("once"), [1_000, 0, 0]),
        (Duration("periods", periods=2), [1_000, 1_000, 0]),
        (Duration("until", until=at("2026-05-01")), [1_000, 1_000, 0]),
        (Duration("forever"), [1_000, 1_000, 1_000]),
    ],
)
def test_a_discount_lasts_as_long_as_was_said(duration: Duration, expected: list[int]) -> None:
    edits = contract("2026-03-01", [servers("100.00", 1)], percent(1, "0.1", duration=duration))
    months = [(f"2026-0{month}-01", f"2026-0{month + 1}-01") for month in (3, 4, 5)]
    assert [-sum(net for _, net in off(desired(edits, *month))) for month in months] == expected


def test_who_funds_a_discount_is_on_the_line_and_a_split_is_two() -> None:
    edits = contract(
        "2026-03-01", [servers("100.01", 1)],
        percent(1, "0.5", funded_by=Funding("platform")),
        percent(2, "0.5", stack_order=1, funded_by=Funding("split", Decimal("0.7"))),
    )  # fmt: skip
    found = [(line.funded_by, line.net_minor) for line in desired(edits, *MARCH)]
    assert found == [("", 10_001), ("platform", -5_001), ("seller", -1_750), ("platform", -750)]


# Commitments


def committed(when: str = "2026-03-01", **given: Any) -> Step:
    return "set_commitment", SetCommitment(DEAL, **given), when


HOURS_COMMITTED = {"kind": "minimum_quantity", "units": Decimal(30_000), "overage_factor": Decimal("1.25")}


def test_what_is_missing_to_committed_hours_is_a_true_up_of_6_995_62() -> None:
    edits = contract("2026-03-01", [hours()], committed(**HOURS_COMMITTED))
    used = {HOURS: [("2026-03-05", "26412.5")]}
    lines = desired(edits, *MARCH, used)
    assert told(lines) == [("usage", "03-01 04-01", 5_150_438), ("true_up", "03-01 04-01", 699_562)]
    assert (lines[1].source_id, lines[1].line_id, lines[1].seller_id) == (DEAL, HOURS, SELLER)
    assert lines[1].quantity == Decimal("3587.5")


def test_hours_beyond_the_commitment_are_an_overage_of_3_047_48() -> None:
    edits = contract("2026-03-01", [hours()], committed(**HOURS_COMMITTED))
    lines = desired(edits, *MARCH, {HOURS: [("2026-03-05", "31250.25")]})
    assert told(lines) == [("usage", "03-01 04-01", 5_850_000), ("overage", "03-01 04-01", 304_748)]
    assert (lines[1].quantity, lines[1].rate) == (Decimal("1250.25"), Decimal("2.4375"))


def test_a_window_that_is_not_over_is_not_settled() -> None:
    edits = contract("2026-03-01", [hours()], committed(**HOURS_COMMITTED))
    assert desired(edits, "2026-03-01", "2026-03-31") == []
    assert [line.kind for line in desired(edits, "2026-03-31", "2026-04-01")] == ["true_up"]


def test_a_commitment_of_a_quarter_is_used_up_over_its_months() -> None:
    edits = contract(
        "2026-01-01", [hours(usd("1.00"))],
        committed("2026-01-01", kind="minimum_quantity", units=Decimal(100), window="quarter",
                  overage_factor=Decimal(2)),
    )  # fmt: skip
    used = {HOURS: [("2026-01-05", "80"), ("2026-02-05", "30"), ("2026-03-05", "5"), ("2026-04-05", "40")]}
    months = [(f"2026-{month:02}-01", f"2026-{month + 1:02}-01") for month in range(1, 7)]
    assert [told(desired(edits, *month, used)) for month in months] == [
        [("usage", "01-01 02-01", 8_000)],
        [("usage", "02-01 03-01", 2_000), ("overage", "02-01 03-01", 2_000)],
        [("overage", "03-01 04-01", 1_000)],
        [("usage", "04-01 05-01", 4_000)],
        [],
        [("true_up", "04-01 07-01", 6_000)],
    ]


def test_units_that_were_paid_and_not_used_stay_open_to_the_next_window_up_to_the_cap() -> None:
    edits = contract(
        "2026-03-01", [hours(usd("1.00"))],
        committed(kind="minimum_quantity", units=Decimal(100), overage_factor=Decimal(2),
                  rollover_units=Decimal(20)),
    )  # fmt: skip
    used = {HOURS: [("2026-03-05", "70"), ("2026-04-05", "125"), ("2026-05-05", "101")]}
    found = [told(desired(edits, f"2026-0{m}-01", f"2026-0{m + 1}-01", used)) for m in (3, 4, 5)]
    assert found == [
        [("usage", "03-01 04-01", 7_000), ("true_up", "03-01 04-01", 3_000)],
        [("usage", "04-01 05-01", 10_000), ("overage", "04-01 05-01", 1_000)],
        [("usage", "05-01 06-01", 10_000), ("overage", "05-01 06-01", 200)],
    ]


def spend(amount: int, when: str = "2026-03-01", **given: Any) -> Step:
    return committed(when, kind="minimum_spend", amount_minor=amount, **given)


def test_a_minimum_spend_is_topped_up_and_the_sellers_share_it_by_what_they_earned() -> None:
    edits = contract(
        "2026-03-01", [servers("100.00", 1), hours(usd("1.00"), seller=OTHER_SELLER)], spend(40_001)
    )
    lines = desired(edits, *MARCH, {HOURS: [("2026-03-02", "200")]})
    tops = [(line.seller_id, line.net_minor) for line in lines if line.kind == "true_up"]
    assert tops == [(SELLER, 3_334), (OTHER_SELLER, 6_667)]
    assert sum(line.net_minor for line in lines) == 40_001


def test_what_the_platform_gives_counts_as_spent_and_what_a_seller_gives_does_not() -> None:
    for funder, expected in (("platform", 5_000), ("seller", 6_000)):
        edits = contract(
            "2026-03-01", [servers("100.00", 1)],
            percent(1, "0.1", funded_by=Funding(funder)), spend(15_000),  # type: ignore[arg-type]
        )  # fmt: skip
        tops = [line.net_minor for line in desired(edits, *MARCH) if line.kind == "true_up"]
        assert tops == [expected]


def test_spending_beyond_the_minimum_costs_its_factor_on_top() -> None:
    edits = contract("2026-03-01", [servers("100.00", 3)], spend(20_000, overage_factor=Decimal("1.1")))
    assert told(desired(edits, *MARCH)) == [
        ("recurring", "03-01 04-01", 30_000),
        ("overage", "03-01 04-01", 1_000),
    ]


def test_a_stub_asks_for_its_part_and_what_is_charged_once_does_not_count() -> None:
    """652.76 are missing of 10,000.00 × 2/29 when 100.00 × 2/29 and 30.00 were spent."""
    edits = contract("2024-02-28", [servers("100.00", 1), hours(usd("1.00"))], spend(1_000_000, "2024-02-28"))
    lines = desired(edits, "2024-02-28", "2024-03-01", {HOURS: [("2024-02-28", "30")]})
    assert [line.net_minor for line in lines if line.kind != "true_up"] == [690, 3_000]
    assert sum(line.net_minor for line in lines if line.kind == "true_up") == 65_276
    once = servers("500.00", 1)
    setup = evolve(once, line_id=SETUP, kind="one_off")
    lines = desired(contract("2026-03-01", [once, setup], spend(60_000)), *MARCH)
    assert told(lines)[-1] == ("true_up", "03-01 04-01", 10_000)


def test_a_term_is_settled_at_its_end_whatever_its_months_came_to() -> None:
    edits = contract(
        "2026-01-01", [hours(usd("1.00"))],
        spend(10_000, "2026-01-01", true_up="term_end"), months=3,
    )  # fmt: skip
    used = {HOURS: [("2026-01-05", "190"), ("2026-02-05", "40"), ("2026-03-05", "20")]}
    assert [line.kind for line in desired(edits, "2026-01-01", "2026-03-01", used)] == ["usage"] * 2
    assert told(desired(edits, "2026-03-01", "2026-04-01", used)) == [
        ("usage", "03-01 04-01", 2_000),
        ("true_up", "01-01 04-01", 5_000),
    ]


def test_each_owner_answers_for_the_commitment_of_his_own_days() -> None:
    edits = contract(
        "2026-04-01", [hours(usd("1.00"))],
        spend(30_000, "2026-04-01"),
        ("transfer_ownership", TransferOwnership("buyer", NEW_BUYER), "2026-04-11"),
    )  # fmt: skip
    lines = desired(edits, "2026-04-01", "2026-05-01", {HOURS: [("2026-04-02", "120")]})
    tops = [(line.buyer_id, line.net_minor) for line in lines if line.kind == "true_up"]
    assert tops == [(NEW_BUYER, 20_000)]


@pytest.mark.parametrize(("reason", "expected"), [("seller_fault", 20_000), ("buyer", 30_000)])
def test_only_a_sellers_fault_shortens_a_window(reason: Any, expected: int) -> None:
    edits = contract(
        "2026-04-01", [hours(usd("1.00"))],
        spend(30_000, "2026-04-01"),
        ("suspend", Suspend(reason, billing="stop"), "2026-04-11"), ("resume", Resume(reason), "2026-04-21"),
    )  # fmt: skip
    assert [line.net_minor for line in desired(edits, "2026-04-01", "2026-05-01")] == [expected]


@pytest.mark.parametrize(("how", "expected"), [("prorate", [1_000]), ("full", [16_000]), ("waive", [])])
def test_an_early_end_cuts_keeps_or_waives_the_commitment(how: Any, expected: list[int]) -> None:
    edits = contract(
        "2026-04-01", [hours(usd("1.00"))], spend(30_000, "2026-04-01", on_termination=how),
        ("terminate", Terminate("date"), "2026-04-16"),
    )  # fmt: skip
    lines = desired(edits, "2026-04-01", "2026-05-01", {HOURS: [("2026-04-02", "140")]})
    assert [line.net_minor for line in lines if line.kind == "true_up"] == expected


# How it ends


def ended(when: str, **given: Any) -> Step:
    return "terminate", Terminate("date", **given), when


def test_leaving_seven_months_early_at_half_costs_63_000_00_shared_by_what_the_lines_cost() -> None:
    fee = EarlyFee("pct_remaining", percent=Decimal("0.5"))
    lines = [servers(quantity=1), servers("9000.00", 2, SETUP, OTHER_SELLER)]
    one = contract("2026-01-01", lines[:1], ended("2026-06-01", early_fee=fee), months=12, terms=TAXED)
    both = contract("2026-01-01", lines, ended("2026-06-01", early_fee=fee), months=12)
    found = desired(one, "2026-05-01", "2026-06-01")
    assert told(found) == [("recurring", "05-01 06-01", 1_800_000), ("early_fee", "06-01 06-01", 6_300_000)]
    assert (found[1].seller_id, found[1].buyer_id, found[1].tax_minor) == (SELLER, BUYER, 519_750)
    fees = [line for line in desired(both, "2026-05-01", "2026-06-01") if line.kind == "early_fee"]
    assert [(line.seller_id, line.net_minor) for line in fees] == [
        (SELLER, 6_300_000), (OTHER_SELLER, 6_300_000)
    ]  # fmt: skip
    assert desired(one, "2026-06-01", "2026-07-01") == []


@pytest.mark.parametrize(
    ("billing", "expected"),
    [(Billing(cadence="P1Y"), [20_000, 200_000]), (Billing(cadence="P3M"), [80_000, 200_000])],
)
def test_sellers_share_a_fee_by_what_their_lines_cost_in_the_period_that_bounds_them(
    billing: Billing, expected: list[int]
) -> None:
    """10.00 a month, yet 1,200.00 a period: 100.00 a month of a year, 400.00 of a quarter."""
    low = AddProduct(SETUP, "backup", OTHER_SELLER, usd("10.00", min_minor=120_000), 1)
    leaves = ended("2027-07-01", cause="convenience", early_fee=EarlyFee("months", months=2))
    lines = [low, servers("1000.00", 1)]
    edits = contract("2027-01-01", lines, leaves, months=24, billing=billing)
    fees = [line for line in desired(edits, "2027-01-01", "2028-01-01") if line.kind == "early_fee"]
    assert [line.seller_id for line in fees] == [OTHER_SELLER, SELLER]
    assert [line.net_minor for line in fees] == expected


@pytest.mark.parametrize(("final_usage", "expected"), [("bill", [900]), ("skip", [])])
def test_the_last_days_use_may_be_let_go(final_usage: Any, expected: list[int]) -> None:
    edits = contract("2026-04-01", [hours(usd("1.00"))], ended("2026-05-16", final_usage=final_usage))
    used = {HOURS: [("2026-04-05", "7"), ("2026-05-05", "9")]}
    assert [line.net_minor for line in desired(edits, "2026-04-01", "2026-05-01", used)] == [700]
    assert [line.net_minor for line in desired(edits, "2026-05-01", "2026-06-01", used)] == expected


@pytest.mark.parametrize(("unused", "expected"), [("credit", 15_000), ("forfeit", 30_000)])
def test_what_is_unused_is_credited_or_forfeited(unused: Any, expected: int) -> None:
    billing = Billing(when="in_advance")
    edits = contract(
        "2026-04-01", [servers("300.00", 1)], ended("2026-04-16", unused=unused), billing=billing
    )
    assert sum(line.net_minor for line in desired(edits, "2026-04-01", "2026-05-01")) == expected
    assert desired(edits, "2026-05-01", "2026-06-01") == []


def test_a_hold_may_charge_a_part_of_the_price() -> None:
    hold = Suspend("maintenance", billing="reduced", reduced_to=Decimal("0.4"))
    edits = contract("2026-04-01", [servers("300.00", 1)], ("suspend", hold, "2026-04-16"))
    assert told(desired(edits, "2026-04-01", "2026-05-01")) == [
        ("recurring", "04-01 04-16", 15_000),
        ("recurring", "04-16 05-01", 6_000),
    ]


# Loans


def loan(when: str = "2026-01-01", **given: Any) -> Step:
    terms: dict[str, Any] = {
        "principal_minor": 18_000_000,
        "apr": Decimal("0.09"),
        "term_months": 24,
        "first_due_on": date(2026, 2, 1),
        **given,
    }
    return "attach_financing", AttachFinancing(DEAL, **terms), when


def lent(edits: Sequence[Edit], start: str, end: str) -> list[tuple[str, str, int]]:
    return [one for one in told(desired(edits, start, end)) if one[0] != "recurring"]


def test_instalments_are_interest_and_principal_of_no_line_and_without_tax() -> None:
    edits = contract("2026-01-01", [servers()], loan(), terms=TAXED)
    found = [line for line in desired(edits, "2026-02-01", "2026-03-01") if line.kind != "recurring"]
    assert told(found) == [("interest", "02-01 02-01", 135_000), ("principal", "02-01 02-01", 687_325)]
    assert {(line.line_id, line.seller_id, line.source_id, line.tax_minor) for line in found} == {
        (None, None, DEAL, 0)
    }
    whole = lent(edits, "2026-01-01", "2028-03-01")
    assert sum(net for kind, _, net in whole if kind == "principal") == 18_000_000
    assert sum(net for kind, _, net in whole if kind == "interest") == 1_735_810


def test_a_loan_that_falls_due_with_the_contract_is_paid_off_at_its_balance() -> None:
    edits = contract("2026-01-01", [servers()], loan(), ended("2027-01-01"))
    assert [net for _, _, net in lent(edits, "2027-01-01", "2028-03-01")] == [76_121, 746_204]
    assert lent(edits, "2026-12-02", "2027-01-01") == [("financing_payoff", "01-01 01-01", 9_403_224)]


def test_a_loan_that_goes_on_after_the_contract_falls_due_row_by_row() -> None:
    edits = contract("2026-01-01", [servers()], loan(on_terminate="continue"), ended("2026-03-16"))
    assert [net for _, _, net in lent(edits, "2026-04-01", "2026-04-02")] == [124_651, 697_674]


def test_another_buyer_pays_the_rows_that_fall_due_with_him() -> None:
    taken = TransferOwnership("buyer", NEW_BUYER)
    edits = contract("2026-01-01", [servers()], loan(), ("transfer_ownership", taken, "2026-02-16"))
    lines = [line for line in desired(edits, "2026-02-01", "2026-03-02") if line.kind == "principal"]
    assert [(line.buyer_id, line.owner_epoch) for line in lines] == [(BUYER, 1), (NEW_BUYER, 2)]


def test_an_instalment_of_the_day_on_which_a_buyer_leaves_and_pays_off_is_not_the_next_buyers() -> None:
    leaves = "transfer_ownership", TransferOwnership("buyer", NEW_BUYER, financing="payoff"), "2026-04-01"
    edits = contract("2026-01-01", [servers()], loan(), leaves)
    owed = [line for line in desired(edits, "2026-03-02", "2028-03-01") if line.kind != "recurring"]
    assert {line.buyer_id for line in owed} == {BUYER}
    found = {line.kind: line.net_minor for line in owed}
    assert found == {"interest": 124_651, "principal": 697_674, "financing_payoff": 15_922_521}
