"""The sums that round: one half-up rounding each, and what is left over is a remainder.

The named numbers are those of our published worked examples.
"""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commerce.errors import InvalidInput
from commerce.money import Money
from ledger.rules.recipes.amounts import card_fee, clawed_back, exchanged, fx_spread, seller_and_fee, share
from tests.ledger.conftest import usd

minor = st.integers(0, 10**12)
rates = st.decimals(0, 1, places=4)


def test_a_card_payment_of_1000_costs_29_30_and_a_tenth_stays_in_reserve():
    assert card_fee(usd("1000"), Decimal("0.029"), usd("0.30")) == usd("29.30")
    assert share(usd("1000"), Decimal("0.10")) == usd("100")


def test_halves_of_a_cent_go_up_and_only_the_rate_is_rounded():
    assert share(Money(5, "USD"), Decimal("0.1")) == Money(1, "USD")
    assert share(Money(4, "USD"), Decimal("0.1")) == Money(0, "USD")
    assert card_fee(Money(5, "USD"), Decimal("0.1"), Money(30, "USD")) == Money(31, "USD")


@pytest.mark.parametrize("rate", ["-0.01", "1.01", "20", "NaN"])
def test_a_share_is_a_fraction_of_one(rate):
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        share(usd("1"), Decimal(rate))


def test_four_fifths_of_200_are_160_and_the_fee_is_40():
    assert seller_and_fee(usd("200"), Decimal("0.8")) == (usd("160"), usd("40"))
    assert seller_and_fee(Money(3, "USD"), Decimal("0.5")) == (Money(2, "USD"), Money(1, "USD"))


@given(minor, rates)
def test_share_and_fee_add_up_to_the_net_and_are_off_by_half_a_cent_at_most(net, rate):
    seller, fee = seller_and_fee(Money(net, "USD"), rate)
    assert seller + fee == Money(net, "USD")
    assert abs(seller.minor - net * Fraction(rate)) <= Fraction(1, 2)


def test_a_quarter_refunded_takes_back_a_quarter_of_the_commission():
    nothing = usd("0")
    taken = clawed_back(usd("4"), charged=usd("200"), refunded=usd("50"), before=nothing)
    assert taken == usd("1")


@given(minor, st.lists(st.integers(1, 10**9), min_size=1, max_size=8))
def test_refunds_in_any_steps_take_back_all_of_the_commission_and_never_more(commission, refunds):
    charged, before, taken = Money(sum(refunds), "USD"), usd("0"), usd("0")
    for refund in refunds:
        part = clawed_back(
            Money(commission, "USD"), charged=charged, refunded=Money(refund, "USD"), before=before
        )
        assert part.minor >= 0
        before, taken = before + Money(refund, "USD"), taken + part
    assert taken == Money(commission, "USD")


@pytest.mark.parametrize(
    ("charged", "refunded", "before"),
    [("200", "150.01", "50"), ("200", "-1", "50"), ("200", "1", "-1"), ("0", "0", "0")],
)
def test_more_than_was_charged_cannot_be_refunded(charged, refunded, before):
    with pytest.raises(InvalidInput, match="cannot be refunded"):
        clawed_back(usd("4"), charged=usd(charged), refunded=usd(refunded), before=usd(before))


def test_a_commission_is_in_the_currency_of_what_was_charged():
    with pytest.raises(InvalidInput, match="not in EUR"):
        clawed_back(Money(4, "EUR"), charged=usd("200"), refunded=usd("50"), before=usd("0"))


def test_10000_dollars_at_0_9120_are_9120_euros_and_cost_32_79_against_mid():
    client, mid = Decimal("0.9120"), Decimal("0.9150")
    assert exchanged(usd("10000"), client, "EUR") == Money.parse("9120", "EUR")
    assert fx_spread(usd("10000"), client=client, mid=mid) == usd("32.79")


def test_an_exchange_lands_in_the_digits_of_its_currency():
    assert exchanged(usd("10.50"), Decimal("150.1"), "JPY") == Money(1576, "JPY")
    assert exchanged(Money.parse("996.5", "USDC"), Decimal("1.0000"), "USD") == usd("996.50")
    assert exchanged(usd("1"), Decimal("0.5"), "KWD") == Money(500, "KWD")


@pytest.mark.parametrize("rate", ["0", "-1", "NaN", "Infinity"])
def test_an_exchange_rate_is_more_than_zero(rate):
    with pytest.raises(InvalidInput, match="more than zero"):
        exchanged(usd("1"), Decimal(rate), "EUR")
    with pytest.raises(InvalidInput, match="more than zero"):
        fx_spread(usd("1"), client=Decimal(1), mid=Decimal(rate))


@given(st.integers(1, 10**9), st.decimals("0.5", 2, places=4), st.decimals(0, "0.2", places=4))
def test_bought_and_spread_are_worth_what_was_sold_at_mid(sold, mid, margin):
    client = mid * (1 - margin)
    money = Money(sold, "USD")
    bought, spread = exchanged(money, client, "EUR"), fx_spread(money, client=client, mid=mid)
    left = sold - spread.minor - Fraction(bought.minor) / Fraction(mid)
    assert abs(left) <= Fraction(1, 2) + Fraction(1, 2) / Fraction(mid)
