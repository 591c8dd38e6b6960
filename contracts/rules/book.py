"""A contract's timeline read once for a stretch of time: what bills when, under what, in which periods.

Each billing period is rated as a whole, and cut where the stretch begins and ends, so that a line is the
same whoever asks for it. What was billed before is not known here.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache, cached_property
from uuid import UUID

from contracts.rules.commitments import Allowance, units_of
from contracts.rules.deductions import Deduction, deductions
from contracts.rules.fold import Instant, at_instant
from contracts.rules.line_service import LineService
from contracts.rules.periods import Period
from contracts.rules.rating import Quota, Rated, Usage, minimums, rate_line
from contracts.rules.segments import ALWAYS, Segment, Stretch, periods_of, segments_of, stretches
from contracts.rules.state import FINAL, Commitment, ContractState
from contracts.rules.windows import Committed, committed_of

TICK = timedelta(microseconds=1)
_NONE = Fraction(0)


class Book:
    """What [start, end) of a timeline is rated from; `usage` and `service` are asked for what they say."""

    def __init__(
        self,
        instants: Sequence[Instant],
        start: datetime,
        end: datetime,
        usage: Usage,
        service: LineService | None,
    ) -> None:
        self.instants, self.start, self.end = instants, start, end
        self.usage, self.service = cache(usage), service
        self.final = instants[-1].state
        self.over_at = _over_at(instants)
        self.epochs = stretches(instants, ALWAYS, lambda state: [("", state.owner_epoch)])
        self.periods = self.periods_in(start, max([end, *self._left_behind()]))
        horizon = max((period.end for period in self.periods), default=end)
        self.segments: dict[UUID, list[Segment]] = {}
        for segment in segments_of(instants, horizon, service.in_service if service else None):
            self.segments.setdefault(segment.line_id, []).append(segment)
        self.owners: dict[UUID, list[Stretch[int]]] = defaultdict(list)
        for owned in stretches(instants, horizon, _owned):
            line_id, epoch = owned.value
            self.owners[line_id].append(Stretch(epoch, owned.start, owned.end))
        self.discounts = [
            replace(force, start=max(force.start, force.value.since))
            for force in stretches(instants, horizon, lambda state: state.discounts.items())
        ]
        self.commitments = committed_of(instants, horizon)
        self.charges_in = cache(self._charges_in)
        self.rolled_into = cache(self._rolled_into)

    def periods_in(self, start: datetime, end: datetime) -> list[Period]:
        """Billing periods that lie in [start, end), or partly; the contract's end ends the last one."""
        found = periods_of(self.instants, start, end)
        if self.over_at is None:
            return found
        return [replace(p, end=min(p.end, self.over_at)) for p in found if p.start < self.over_at]

    def period_at(self, at: datetime) -> Period | None:
        """The billing period that contains `at`; None before the first one and after the contract."""
        return next(iter(self.periods_in(at, at + TICK)), None)

    def before(self, at: datetime) -> ContractState:
        """The state that was in force until `at`."""
        return at_instant(self.instants, at - TICK)

    def left_at(self, owner_epoch: int) -> datetime:
        """When that owner left, which the last one never does; or the timeline's start, by which he had."""
        ends = (epoch.end for epoch in self.epochs if epoch.value == owner_epoch)
        return next(ends, self.instants[0].at)

    @cached_property
    def forfeited_at(self) -> dict[UUID, datetime]:
        """From when on nobody serves what is billed of a line, which was forfeited then."""
        found = stretches(
            self.instants,
            ALWAYS,
            lambda state: ((id_, id_) for id_, line in state.lines.items() if line.forfeited),
        )
        return {stretch.value: stretch.start for stretch in found}

    def tax_rate(self, period: Period) -> Decimal:
        """The rate at the instant that the period is invoiced: its end, or its start when in advance."""
        state = self.before(period.end)
        if state.billing.when == "in_advance":
            state = at_instant(self.instants, max(period.start, self.instants[0].at))
        return Decimal(0) if state.terms.tax.exempt_certificate else state.terms.tax.rate

    def _charges_in(self, period: Period, whole: bool = False) -> tuple[list[Rated], list[Deduction]]:
        """The charges of a whole period, cut where what was asked for begins and ends.

        With `whole` only where a line was forfeited.
        """
        rated: list[Rated] = []
        for line_id, segments in self.segments.items():
            if self._let_go(segments[0], period):
                continue
            forfeited = [self.forfeited_at[line_id]] if line_id in self.forfeited_at else []
            asked = forfeited if whole else [self.start, self.end]
            cuts, quota = self._quota(line_id) if segments[0].kind == "usage" else ([], None)
            owners = self.owners[line_id]
            line = rate_line(segments, period, self.usage, owners, cuts=(*asked, *cuts), quota=quota)
            rated += [*line, *minimums(line, period, owners)]
        forces = [force for force in self.discounts if force.start < period.end and force.end > period.start]
        return rated, deductions(rated, forces, self.usage)

    def _left_behind(self) -> Iterator[datetime]:
        """Until when owners who left in the stretch of time are billed for what they forfeited."""
        for epoch in self.epochs:
            if self.start < epoch.end <= self.end:
                lines = self.before(epoch.end).lines.values()
                yield from (line.forfeited.until for line in lines if line.forfeited)

    def _let_go(self, segment: Segment, period: Period) -> bool:
        """Whether this is the metered use of a contract's last days, which nobody bills."""
        ending = self.final.ending
        if ending is None or ending.final_usage == "bill" or segment.kind != "usage":
            return False
        return period.start < ending.at <= period.end

    def _quota(self, line_id: UUID) -> tuple[list[datetime], Quota | None]:
        """Where the windows of the line's commitment begin and end, and what it allows at an instant.

        None where units beyond the commitment cost what the others do.
        """
        counting = [
            one
            for one in self.commitments
            if one.commitment.kind == "minimum_quantity"
            and one.commitment.covers(line_id)
            and (one.commitment.overage_factor != 1 or one.commitment.rollover_units)
        ]

        def quota(at: datetime) -> Allowance | None:
            for one in counting:
                if (no := one.at(at)) is not None:
                    return self._allowance(one, no, line_id, at)
            return None

        cuts = [at for one in counting for window in one.windows for at in (window.start, window.end)]
        return cuts, quota if counting else None

    def _allowance(self, committed: Committed, no: int, line_id: UUID, at: datetime) -> Allowance:
        """What is committed in a window; periods use it up in turn, and in a period the lines in theirs."""
        commitment, window = committed.commitment, committed.windows[no]
        (period,) = self.periods_in(at, at + TICK)
        since, until = max(window.start, period.start), min(window.end, period.end)
        used = self._used(line_id, since, at)
        before = True
        for other in self._metered(commitment):
            before = before and other != line_id
            used += self._used(other, window.start, until if before else since)
        return Allowance(
            commitment.commitment_id,
            window.start,
            Fraction(commitment.units) * window.share,
            commitment.overage_factor,
            used,
            self.rolled_into(committed, no),
        )

    def _rolled_into(self, committed: Committed, no: int) -> Fraction:
        """Units that the window before fell short of, was charged for, and left open to this one."""
        commitment = committed.commitment
        if no == 0 or not commitment.rollover_units or commitment.true_up != "window":
            return Fraction(0)
        before = committed.windows[no - 1]
        used = sum((self._used(id_, before.start, before.end) for id_ in self._metered(commitment)), _NONE)
        return units_of(
            used,
            Fraction(commitment.units) * before.share,
            rolled=self.rolled_into(committed, no - 1),
            cap=commitment.rollover_units,
        ).rolled

    def _metered(self, commitment: Commitment) -> Iterator[UUID]:
        for line_id, segments in self.segments.items():
            if segments[0].kind == "usage" and commitment.covers(line_id):
                yield line_id

    def _used(self, line_id: UUID, start: datetime, end: datetime) -> Fraction:
        """Billed units of a metered line over [start, end)."""
        return sum(
            (
                Fraction(self.usage(line_id, max(one.valid_from, start), min(one.valid_to, end)))
                for one in self.segments[line_id]
                if one.valid_from < end and one.valid_to > start
            ),
            _NONE,
        )


def _owned(state: ContractState) -> Iterator[tuple[UUID, tuple[UUID, int]]]:
    """Whose each line is: what was forfeited stays with whoever forfeited it, what is gone goes to nobody."""
    for line in state.lines.values():
        if line.live or line.forfeited:
            yield line.line_id, (line.line_id, (line.forfeited or state).owner_epoch)


def _over_at(instants: Sequence[Instant]) -> datetime | None:
    """When the contract was over for good: ended, and nothing billed any more."""
    over_at = None
    for instant in reversed(instants):
        state = instant.state
        if state.status not in FINAL or any(line.forfeited for line in state.lines.values()):
            break
        over_at = instant.at
    return over_at
