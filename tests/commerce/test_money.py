"""Money: integers of minor units, one rounding, splits that always add up."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.exceptions import ValidationError

from commerce.api.serializers import MoneyField
from commerce.errors import InvalidInput
from commerce.money import CURRENCIES, MAX_MINOR, STABLECOINS, Money, allocate, round_half_up


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0.5", 1), ("-0.5", -1), ("1.5", 2), ("2.5", 3), ("2.4999", 2), ("-2.5", -3), ("0", 0)],
)
def test_halves_round_away_from_zero(value: str, expected: int) -> None:
    assert round_half_up(Decimal(value)) == expected
    assert round_half_up(Fraction(value)) == expected


def test_a_split_gives_the_spare_cents_to_the_largest_remainders() -> None:
    assert allocate(10001, [50, 30, 20]) == [5001, 3000, 2000]
    assert allocate(5, [70, 30]) == [4, 1]
    assert allocate(1, [1, 1, 1]) == [1, 0, 0]


@given(
    st.integers(-(10**12), 10**12),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=12).filter(lambda weights: sum(weights) > 0),
)
def test_the_parts_of_a_split_always_add_up_and_are_off_by_less_than_one(
    total: int, weights: list[int]
) -> None:
    parts = allocate(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - Fraction(total * weight, sum(weights))) < 1


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1]])
def test_a_split_without_weights_is_refused(weights: list[int]) -> None:
    with pytest.raises(InvalidInput):
        allocate(100, weights)


def test_amounts_are_read_in_the_currencys_own_digits() -> None:
    assert Money.parse("1234.5", "USD") == Money(123450, "USD")
    assert Money.parse("1234", "JPY") == Money(1234, "JPY")
    assert Money.parse("1.234", "KWD") == Money(1234, "KWD")
    assert Money.parse("996.5", "USDC") == Money(996_500_000, "USDC")
    assert str(Money(123450, "USD")) == "1,234.50 USD"
    assert str(Money(-5, "USD")) == "-0.05 USD"


def test_nothing_is_priced_in_a_stablecoin() -> None:
    assert STABLECOINS
    assert not STABLECOINS & CURRENCIES
    with pytest.raises(ValidationError, match="USDC is not taken here"):
        MoneyField().run_validation({"amount_minor": 1, "currency": "USDC"})
    with pytest.raises(InvalidInput, match="cannot be mixed"):
        Money(1, "USDC") + Money(1, "USD")


@pytest.mark.parametrize(
    ("text", "currency", "code"),
    [
        ("1.234", "USD", "amount_scale"),
        ("1.5", "JPY", "amount_scale"),
        ("abc", "USD", "amount_invalid"),
        ("NaN", "USD", "amount_invalid"),
        ("Infinity", "USD", "amount_invalid"),
        ("1", "XXX", "unknown_currency"),
        ("90071992547409.92", "USD", "amount_overflow"),
    ],
)
def test_what_is_not_an_amount_is_refused_with_a_code(text: str, currency: str, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Money.parse(text, currency)
    assert refused.value.code == code


def test_currencies_never_mix() -> None:
    with pytest.raises(InvalidInput, match="cannot be mixed"):
        Money(1, "USD") + Money(1, "EUR")
    with pytest.raises(InvalidInput, match="cannot be mixed"):
        assert Money(1, "USD") < Money(2, "EUR")


@pytest.mark.parametrize("minor", [1.0, True, Decimal(1), "1", None])
def test_only_whole_numbers_are_amounts(minor: object) -> None:
    with pytest.raises(InvalidInput, match="whole number"):
        Money(minor, "USD")  # type: ignore[arg-type]


def test_the_largest_amount_is_what_a_json_number_can_carry() -> None:
    assert Money(MAX_MINOR, "USD").minor == 2**53 - 1
    with pytest.raises(InvalidInput, match="larger than"):
        Money(MAX_MINOR, "USD") + Money(1, "USD")
