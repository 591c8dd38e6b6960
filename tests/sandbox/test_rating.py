"""Periods and prices, exactly."""

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest

from commerce.sandbox.openmeter.prices import number, rate
from commerce.sandbox.openmeter.rating import add_duration, period_at


def day(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "start", "end"),
    [
        ("2027-01-31", "2027-01-31", "2027-02-28"),
        ("2027-02-28", "2027-02-28", "2027-03-31"),
        ("2027-03-30", "2027-02-28", "2027-03-31"),
        ("2026-12-30", "2026-11-30", "2026-12-31"),
    ],
)
def test_a_month_that_is_too_short_clamps_and_the_day_comes_back(at, start, end):
    assert period_at(day("2027-01-31"), "P1M", day(at)) == (day(start), day(end))


def test_durations_add_calendar_months_and_exact_hours():
    assert add_duration(day("2027-01-31"), "P1MT1H") == datetime(2027, 2, 28, 1, tzinfo=UTC)
    for wrong in ("P", "PT", "1M", "P1.5M", ""):
        with pytest.raises(ValueError):
            add_duration(day("2027-01-01"), wrong)


TIERS = [
    {
        "upToAmount": "100",
        "flatPrice": {"type": "flat", "amount": "5"},
        "unitPrice": {"type": "unit", "amount": "1"},
    },
    {"flatPrice": None, "unitPrice": {"type": "unit", "amount": "0.5"}},
]


@pytest.mark.parametrize(
    ("price", "quantity", "expected"),
    [
        ({"type": "unit", "amount": "0.002"}, "1002.5", "2.01"),
        ({"type": "unit", "amount": "0.005"}, "1", "0.01"),
        ({"type": "unit", "amount": "1", "minimumAmount": "50"}, "3", "50"),
        ({"type": "unit", "amount": "1", "maximumAmount": "2"}, "3", "2"),
        ({"type": "package", "amount": "10", "quantityPerPackage": "1000"}, "1001", "20"),
        ({"type": "package", "amount": "10", "quantityPerPackage": "1000"}, "0", "0"),
        ({"type": "tiered", "mode": "graduated", "tiers": TIERS}, "150", "130"),
        ({"type": "tiered", "mode": "graduated", "tiers": TIERS}, "100", "105"),
        ({"type": "tiered", "mode": "volume", "tiers": TIERS}, "150", "75"),
        ({"type": "tiered", "mode": "volume", "tiers": TIERS}, "100", "105"),
        ({"type": "dynamic", "multiplier": "1.2"}, "10", "12"),
    ],
)
def test_usage_prices(price, quantity, expected):
    assert rate(price, Decimal(quantity), Fraction(1), {}, "USD").total == Decimal(expected)


def test_only_flat_prices_are_prorated_and_rounded_half_up_once():
    flat = {"type": "flat", "amount": "100"}
    assert rate(flat, Decimal(1), Fraction(1, 3), {}, "USD").total == Decimal("33.33")
    assert rate(flat, Decimal(1), Fraction(33335, 100000), {}, "USD").total == Decimal("33.34")
    assert rate({**flat, "amount": "1"}, Decimal(1), Fraction(1, 2), {}, "JPY").total == Decimal(1)
    assert rate({"type": "unit", "amount": "1"}, Decimal(2), Fraction(1, 2), {}, "USD").total == Decimal(2)


def test_discounts():
    unit = {"type": "unit", "amount": "1"}
    assert rate(unit, Decimal(10), Fraction(1), {"percentage": {"percentage": 10}}, "USD").total == Decimal(9)
    assert rate(unit, Decimal(10), Fraction(1), {"usage": {"quantity": "4"}}, "USD").total == Decimal(6)


def test_amounts_beyond_double_precision_stay_exact():
    big = {"type": "unit", "amount": "90071992547409.93"}
    assert rate(big, Decimal(3), Fraction(1), {}, "USD").total == Decimal("270215977642229.79")


def test_decimals_on_the_wire_have_no_fixed_scale():
    assert [number(Decimal(text)) for text in ("36200.00", "0.50", "100", "0")] == [
        "36200",
        "0.5",
        "100",
        "0",
    ]
