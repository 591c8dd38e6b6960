"""Prices that bend, through all that can happen in a period: what begins a count anew, and what shares it."""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.rules.fold import Edit
from contracts.rules.lines import DesiredLine
from contracts.rules.operations.holds import Resume, Suspend
from contracts.rules.operations.prices import ChangePrice
from contracts.rules.operations.products import AddProduct, ChangeQuantity, RemoveProduct
from contracts.rules.operations.renew import Renew
from contracts.rules.operations.terminate import Terminate
from contracts.rules.operations.terms import ChangeTerms
from contracts.rules.operations.transfer import TransferOwnership
from contracts.rules.schema import Patch
from contracts.rules.state import Price, Tier
from contracts.rules.terms import Uplift
from tests.contracts.logs import (
    BUYER,
    HOURS,
    OTHER_SELLER,
    SELLER,
    SERVERS,
    Step,
    Used,
    contract,
    desired,
    hours,
    servers,
    told,
    usd,
)

NEW_BUYER = UUID(int=11)
MARCH = "2027-03-01", "2027-04-01"
TIERS = (Tier(Decimal(100), Decimal(2)), Tier(Decimal(250), Decimal(1)), Tier(None, Decimal(3)))
BENT = [
    usd("2.00", included=Decimal(100)),
    usd("0", "graduated", tiers=TIERS),
    usd("2.00", max_minor=45_000),
    usd("30.00", "package", package_size=Decimal(70)),
    usd("2.00", included=Decimal(50), max_minor=40_000),
]
USED: Used = {HOURS: [("2027-03-05", "100"), ("2027-03-15", "100"), ("2027-03-25", "100")]}


def held(since: str, until: str, **given: Any) -> list[Step]:
    return [("suspend", Suspend("buyer", **given), since), ("resume", Resume("buyer"), until)]


def total(lines: Sequence[DesiredLine]) -> int:
    return sum(line.net_minor for line in lines)


def sold(to: UUID, when: str) -> Step:
    return "transfer_ownership", TransferOwnership("seller", to), when


# Holds


@pytest.mark.parametrize("price", BENT)
def test_a_hold_that_leaves_the_whole_price_does_not_begin_the_count_anew(price: Price) -> None:
    plain = desired(contract("2027-03-01", [hours(price)]), *MARCH, USED)
    hold = held("2027-03-10", "2027-03-20", billing="reduced", reduced_to=Decimal(1))
    assert total(desired(contract("2027-03-01", [hours(price)], *hold), *MARCH, USED)) == total(plain)


def test_a_reduced_hold_reduces_what_its_own_days_add_to_the_count() -> None:
    """100 of 300 are included; the next hundred costs half, the last one its price."""
    hold = held("2027-03-10", "2027-03-20", billing="reduced", reduced_to=Decimal("0.5"))
    lines = desired(contract("2027-03-01", [hours(BENT[0])], *hold), *MARCH, USED)
    assert [(line.quantity, line.net_minor) for line in lines] == [(100, 0), (100, 10_000), (100, 20_000)]


def test_a_maximum_is_for_all_days_together_whatever_share_they_earn() -> None:
    hold = held("2027-03-10", "2027-03-20", billing="reduced", reduced_to=Decimal("0.5"))
    lines = desired(contract("2027-03-01", [hours(BENT[2])], *hold), *MARCH, USED)
    assert [line.net_minor for line in lines] == [20_000, 10_000, 15_000]


# Prices, sellers and owners within a period


def minimum(minor: int, rate: str = "2.00") -> Price:
    return usd(rate, min_minor=minor)


def test_a_renewal_within_a_period_charges_the_minimum_once() -> None:
    """9 days of 1,000.00 and 22 of 1,035.00 a month."""
    renewed = ("renew", Renew(uplift=Uplift("percent", Decimal("0.035"))), "2028-03-10")
    edits = contract("2027-03-10", [hours(minimum(100_000))], renewed, months=12)
    assert told(desired(edits, "2028-03-01", "2028-04-01")) == [
        ("true_up", "03-01 03-10", 29_032),
        ("true_up", "03-10 04-01", 73_452),
    ]


def test_another_seller_begins_nothing_anew_for_the_buyer() -> None:
    for price in [*BENT, minimum(100_000)]:
        plain = desired(contract("2027-03-01", [hours(price)]), *MARCH, USED)
        sale = desired(contract("2027-03-01", [hours(price)], sold(OTHER_SELLER, "2027-03-16")), *MARCH, USED)
        assert total(sale) == total(plain)
        assert {line.seller_id for line in sale} == {SELLER, OTHER_SELLER}


@pytest.mark.parametrize(
    ("used", "expected"),
    [([("2027-03-05", "300"), ("2027-03-20", "100")], [15_000, 5_000]), ([], [48_387, 51_613])],
)
def test_sellers_share_a_minimum_by_what_they_earned_or_else_by_their_days(
    used: list[tuple[str, str]], expected: list[int]
) -> None:
    edits = contract("2027-03-01", [hours(minimum(100_000))], sold(OTHER_SELLER, "2027-03-16"))
    lines = desired(edits, *MARCH, {HOURS: used})
    tops = {line.seller_id: line.net_minor for line in lines if line.kind == "true_up"}
    assert [tops[SELLER], tops[OTHER_SELLER]] == expected
    assert total(lines) == 100_000


