"""Amounts that belong to a flow, each rounded once, half up; what is left over is a remainder.

Rates are fractions of one: 2.9 % is `Decimal("0.029")`. An exchange rate is the price of one unit of
the sold currency.
"""

from decimal import Decimal
from fractions import Fraction

from commerce.errors import InvalidInput
from commerce.money import Money, exponent, round_half_up


def share(amount: Money, rate: Decimal) -> Money:
    """A part of an amount: a reserve, a commission, a downpayment."""
    if not (rate.is_finite() and 0 <= rate <= 1):
        raise InvalidInput(f"A rate lies between 0 and 1; it is {rate}.", code="rate_invalid")
    return Money(round_half_up(Fraction(amount.minor) * Fraction(rate)), amount.currency)


def card_fee(amount: Money, rate: Decimal, fixed: Money) -> Money:
    """What a processor charges for one card payment: a rate and a fixed part."""
    return share(amount, rate) + fixed


def seller_and_fee(net: Money, seller_rate: Decimal) -> tuple[Money, Money]:
    """The seller's share, and the fee as the remainder; both add up to the net."""
    seller = share(net, seller_rate)
    return seller, net - seller


def clawed_back(commission: Money, *, charged: Money, refunded: Money, before: Money) -> Money:
    """What a refund takes back of a commission, given what was refunded of the same charge before.

    The sum so far is rounded, not each step, so that a charge refunded in any steps takes back all of it.
    """
    so_far = before + refunded
    if commission.currency != charged.currency:
        raise InvalidInput(
            f"A commission on {charged} is in {charged.currency}, not in {commission.currency}.",
            code="currency_mismatch",
        )
    if min(before.minor, refunded.minor) < 0 or charged.minor <= 0 or not so_far <= charged:
        raise InvalidInput(f"Of {charged}, {so_far} cannot be refunded.", code="over_refunded")

    def until(refunds: Money) -> int:
        return round_half_up(Fraction(commission.minor * refunds.minor, charged.minor))

    return Money(until(so_far) - until(before), commission.currency)


def exchanged(sold: Money, rate: Decimal, currency: str) -> Money:
    """What an amount is worth in another currency."""
    return Money(round_half_up(Fraction(sold.decimal) * _rate(rate) * 10 ** exponent(currency)), currency)


def fx_spread(sold: Money, *, client: Decimal, mid: Decimal) -> Money:
    """What an exchange at the client rate costs against the mid rate, in the sold currency."""
    return Money(round_half_up(sold.minor * (1 - _rate(client) / _rate(mid))), sold.currency)


def _rate(rate: Decimal) -> Fraction:
    if not (rate.is_finite() and rate > 0):
        raise InvalidInput(f"An exchange rate is more than zero; it is {rate}.", code="rate_invalid")
    return Fraction(rate)
