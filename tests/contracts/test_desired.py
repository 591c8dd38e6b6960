"""Desired lines: what a contract should have billed, period by period, to the cent."""

from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.rules.line_service import LineService
from contracts.rules.lines import DesiredLine
from contracts.rules.operations.commitment import SetCommitment
from contracts.rules.operations.correct import Correct
from contracts.rules.operations.discounts import ApplyDiscount, Funding
from contracts.rules.operations.holds import Resume, Suspend
from contracts.rules.operations.prices import ChangePrice
from contracts.rules.operations.products import AddProduct, ChangeQuantity, RemoveProduct
from contracts.rules.operations.terminate import Terminate
from contracts.rules.operations.transfer import TransferOwnership
from contracts.rules.state import Amount, Tier
from contracts.rules.terms import Billing, Tax, Terms
from tests.contracts.logs import (
    BUYER,
    HOURS,
    SELLER,
    SERVERS,
    SETUP,
    Step,
    at,
    changed,
    contract,
    desired,
    hours,
    log,
    report,
    servers,
    told,
    usd,
)

NEW_BUYER = UUID(int=11)
TAXED = Terms(tax=Tax(rate=Decimal("0.0825")))


def total(lines: list[DesiredLine]) -> int:
    return sum(line.net_minor for line in lines)


def test_four_servers_from_the_tenth_and_two_more_in_april() -> None:
    """51,096.77 for 22 of 31 days, and 18,000.00 more for half of April."""
    edits = contract(
        "2026-03-10", [servers()], ("change_quantity", ChangeQuantity(SERVERS, delta=2), "2026-04-16")
    )
    assert told(desired(edits, "2026-03-10", "2026-05-01")) == [
        ("recurring", "03-10 04-01", 5_109_677),
        ("recurring", "04-01 04-16", 3_600_000),
        ("recurring", "04-16 05-01", 5_400_000),
    ]


def test_a_line_says_whose_it_is_what_it_costs_and_its_tax() -> None:
    (line,) = desired(contract("2026-03-01", [servers()], terms=TAXED), "2026-03-01", "2026-04-01")
    assert (line.line_id, line.source_id, line.product) == (SERVERS, SERVERS, "h100-server")
    assert (line.seller_id, line.buyer_id, line.owner_epoch) == (SELLER, BUYER, 1)
    assert (line.quantity, line.rate, line.period_start) == (4, 18_000, at("2026-03-01"))
    assert (line.net_minor, line.tax_minor, line.funded_by) == (7_200_000, 594_000, "")


def test_who_asks_for_a_part_of_a_period_gets_the_lines_of_that_part() -> None:
    edits = contract("2026-03-01", [servers(), hours(usd("1.95", included=Decimal(10)))])
    used = {HOURS: [("2026-03-05", "30"), ("2026-03-20", "7")]}
    first = desired(edits, "2026-03-01", "2026-03-16", used)
    second = desired(edits, "2026-03-16", "2026-04-01", used)
    whole = desired(edits, "2026-03-01", "2026-04-01", used)
    assert [line.net_minor for line in first] == [3_483_871, 3_900]
    assert [line.net_minor for line in second] == [3_716_129, 1_365]
    assert total(first) + total(second) == total(whole)


def test_a_pause_keeps_the_anchored_period() -> None:
    """500.00 a month from 31 August, paused from the 5th to the 10th of September: 25 of 30 days remain."""
    edits = contract(
        "2013-08-31", [servers("500.00", 1)],
        ("suspend", Suspend("buyer", billing="stop"), "2013-09-05"),
        ("resume", Resume("buyer"), "2013-09-10"),
        billing=Billing(anchor_day=31),
    )  # fmt: skip
    lines = desired(edits, "2013-08-31", "2013-09-30")
    assert told(lines) == [("recurring", "08-31 09-05", 8_333), ("recurring", "09-10 09-30", 33_333)]
    whole = contract("2013-08-31", [servers("500.00", 1)], billing=Billing(anchor_day=31))
    (paused,) = changed(whole, edits, "2013-08-31", "2013-09-30")
    assert paused.net_minor == 33_333 - 41_667


def test_suspended_and_resumed_at_one_instant_changes_nothing() -> None:
    edits = contract("2026-03-01", [servers()])
    held = log(
        ("suspend", Suspend("buyer", billing="stop"), "2026-03-07"),
        ("resume", Resume("buyer"), "2026-03-07"),
        after=edits,
    )
    assert desired(held, "2026-03-01", "2026-04-01") == desired(edits, "2026-03-01", "2026-04-01")


