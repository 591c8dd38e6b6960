"""Prices: exact arithmetic in minor units, one ROUND_HALF_UP per line, then sums."""

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

from commerce.errors import InvalidInput
from commerce.money import MAX_MINOR, round_half_up
from contracts.rules.periods import Period, billing_period
from contracts.rules.segments import Segment
from contracts.rules.state import ContractState, LineState, Price

__all__ = [
    "Period",
    "billing_period",
    "expected_period_total",
    "prorate",
    "rate_recurring",
    "rate_usage",
    "tax_on",
]


def prorate(amount_minor: int | Decimal | Fraction, served: timedelta, full: timedelta) -> int:
    """`amount_minor` × served / full by exact duration, rounded once."""
    return _bounded(Fraction(amount_minor) * _ratio(served, full))


def rate_recurring(segment: Segment, period: Period) -> int:
    """What a segment of a recurring line costs within one period, in minor units."""
    served = min(segment.valid_to, period.end) - max(segment.valid_from, period.start)
    return _recurring(segment, served, period)


def rate_usage(price: Price, quantity: Decimal) -> int:
    """Metered units at the unit price, in minor units; usage is never prorated."""
    return _bounded(Fraction(price.minor_rate) * Fraction(quantity))


def tax_on(net_minor: int, rate: Decimal) -> int:
    """Tax on one line, in minor units."""
    return _bounded(Fraction(net_minor) * Fraction(rate))


def expected_period_total(state: ContractState, period: Period) -> tuple[int, int]:
    """(net, tax) that the recurring lines of `state` will come to if nothing changes in `period`."""
    starts = max(state.start_at or period.start, period.start)
    served = min(state.end_at or period.end, period.end) - starts
    nets = [
        _recurring(line, served, period)
        for line in state.live_lines
        if line.kind == "recurring" and not _stopped(state, line)
    ]
    return sum(nets), sum(tax_on(net, state.terms.tax.rate) for net in nets)


def _stopped(state: ContractState, line: LineState) -> bool:
    return any(hold.billing == "stop" and hold.covers(line.line_id) for hold in state.holds)


def _recurring(line: Segment | LineState, served: timedelta, period: Period) -> int:
    if served <= timedelta(0):
        return 0
    return prorate(Fraction(line.price.minor_rate) * line.quantity, served, period.full)


def _ratio(served: timedelta, full: timedelta) -> Fraction:
    microsecond = timedelta(microseconds=1)
    return Fraction(served // microsecond, full // microsecond)


def _bounded(value: Fraction) -> int:
    minor = round_half_up(value)
    if abs(minor) > MAX_MINOR:
        raise InvalidInput("The amount is larger than 2^53 - 1 minor units.", code="amount_overflow")
    return minor
