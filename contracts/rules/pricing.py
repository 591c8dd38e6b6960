"""Arithmetic of prices: exact fractions in minor units, one ROUND_HALF_UP per line, then sums."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

from commerce.errors import InvalidInput
from commerce.money import MAX_MINOR, round_half_up


def rounded(minor: Fraction) -> int:
    """An exact amount as whole minor units. InvalidInput (amount_overflow) beyond 2^53 - 1."""
    whole = round_half_up(minor)
    if abs(whole) > MAX_MINOR:
        raise InvalidInput("The amount is larger than 2^53 - 1 minor units.", code="amount_overflow")
    return whole


def prorate(amount_minor: int | Decimal | Fraction, served: timedelta, full: timedelta) -> int:
    """`amount_minor` × served / full by exact duration, rounded once."""
    return rounded(Fraction(amount_minor) * ratio(served, full))


def ratio(served: timedelta, full: timedelta) -> Fraction:
    """The part of a full duration that was served, exactly."""
    microsecond = timedelta(microseconds=1)
    return Fraction(served // microsecond, full // microsecond)


def tax_on(net_minor: int, rate: Decimal) -> int:
    """Tax on one line, in minor units."""
    return rounded(Fraction(net_minor) * Fraction(rate))
