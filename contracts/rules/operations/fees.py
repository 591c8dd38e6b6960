"""Fees for leaving early: what a line or a contract costs that ends before it was agreed to end."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Literal

from commerce.errors import Conflict, FieldError
from commerce.money import round_half_up
from contracts.rules.charges import charge, early_fee, within_bounds
from contracts.rules.daycount import months_between
from contracts.rules.schema import Between, Minor, Text
from contracts.rules.state import LineState, Percent

_VALUES = {"pct_remaining": "percent", "fixed": "amount_minor", "months": "months"}


@dataclass(frozen=True)
class EarlyFee:
    """A share (`percent`) of what the time left would have cost, an amount, the charge of so many months, or
    `none`: then it is waived, by whom is said by `waived_by`. Discounts do not lower it.
    """

    kind: Literal["none", "pct_remaining", "fixed", "months"]
    percent: Percent | None = None
    amount_minor: Minor | None = None
    months: Annotated[int, Between(1, 120)] | None = None
    waived_by: Text | None = None

    def of(self, left: Iterable[tuple[LineState, datetime]], at: datetime, months: int) -> int:
        """The fee in minor units at `at`: until when each line was agreed, how many months a period has."""
        if self.kind == "none":
            return 0
        if self.kind == "fixed":
            return self.amount_minor or 0
        if self.kind == "months":
            return sum(monthly(line, months) * (self.months or 0) for line, _ in left)
        share = self.percent or Decimal(0)
        return sum(early_fee(monthly(line, months), months_left(until, at), share) for line, until in left)


def monthly(line: LineState, months: int = 1) -> int:
    """What a recurring line costs in a month, in minor units; other lines end at no cost.

    Of a period of `months`: the price's bounds are for all of it.
    """
    if line.kind != "recurring" or not line.quantity:
        return 0
    whole = within_bounds(line.price, charge(line.price, line.quantity) * months)
    return round_half_up(whole * Fraction(1, months))


def months_left(until: datetime, at: datetime) -> Fraction:
    """Months from `at` to `until`, a part of one by its days; none when it has passed."""
    return months_between(at.date(), until.date()) if until > at else Fraction(0)


def check_due(fee: EarlyFee | None, early: bool) -> None:
    """Conflict (fee_not_due) for a fee where nobody leaves early; that nothing is owed may be said."""
    if fee and fee.kind != "none" and not early:
        raise Conflict(
            "Nothing is bound for longer, or a trial binds nobody yet: no fee is owed for leaving.",
            pointer="/early_fee",
            code="fee_not_due",
        )


def unused_faults(unused: str) -> Iterator[FieldError]:
    """What is paid and unused is taken off the bills or forfeited: nothing is paid out for it."""
    if unused == "refund":
        yield FieldError(
            "/unused",
            "not_supported",
            "Nothing is paid out for what is unused: credit it, and the buyer is billed that much less.",
        )


def fee_faults(fee: EarlyFee | None, pointer: str = "/early_fee") -> Iterator[FieldError]:
    """What of a fee does not fit its kind."""
    for kind, name in _VALUES.items() if fee else ():
        if (getattr(fee, name) is not None) != (fee is not None and fee.kind == kind):
            yield FieldError(
                f"{pointer}/{name}",
                "required" if fee and fee.kind == kind else "field_misplaced",
                f"{name} says how much a fee of kind {kind} is, and no other.",
            )
    if fee and fee.waived_by is not None and fee.kind != "none":
        yield FieldError(f"{pointer}/waived_by", "field_misplaced", "Only a fee of none is waived.")