def test_an_edit_voided_and_reinstated_changes_nothing_and_voided_everything() -> None:
    edits = contract("2026-03-01", [servers()])
    more = log(("change_quantity", ChangeQuantity(SERVERS, delta=2), "2026-03-16"), after=edits)
    voided = log(("correct", Correct(len(more), "void"), "2026-03-20"), after=more)
    again = log(("correct", Correct(len(more), "reinstate"), "2026-03-21"), after=voided)
    march = "2026-03-01", "2026-04-01"
    assert desired(voided, *march) == desired(edits, *march)
    assert desired(again, *march) == desired(more, *march)
    assert desired(more, *march) != desired(edits, *march)


def test_a_transfer_within_a_period_charges_each_owner_the_days_of_his_own() -> None:
    edits = contract(
        "2026-03-01", [servers(), hours()],
        ("transfer_ownership", TransferOwnership("buyer", NEW_BUYER), "2026-03-11"),
    )  # fmt: skip
    lines = desired(edits, "2026-03-01", "2026-04-01", {HOURS: [("2026-03-10", "5"), ("2026-03-11", "7")]})
    assert [(line.kind, line.buyer_id, line.owner_epoch, line.net_minor) for line in lines] == [
        ("recurring", BUYER, 1, 2_322_581),
        ("recurring", NEW_BUYER, 2, 4_877_419),
        ("usage", BUYER, 1, 975),
        ("usage", NEW_BUYER, 2, 1_365),
    ]


def test_another_anchor_cuts_the_period_and_a_stub_leads_to_the_new_one() -> None:
    """The example of 249.95 from the 9th, taken over on the 3rd with an anchor on the 15th: 12 of 30 days."""
    taken = TransferOwnership("buyer", NEW_BUYER, anchor="new_day", anchor_day=15)
    edits = contract(
        "2012-05-01", [servers("249.95", 1)],
        ("transfer_ownership", taken, "2012-05-03"), billing=Billing(anchor_day=9),
    )  # fmt: skip
    assert told(desired(edits, "2012-05-01", "2012-06-15")) == [
        ("recurring", "05-01 05-03", 1_666),
        ("recurring", "05-03 05-15", 9_998),
        ("recurring", "05-15 06-15", 24_995),
    ]


def test_a_quarter_costs_three_months_and_a_year_twelve() -> None:
    quarterly = contract("2026-01-01", [servers(quantity=1)], billing=Billing(cadence="P3M"))
    assert told(desired(quarterly, "2026-01-01", "2026-07-01")) == [
        ("recurring", "01-01 04-01", 5_400_000),
        ("recurring", "04-01 07-01", 5_400_000),
    ]
    yearly = contract("2026-01-01", [servers(quantity=1)], billing=Billing(cadence="P1Y"))
    assert told(desired(yearly, "2026-01-01", "2027-01-01")) == [("recurring", "01-01 01-01", 21_600_000)]


def test_a_terminated_contract_owes_what_ran_and_a_later_range_nothing() -> None:
    edits = contract("2026-03-01", [servers()], ("terminate", Terminate("date"), "2026-03-16"))
    assert total(desired(edits, "2026-03-01", "2026-04-01")) == 3_483_871
    assert desired(edits, "2026-04-01", "2026-05-01") == []
    assert desired(edits, "2026-03-16", "2026-05-01") == []


def test_what_was_known_earlier_is_billed_as_it_was_known() -> None:
    cut = ("change_price", ChangePrice(SERVERS, usd("17000.00")), "2026-04-01", "2026-05-20")
    edits = contract("2026-03-10", [servers()], cut)
    april = "2026-04-01", "2026-05-01"
    assert total(desired(edits, *april, known_at=at("2026-05-19"))) == 7_200_000
    assert total(desired(edits, *april)) == 6_800_000


def test_a_line_that_bills_from_service_is_charged_for_the_units_that_serve() -> None:
    line = AddProduct(
        SERVERS, "h100-server", SELLER, usd("18000.00"), 4, unit="server_month", bill_from="in_service"
    )
    edits = contract("2026-03-01", [line])

    reports = [
        report("in_service", "2026-03-11" if no == 1 else "2026-03-21", f"u-{no}") for no in range(1, 6)
    ]
    service = LineService(lambda: reports, until=at("2026-05-01"))
    assert told(desired(edits, "2026-03-01", "2026-04-01", service=service)) == [
        ("recurring", "03-11 03-21", 580_645),
        ("recurring", "03-21 04-01", 2_554_839),
    ]
    assert desired(edits, "2026-03-01", "2026-04-01") == []


