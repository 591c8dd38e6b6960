"""Free units on prices that bend: a count costs what it would if they had not been used, and never more."""

from decimal import Decimal
from itertools import accumulate, pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.rules.operations.discounts import ApplyDiscount
from contracts.rules.operations.holds import Resume, Suspend
from contracts.rules.operations.products import AddProduct
from contracts.rules.operations.transfer import TransferOwnership
from contracts.rules.state import Amount, Price, Tier
from tests.contracts.logs import HOURS, OTHER_SELLER, SELLER, SERVERS, Step, contract, desired, hours, usd

MARCH = "2027-03-01", "2027-04-01"
FALLING = usd("0", "graduated", tiers=(Tier(Decimal(10), Decimal(10)), Tier(None, Decimal(1))))
RISING = usd("0", "graduated", tiers=(Tier(Decimal(10), Decimal(1)), Tier(None, Decimal(10))))
UPS_AND_DOWNS = usd(
    "0", "graduated",
    tiers=(Tier(Decimal(8), Decimal(3)), Tier(Decimal(15), Decimal(1), 50), Tier(None, Decimal(7))),
)  # fmt: skip
BY_VOLUME = usd("0", "volume", tiers=(Tier(Decimal(10), Decimal(10)), Tier(None, Decimal(5))))
INCLUDED = usd("2.00", included=Decimal(100))
STOPPED: list[Step] = [
    ("suspend", Suspend("buyer", billing="stop"), "2027-03-10"),
    ("resume", Resume("buyer"), "2027-03-11"),
]


def free(units: str, when: str = "2027-03-01", no: int = 70) -> Step:
    return "apply_discount", ApplyDiscount(UUID(int=no), kind="free_units", units=Decimal(units)), when


def off(edits: Any, *span: str, used: Any = None) -> list[int]:
    return [line.net_minor for line in desired(edits, *span, used) if line.kind == "discount"]


@pytest.mark.parametrize("then", [[], STOPPED])
@pytest.mark.parametrize(
    ("price", "units", "used", "expected"),
    [
        (FALLING, "10", ["10", "10"], 1_000),
        (RISING, "10", ["10", "10"], 10_000),
        (INCLUDED, "30", ["100", "50"], 6_000),
        (usd("30.00", "package", package_size=Decimal(20)), "1", ["15", "6"], 3_000),
        (usd("2.00", max_minor=5_000), "10", ["20", "20"], 0),
        (BY_VOLUME, "6", ["6", "10"], 0),
        (BY_VOLUME, "1", ["8", "1"], 1_000),
    ],
)
def test_free_units_save_the_same_whether_or_not_billing_paused(
    price: Price, units: str, used: list[str], expected: int, then: list[Step]
) -> None:
    readings = {HOURS: list(zip(("2027-03-05", "2027-03-20"), used, strict=True))}
    edits = contract("2027-03-01", [hours(price)], free(units), *then)
    found = off(edits, *MARCH, used=readings)
    assert -sum(found) == expected
    assert all(minor < 0 for minor in found)


def test_fewer_units_that_would_cost_more_are_no_discount() -> None:
    """Eleven at 5.00 are 55.00, and ten would be 100.00."""
    metered = contract("2027-03-01", [hours(BY_VOLUME)], free("1"))
    assert off(metered, *MARCH, used={HOURS: [("2027-03-05", "11")]}) == []
    line = AddProduct(SERVERS, "h100", SELLER, BY_VOLUME, 11, unit="server_month")
    recurring = contract("2027-03-01", [line], free("1"))
    assert off(recurring, *MARCH) == []


def test_free_units_save_of_a_reduced_price_what_is_left_of_it() -> None:
    hold: list[Step] = [
        ("suspend", Suspend("buyer", billing="reduced", reduced_to=Decimal("0.5")), "2027-03-10")
    ]
    edits = contract("2027-03-01", [hours(usd("2.00"))], free("10"), *hold)
    assert off(edits, *MARCH, used={HOURS: [("2027-03-15", "25")]}) == [-1_000]