def test_prices_of_one_period_share_its_included_units_tiers_and_maximum() -> None:
    """Ten of thirty days have a third of what a whole month includes."""
    price = usd("2.00", included=Decimal(90), max_minor=60_000)
    change = ("change_price", ChangePrice(HOURS, percent=Decimal("0.5")), "2027-04-11")
    edits = contract("2027-04-01", [hours(price)], change)
    april = "2027-04-01", "2027-05-01"
    little = {HOURS: [("2027-04-05", "40"), ("2027-04-15", "70")]}
    assert [line.net_minor for line in desired(edits, *april, little)] == [2_000, 3_000]
    much = {HOURS: [("2027-04-05", "4000"), ("2027-04-15", "4000")]}
    assert [line.net_minor for line in desired(edits, *april, much)] == [20_000, 60_000]
    tiered = usd("0", "graduated", tiers=(Tier(Decimal(30), Decimal(2), 300), Tier(None, Decimal(1))))
    edits = contract("2027-04-01", [hours(tiered)], change)
    assert [line.net_minor for line in desired(edits, *april, little)] == [5_100, 13_800]


def test_each_owner_has_the_part_of_a_minimum_that_his_days_are() -> None:
    bought = ("transfer_ownership", TransferOwnership("buyer", NEW_BUYER), "2027-04-11")
    edits = contract("2027-04-01", [hours(minimum(30_000))], bought)
    lines = desired(edits, "2027-04-01", "2027-05-01", {HOURS: [("2027-04-02", "200")]})
    assert [(line.kind, line.buyer_id, line.net_minor) for line in lines] == [
        ("usage", BUYER, 40_000),
        ("true_up", NEW_BUYER, 20_000),
    ]


TRANSFER: Step = ("transfer_ownership", TransferOwnership("buyer", NEW_BUYER), "2027-03-11")


@pytest.mark.parametrize(
    ("then", "due"),
    [
        ([], 21_000),
        ([("terminate", Terminate("date", cause="convenience"), "2027-03-21")], 21_000),
        ([("suspend", Suspend("buyer", billing="stop"), "2027-03-12")], 21_000),
        ([("change_price", ChangePrice(HOURS, percent=Decimal("0.5")), "2027-03-25")], 14_000 + 10_500),
    ],
)
def test_an_owner_pays_his_days_of_a_minimum_whatever_the_next_one_does(then: list[Step], due: int) -> None:
    """10 of 31 days of 310.00 are 100.00; the rest is the next owner's, billed for all his days or not."""
    edits = contract("2027-03-01", [hours(minimum(31_000))], TRANSFER, *then)
    tops = Counter[UUID]()
    for line in desired(edits, *MARCH):
        assert line.kind == "true_up"
        tops[line.buyer_id] += line.net_minor
    assert tops == {BUYER: 10_000, NEW_BUYER: due}


def test_prices_and_holds_of_one_owner_share_his_days_by_what_of_them_is_billed() -> None:
    """Ten of his days stand still: five are billed at each price, of which each has a half."""
    change = ("change_price", ChangePrice(HOURS, percent=Decimal("0.5")), "2027-03-16")
    edits = contract(
        "2027-03-01", [hours(minimum(31_000))], *held("2027-03-06", "2027-03-16", billing="stop"), change,
        ("transfer_ownership", TransferOwnership("buyer", NEW_BUYER), "2027-03-21"),
    )  # fmt: skip
    assert told(desired(edits, *MARCH)) == [
        ("true_up", "03-01 03-06", 10_000),
        ("true_up", "03-16 03-21", 15_000),
        ("true_up", "03-21 04-01", 16_500),
    ]


def test_only_a_line_that_goes_to_the_next_owner_shares_its_bounds_with_him() -> None:
    """One that was removed before, or added after, has them whole, as without a transfer."""
    gone = ("remove_product", RemoveProduct(HOURS, when="date"), "2027-03-05")
    edits = contract("2027-03-01", [hours(minimum(31_000)), servers()], gone, TRANSFER)
    added = ("add_product", hours(minimum(31_000)), "2027-03-21")
    later = contract("2027-03-01", [servers()], TRANSFER, added)
    for log, buyer in ((edits, BUYER), (later, NEW_BUYER)):
        [line] = [line for line in desired(log, *MARCH) if line.kind == "true_up"]
        assert (line.buyer_id, line.net_minor) == (buyer, 31_000)


# However it is asked for


