"""Amortisation of a loan: level payments, interest only first, payoff, and what a payment settles.

The payment is rounded once, interest once per row, principal is the rest, and the last row pays what
is left: principals add up to what was lent. `rates` are the rows' own rates of interest, one per row,
so that months of unequal length and rows after a change need no other formula. All amounts are minor
units.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fractions import Fraction

from commerce.money import round_half_up
from contracts.rules.daycount import YearCount, years_between
from contracts.rules.periods import add_months


@dataclass(frozen=True)
class Row:
    """One instalment and the principal that is still owed after it."""

    no: int
    payment_minor: int
    interest_minor: int
    principal_minor: int
    balance_minor: int


@dataclass(frozen=True)
class Payoff:
    """What ends a loan between two due dates."""

    balance_minor: int
    interest_minor: int
    penalty_minor: int = 0

    @property
    def total_minor(self) -> int:
        return self.balance_minor + self.interest_minor + self.penalty_minor


@dataclass(frozen=True)
class Due:
    """What is unpaid of one row."""

    fees_minor: int = 0
    late_interest_minor: int = 0
    interest_minor: int = 0
    principal_minor: int = 0


def due_dates(first_due_on: date, count: int) -> list[date]:
    """The first due date and those of the months after it, clamped to their ends and back."""
    first = datetime.combine(first_due_on, time(), UTC)
    return [add_months(first, month).date() for month in range(count)]


def row_rates(apr: Decimal, start: date, dues: Sequence[date], count: YearCount) -> list[Fraction]:
    """The rate of each row, from `start` on; in 30/360 a month from due date to due date is a twelfth."""
    if count == "30_360":
        first = Fraction(1, 12) if dues[0] == _month_after(start) else years_between(start, dues[0], count)
        return [Fraction(apr) * first] + [Fraction(apr) / 12] * (len(dues) - 1)
    starts = [start, *dues[:-1]]
    return [Fraction(apr) * years_between(*row, count) for row in zip(starts, dues, strict=True)]


def level_payment(principal_minor: int, rates: Sequence[Fraction]) -> int:
    """The payment that repays the loan in rows of equal size; with no interest, an equal part of it."""
    grown, weight = Fraction(principal_minor), Fraction(0)
    for rate in rates:
        grown, weight = grown * (1 + rate), weight * (1 + rate) + 1
    return round_half_up(grown / weight)


def amortise(principal_minor: int, rates: Sequence[Fraction], *, interest_only: int = 0) -> list[Row]:
    """The rows of a loan; the first `interest_only` of them repay nothing."""
    return list(_rows(principal_minor, rates, interest_only))


def payoff(
    balance_minor: int, rate: Fraction, *, elapsed: int, days: int, penalty: Decimal = Decimal(0)
) -> Payoff:
    """What ends the loan `elapsed` days into a row of `days` days; `penalty` is a share of the balance."""
    return Payoff(
        balance_minor,
        round_half_up(balance_minor * rate * Fraction(elapsed, days)),
        round_half_up(balance_minor * Fraction(penalty)),
    )


def settle(amount_minor: int, dues: Iterable[Due]) -> tuple[list[Due], int]:
    """What a payment settles of each row, and what is left of it.

    The oldest row comes first, and in a row fees, then late interest, then interest, then principal.
    """
    settled = []
    for due in dues:
        parts = []
        for owed in (due.fees_minor, due.late_interest_minor, due.interest_minor, due.principal_minor):
            parts.append(min(owed, amount_minor))
            amount_minor -= parts[-1]
        settled.append(Due(*parts))
    return settled, amount_minor


def _rows(principal_minor: int, rates: Sequence[Fraction], interest_only: int) -> Iterator[Row]:
    payment, balance = level_payment(principal_minor, rates[interest_only:]), principal_minor
    for no, rate in enumerate(rates, 1):
        interest = round_half_up(balance * rate)
        if no == len(rates):
            principal = balance
        elif no <= interest_only:
            principal = 0
        else:
            # A loan of less than a minor unit a row is repaid before its last row; rows never go below.
            principal = max(0, min(payment - interest, balance))
        balance -= principal
        yield Row(no, interest + principal, interest, principal, balance)


def _month_after(day: date) -> date:
    return add_months(datetime.combine(day, time(), UTC), 1).date()