def test_two_discounts_do_not_make_the_same_units_free() -> None:
    edits = contract("2027-03-01", [hours(RISING)], free("10"), free("5", no=71))
    assert off(edits, *MARCH, used={HOURS: [("2027-03-05", "17")]}) == [-7_300, -500]
    assert off(edits, *MARCH, used={HOURS: [("2027-03-05", "12")]}) == [-2_800, -200]


def test_units_are_free_only_while_the_discount_is_in_force() -> None:
    edits = contract("2027-03-01", [hours(usd("2.00"))], free("10", "2027-03-20"))
    assert off(edits, *MARCH, used={HOURS: [("2027-03-05", "100")]}) == []
    assert off(edits, *MARCH, used={HOURS: [("2027-03-05", "100"), ("2027-03-25", "4")]}) == [-800]


PRICES = [usd("1.95"), FALLING, RISING, UPS_AND_DOWNS, BY_VOLUME, INCLUDED, usd("2.00", max_minor=5_000)]
READINGS = st.lists(st.tuples(st.integers(1, 31), st.integers(1, 40)), max_size=6).map(sorted)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(PRICES), st.integers(1, 60), READINGS, st.sampled_from([[], STOPPED]), st.booleans())
def test_with_free_units_a_month_costs_as_if_they_had_not_been_used_or_as_without_them(
    price: Price, units: int, used: list[tuple[int, int]], then: list[Step], sold: bool
) -> None:
    if sold:
        then = [*then, ("transfer_ownership", TransferOwnership("seller", OTHER_SELLER), "2027-03-16")]
    billed = [(day, more) for day, more in used if not then or day != 10]
    upto = [0, *accumulate(more for _, more in billed)]
    fewer = [max(0, after - units) - max(0, before - units) for before, after in pairwise(upto)]

    def months(amounts: list[int]) -> dict[UUID, list[tuple[str, str]]]:
        days = (f"2027-03-{day:02}" for day, _ in billed)
        return {HOURS: [(day, str(more)) for day, more in zip(days, amounts, strict=True)]}

    def cost(*steps: Step, amounts: list[int]) -> int:
        lines = desired(contract("2027-03-01", [hours(price)], *steps, *then), *MARCH, months(amounts))
        assert all(
            (line.net_minor <= 0) == (line.kind == "discount") for line in lines if line.net_minor
        ) or (price is BY_VOLUME)
        return sum(line.net_minor for line in lines)

    plain = cost(amounts=[more for _, more in billed])
    assert cost(free(str(units)), amounts=[more for _, more in billed]) == min(plain, cost(amounts=fewer))


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([usd("1.95"), FALLING, RISING, INCLUDED, usd("2.00", max_minor=5_000)]),
    st.integers(1, 60),
    READINGS,
    st.sets(st.integers(2, 31), max_size=3),
)
def test_what_free_units_save_is_the_same_however_it_is_asked_for(
    price: Price, units: int, used: list[tuple[int, int]], days: set[int]
) -> None:
    edits = contract("2027-03-01", [hours(price)], free(str(units)))
    readings = {HOURS: [(f"2027-03-{day:02}", str(more)) for day, more in used]}
    marks = ["2027-03-01", *(f"2027-03-{day:02}" for day in sorted(days)), "2027-04-01"]
    parts = [sum(off(edits, *span, used=readings)) for span in pairwise(marks)]
    assert sum(parts) == sum(off(edits, *MARCH, used=readings))


def test_no_discount_falls_on_what_a_price_by_volume_gives_back() -> None:
    """Ten at 10.00, and an eleventh after a pause makes all of them cost 5.00: 55.00 in all."""
    used = {HOURS: [("2027-03-05", "10"), ("2027-03-20", "1")]}
    fixed = ApplyDiscount(UUID(int=71), kind="fixed_per_period", amount=Amount(7_000, "USD"))
    tenth = ApplyDiscount(UUID(int=71), kind="percent", percent=Decimal("0.1"))
    for discount, expected in ((fixed, -5_500), (tenth, -1_000)):
        given_ = ("apply_discount", discount, "2027-03-01")
        edits = contract("2027-03-01", [hours(BY_VOLUME)], given_, *STOPPED)
        lines = desired(edits, *MARCH, used)
        assert [line.net_minor for line in lines if line.kind == "usage"] == [10_000, -4_500]
        assert [line.net_minor for line in lines if line.kind == "discount"] == [expected]