# Prices that bend


def test_tiers_and_included_units_count_through_the_period_over_a_suspension() -> None:
    tiers = (Tier(Decimal(10), Decimal(2)), Tier(None, Decimal(1)))
    price = usd("0", "graduated", tiers=tiers, included=Decimal(5))
    edits = contract(
        "2026-03-01", [hours(price)],
        ("suspend", Suspend("buyer", billing="stop"), "2026-03-10"),
        ("resume", Resume("buyer"), "2026-03-20"),
    )  # fmt: skip
    used = {HOURS: [("2026-03-05", "12"), ("2026-03-15", "100"), ("2026-03-25", "8")]}
    assert told(desired(edits, "2026-03-01", "2026-04-01", used)) == [
        ("usage", "03-01 03-10", 1_400),
        ("usage", "03-20 04-01", 1_100),
    ]


def test_counting_begins_anew_with_each_period_and_each_owner() -> None:
    price = usd("10.00", "package", package_size=Decimal(20))
    edits = contract(
        "2026-03-01", [hours(price)],
        ("transfer_ownership", TransferOwnership("buyer", NEW_BUYER), "2026-04-11"),
    )  # fmt: skip
    used = {HOURS: [("2026-03-05", "21"), ("2026-04-05", "1"), ("2026-04-20", "1")]}
    assert [line.net_minor for line in desired(edits, "2026-03-01", "2026-05-01", used)] == [2000, 1000, 1000]


def test_a_minimum_is_a_line_of_its_own_at_the_end_and_a_maximum_is_not_exceeded() -> None:
    edits = contract("2026-03-01", [hours(usd("1.00", min_minor=5_000, max_minor=8_000))])
    little, much = {HOURS: [("2026-03-05", "20")]}, {HOURS: [("2026-03-05", "200")]}
    assert told(desired(edits, "2026-03-01", "2026-04-01", little)) == [
        ("usage", "03-01 04-01", 2_000),
        ("true_up", "03-01 04-01", 3_000),
    ]
    assert told(desired(edits, "2026-03-01", "2026-04-01")) == [("true_up", "03-01 04-01", 5_000)]
    assert told(desired(edits, "2026-03-01", "2026-04-01", much)) == [("usage", "03-01 04-01", 8_000)]
    assert [line.kind for line in desired(edits, "2026-03-01", "2026-03-20", little)] == ["usage"]
    assert [line.kind for line in desired(edits, "2026-03-20", "2026-04-01", little)] == ["true_up"]


@pytest.mark.parametrize(("prorated", "expected"), [(False, 6_200), (True, 4_400)])
def test_the_minimum_of_a_stub_is_whole_unless_the_price_prorates_it(prorated: bool, expected: int) -> None:
    edits = contract("2026-03-10", [hours(usd("1.00", min_minor=6_200, prorate_bounds=prorated))])
    assert total(desired(edits, "2026-03-10", "2026-04-01")) == expected


def test_a_maximum_holds_for_all_of_a_recurring_lines_quantities_together() -> None:
    line = AddProduct(SERVERS, "h100-server", SELLER, usd("100.00", max_minor=25_001), 2)
    edits = contract(
        "2026-04-01", [line], ("change_quantity", ChangeQuantity(SERVERS, delta=2), "2026-04-16")
    )
    assert told(desired(edits, "2026-04-01", "2026-05-01")) == [
        ("recurring", "04-01 04-16", 8_334),
        ("recurring", "04-16 05-01", 16_667),
    ]


def test_a_flat_price_is_the_same_however_many_and_is_prorated_by_time() -> None:
    line = AddProduct(SERVERS, "cage", SELLER, usd("310.00", "flat"), 7)
    edits = contract("2026-03-01", [line], ("remove_product", RemoveProduct(SERVERS), "2026-03-11"))
    assert told(desired(edits, "2026-03-01", "2026-04-01")) == [("recurring", "03-01 03-11", 10_000)]