def changes(draw: st.DrawFn) -> list[Step]:
    since, until = sorted(draw(st.lists(st.integers(2, 27), min_size=2, max_size=2, unique=True)))
    day = f"2027-03-{draw(st.integers(2, 27)):02}"
    hold = draw(st.sampled_from([{"billing": "stop"}, {"billing": "reduced", "reduced_to": Decimal("0.37")}]))
    choices = [
        held(f"2027-03-{since:02}", f"2027-03-{until:02}", **hold),
        [sold(OTHER_SELLER, day)],
        [("transfer_ownership", TransferOwnership("buyer", NEW_BUYER), day)],
        [("change_price", ChangePrice(HOURS, percent=Decimal("0.035")), day)],
        [("change_quantity", ChangeQuantity(SERVERS, delta=1), day)],
    ]
    return draw(st.sampled_from(choices))


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([*BENT, usd("1.95"), minimum(80_000)]),
    st.sampled_from([usd("100.00"), usd("333.33", max_minor=70_001)]),
    st.lists(st.composite(changes)(), max_size=2),
    st.lists(st.integers(2, 31), max_size=4, unique=True),
    st.lists(st.tuples(st.integers(1, 31), st.integers(0, 9_000)), max_size=6),
)
def test_the_stretches_of_a_period_add_up_to_the_period(
    price: Price, rate: Price, changed: list[list[Step]], days: list[int], used: list[tuple[int, int]]
) -> None:
    steps = sorted((step for steps in changed for step in steps), key=lambda step: step[2])
    lines = [hours(price), AddProduct(SERVERS, "h100-server", SELLER, rate, 2, unit="server_month")]
    edits = contract("2027-03-01", lines, *steps)
    readings = {HOURS: [(f"2027-03-{day:02}", str(Decimal(units) / 100)) for day, units in used]}
    marks = ["2027-03-01", *(f"2027-03-{day:02}" for day in sorted(days)), "2027-04-01"]

    def sums(spans: list[tuple[str, str]]) -> Counter[object]:
        found: Counter[object] = Counter()
        for span in spans:
            for line in desired(edits, *span, readings):
                found[line.owed] += line.net_minor
        return Counter({owed: net for owed, net in found.items() if net})

    assert sums(list(pairwise(marks))) == sums([MARCH])


def afterwards(draw: st.DrawFn) -> list[Step]:
    """What the next owner may do with his days, from 12 March on."""
    first, last = sorted(draw(st.lists(st.integers(12, 30), min_size=2, max_size=2, unique=True)))
    day, then = f"2027-03-{first}", f"2027-03-{last}"
    choices: list[list[Step]] = [
        held(day, then, billing="stop"),
        held(day, then, billing="reduced", reduced_to=Decimal("0.37")),
        [("suspend", Suspend("buyer", billing="stop"), day)],
        [("terminate", Terminate("date", cause="convenience"), day)],
        [("transfer_ownership", TransferOwnership("buyer", BUYER), day)],
        [sold(OTHER_SELLER, day), ("change_price", ChangePrice(HOURS, percent=Decimal("0.5")), then)],
        [("remove_product", RemoveProduct(HOURS, when="date", unused="forfeit"), day)],
        [("remove_product", RemoveProduct(SERVERS, when="date"), day)],
        [("change_quantity", ChangeQuantity(SERVERS, delta=1), day)],
        [("change_terms", ChangeTerms(billing=Patch({"anchor_day": 20})), day)],
    ]
    return draw(st.sampled_from(choices))


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([*BENT, minimum(80_000)]),
    st.sampled_from([usd("333.33", max_minor=40_001), usd("10.00", "flat", min_minor=50_000)]),
    st.lists(st.composite(changes)(), max_size=1),
    st.composite(afterwards)(),
    st.lists(st.tuples(st.integers(1, 31), st.integers(0, 9_000)), max_size=6),
)
def test_what_an_owner_owes_until_he_leaves_does_not_depend_on_what_comes_after(
    price: Price, rate: Price, before: list[list[Step]], after: list[Step], used: list[tuple[int, int]]
) -> None:
    # A suspended contract is not transferred: what he did is over by then, or left out.
    own = [step for steps in before if all(day < TRANSFER[2] for *_, day in steps) for step in steps]
    lines = [hours(price), AddProduct(SERVERS, "h100-server", SELLER, rate, 2, unit="server_month")]
    readings = {HOURS: [(f"2027-03-{day:02}", str(Decimal(units) / 100)) for day, units in used]}
    taken = TRANSFER[0], TransferOwnership("buyer", UUID(int=12)), TRANSFER[2]
    alone, more = (contract("2027-03-01", lines, *own, taken, *then) for then in ([], after))
    owner = 2 + sum(
        operation == "transfer_ownership" and given.party == "buyer" for operation, given, _ in own
    )
    for asked in (MARCH, ("2027-03-01", TRANSFER[2])):
        bills = [
            [line for line in desired(edits, *asked, readings) if line.owner_epoch < owner]
            for edits in (alone, more)
        ]
        assert bills[0] == bills[1]


def test_a_hundred_a_month_is_a_hundred_in_any_four_parts() -> None:
    edits: list[Edit] = contract("2027-03-01", [servers("100.00", 1)])
    marks = ["2027-03-01", "2027-03-05", "2027-03-17", "2027-03-28", "2027-04-01"]
    parts = [total(desired(edits, *span)) for span in pairwise(marks)]
    assert parts == [1_290, 3_871, 3_549, 1_290]
    assert sum(parts) == 10_000
