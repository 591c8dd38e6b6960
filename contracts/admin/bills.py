"""What a contract's recurring lines come to in its periods, as far as it is known, and what edits change."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from commerce.money import round_half_up
from contracts.rules.charges import charge
from contracts.rules.fold import Instant
from contracts.rules.periods import Period, billing_period, periods_between

PERIODS_SHOWN = 6
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Difference:
    """One period's expected charges in minor units, without tax and usage, before and after."""

    period: Period
    before: int
    after: int
    is_past: bool

    @property
    def label(self) -> str:
        return f"{self.period.start:%-d %b %Y} – {self.period.end:%-d %b %Y}"


def differences(was: Sequence[Instant], will: Sequence[Instant], *, at: datetime) -> list[Difference]:
    """The periods that change, from the first instant that differs; the first few."""
    state = will[0].state
    if state.start_at is None:
        return []
    first = billing_period(state.billing.anchor_day, state.start_at, will[0].at, state.billing.cadence)
    last = max(at, *(step.at for step in (*was, *will)))
    found = []
    for period in periods_between(state.billing.anchor_day, first.start, last, state.billing.cadence):
        before, after = expected(was, period), expected(will, period)
        if before != after:
            found.append(Difference(period, before, after, is_past=period.end <= at))
        if len(found) == PERIODS_SHOWN:
            break
    return found


def expected(instants: Sequence[Instant], period: Period) -> int:
    """What the recurring lines come to within a period, each stretch of a line rounded once."""
    total = 0
    ends = [*(step.at for step in instants[1:]), period.end]
    for step, until in zip(instants, ends, strict=True):
        served = min(until, period.end) - max(step.at, period.start)
        if served <= timedelta(0):
            continue
        share = Fraction(served // _TICK, period.full // _TICK)
        for line in step.state.lines.values():
            part = step.state.billing_share(line)
            if part and line.kind == "recurring":
                total += round_half_up(charge(line.price, line.quantity, share) * share * Fraction(part))
    return total