def test_what_is_charged_once_is_charged_when_it_begins_and_for_what_is_added() -> None:
    setup = AddProduct(SETUP, "cross-connect", SELLER, usd("250.00", "one_off"), 2, kind="one_off")
    edits = contract(
        "2026-03-10", [setup],
        ("change_quantity", ChangeQuantity(SETUP, quantity=1), "2026-03-20"),
        ("change_quantity", ChangeQuantity(SETUP, quantity=3), "2026-04-05"),
    )  # fmt: skip
    assert told(desired(edits, "2026-03-10", "2026-04-01")) == [("one_off", "03-10 03-10", 50_000)]
    assert told(desired(edits, "2026-04-01", "2026-05-01")) == [("one_off", "04-05 04-05", 25_000)]
    assert desired(edits, "2026-05-01", "2026-06-01") == []


# Any log


def steps(draw: st.DrawFn) -> Step:
    """An edit that may or may not make sense where it falls: the fold takes it as it comes."""
    line = draw(st.sampled_from([SERVERS, HOURS]))
    share = Decimal(draw(st.integers(0, 100))) / 100
    amount = draw(st.integers(0, 5_000_000))
    ids = st.integers(100, 102).map(lambda no: UUID(int=no))
    choices: list[tuple[str, object]] = [
        ("change_quantity", ChangeQuantity(SERVERS, quantity=draw(st.integers(0, 9)))),
        ("change_price", ChangePrice(line, usd(str(draw(st.integers(0, 20_000)))))),
        ("suspend", Suspend(draw(st.sampled_from(["buyer", "seller_fault"])), billing="stop")),
        ("resume", Resume(draw(st.sampled_from(["buyer", "seller_fault"])))),
        ("remove_product", RemoveProduct(line)),
        ("transfer_ownership", TransferOwnership("buyer", draw(st.sampled_from([NEW_BUYER, BUYER])))),
        ("terminate", Terminate("date", unused=draw(st.sampled_from(["credit", "forfeit"])))),
        ("apply_discount", ApplyDiscount(draw(ids), kind="percent", percent=share)),
        (
            "apply_discount",
            ApplyDiscount(draw(ids), kind="fixed_per_period", amount=Amount(amount, "USD"),
                          funded_by=Funding("split", share)),
        ),
        ("apply_discount", ApplyDiscount(draw(ids), kind="free_units", units=Decimal(amount % 12))),
        (
            "set_commitment",
            SetCommitment(draw(ids), kind="minimum_spend", amount_minor=amount, overage_factor=1 + share,
                          window=draw(st.sampled_from(["period", "quarter", "term"]))),
        ),
        (
            "set_commitment",
            SetCommitment(draw(ids), kind="minimum_quantity", units=Decimal(amount % 90), scope=(HOURS,),
                          overage_factor=1 + share, rollover_units=Decimal(amount % 7)),
        ),
        ("correct", Correct(draw(st.integers(2, 9)), "void")),
    ]  # fmt: skip
    operation, payload = draw(st.sampled_from(choices))
    return operation, payload, f"2026-{draw(st.integers(1, 6)):02}-{draw(st.integers(1, 28)):02}"


@settings(deadline=None, max_examples=150)
@given(st.lists(st.composite(steps)(), max_size=8))
def test_any_log_bills_each_thing_once_and_never_less_than_nothing(history: list[Step]) -> None:
    edits = contract("2026-01-10", [servers(), hours(usd("1.50", included=Decimal(3)))], *history, months=6)
    used = {HOURS: [(f"2026-{month:02}-{day:02}", "17.25") for month in range(1, 8) for day in (3, 13, 23)]}
    whole = desired(edits, "2026-01-01", "2026-09-01", used)
    months = [desired(edits, f"2026-{m:02}-01", f"2026-{m + 1:02}-01", used) for m in range(1, 9)]
    assert total(whole) == sum(map(total, months))
    assert len({(*vars(line).items(),) for line in whole}) == len(whole)
    assert all((line.net_minor <= 0) == (line.kind == "discount") for line in whole if line.net_minor)
    charges = [line for line in whole if line.kind in ("recurring", "usage", "discount")]
    for start, line_id in {(line.start, line.line_id) for line in charges}:
        of_it = [line for line in charges if (line.start, line.line_id) == (start, line_id)]
        assert total(of_it) >= 0
        assert sum(line.tax_minor for line in of_it) == 0
    found = changed(edits[:4], edits, "2026-01-01", "2026-09-01")
    unused = [desired(log, "2026-01-01", "2026-09-01") for log in (edits[:4], edits)]
    assert sum(one.net_minor for one in found) == total(unused[1]) - total(unused[0])
