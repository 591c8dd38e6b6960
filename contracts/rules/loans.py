"""The schedule of a contract's loan, as its terms alone give it, and what pays it off on a day.

A row that has fallen due counts as repaid: what of it is unpaid is owed as itself, not again in the payoff.
"""

from dataclasses import dataclass
from datetime import date, datetime
from fractions import Fraction

from contracts.rules.amortisation import Payoff, Row, amortise, due_dates, payoff, row_rates
from contracts.rules.state import Financing


@dataclass(frozen=True)
class Schedule:
    """The rows of a loan with their due dates and rates of interest; the first one accrues from `start`."""

    start: date
    dues: list[date]
    rates: list[Fraction]
    rows: list[Row]


def schedule_of(loan: Financing) -> Schedule:
    """The rows of a loan from its terms; the last of them is never interest only."""
    start, dues = loan.since.date(), due_dates(loan.first_due_on, loan.term_months)
    rates = row_rates(loan.apr, start, dues, loan.day_count)
    interest_only = min(loan.interest_only_months, loan.term_months - 1)
    return Schedule(start, dues, rates, amortise(loan.principal_minor, rates, interest_only=interest_only))


def payoff_of(loan: Financing, at: datetime, *, penalty: bool = True) -> Payoff:
    """What ends a loan on the day of `at`; with `penalty`, what the lender asks for early repayment too."""
    schedule, today = schedule_of(loan), at.date()
    due = sum(day <= today for day in schedule.dues)
    if due == len(schedule.rows):
        return Payoff(0, 0)
    begun, ends = schedule.dues[due - 1] if due else schedule.start, schedule.dues[due]
    return payoff(
        schedule.rows[due - 1].balance_minor if due else loan.principal_minor,
        schedule.rates[due],
        elapsed=max(0, (today - begun).days),
        days=max(1, (ends - begun).days),
        penalty=loan.prepayment_penalty if penalty else loan.prepayment_penalty * 0,
    )
