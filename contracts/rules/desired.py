"""Desired lines: what should have been billed for a stretch of time, from the log of edits alone.

The log is folded once. Each billing period is rated as a whole and then cut to what was asked for, so that
the same line comes out whoever asks: a preview, the check of a provider's invoice, the difference to what
was posted. Amounts are minor units; nothing here knows what was billed before.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Literal
from uuid import UUID

from commerce.money import exponent, round_half_up
from contracts.rules import charges
from contracts.rules.commitments import Allowance, Window, by_weight, shortfall, surcharge, units_of
from contracts.rules.deductions import Deduction, deductions
from contracts.rules.discounts import funded
from contracts.rules.fold import Edit, Instant, at_instant, timeline
from contracts.rules.lines import DesiredLine, Difference, Funder, LineKind, differences
from contracts.rules.loans import schedule_of
from contracts.rules.operations.base import RUNNING
from contracts.rules.periods import Period
from contracts.rules.pricing import tax_on
from contracts.rules.rating import Quota, Rated, Usage, decimal, major, minimums, part_of, rate_line
from contracts.rules.segments import Segment, ServiceOf, periods_of, segments_of, stretches
from contracts.rules.state import FINAL, Charge, Commitment, ContractState, LineState, evolve
from contracts.rules.windows import Committed, committed_of

_TICK = timedelta(microseconds=1)
_ONE, _NO_TAX, _NO_USE, _NONE = Decimal(1), Decimal(0), Decimal(0), Fraction(0)


def desired_lines(
    edits: Iterable[Edit],
    *,
    start: datetime,
    end: datetime,
    usage: Usage,
    in_service: ServiceOf | None = None,
    known_at: datetime | None = None,
) -> list[DesiredLine]:
    """Every line for [start, end) as known at `known_at`, by period and then as the lines stand.

    `usage(line_id, from, to)` is in the line's unit. What is due at an instant, or when a window of a
    commitment ends, belongs to the stretch of time in which it falls due.
    """
    return lines_of(timeline(edits, known_at), start=start, end=end, usage=usage, in_service=in_service)


def lines_of(
    instants: Sequence[Instant],
    *,
    start: datetime,
    end: datetime,
    usage: Usage,
    in_service: ServiceOf | None = None,
) -> list[DesiredLine]:
    """`desired_lines` of a timeline that was made already."""
    if start >= end or not instants:
        return []
    return _Book(instants, start, end, usage, in_service).lines()


def difference_of(
    before: Iterable[Edit],
    after: Iterable[Edit],
    *,
    start: datetime,
    end: datetime,
    usage: Usage,
    in_service: ServiceOf | None = None,
) -> list[Difference]:
    """What changes in [start, end) when the log `before` becomes `after`, per line and billing period."""
    return differences(
        *(
            desired_lines(edits, start=start, end=end, usage=usage, in_service=in_service)
            for edits in (before, after)
        )
    )


def expected_period_total(state: ContractState, period: Period) -> tuple[int, int]:
    """(net, tax) that `state` will come to in `period` if nothing changes and nothing is used.

    A state that is not live yet counts as live; what is charged once is left out.
    """
    start = max(state.start_at or period.start, period.start)
    end = min(state.end_at or period.end, period.end)
    live = state if state.status in RUNNING else evolve(state, status="active")
    lines = [
        line
        for line in lines_of([Instant(start, live, ())], start=start, end=end, usage=lambda *_: _NO_USE)
        if line.line_id is not None and line.kind not in ("one_off", "early_fee")
    ]
    return sum(line.net_minor for line in lines), sum(line.tax_minor for line in lines)


class _Book:
    """A timeline read once for [start, end): what billed when, under what, in which periods."""

    def __init__(
        self,
        instants: Sequence[Instant],
        start: datetime,
        end: datetime,
        usage: Usage,
        in_service: ServiceOf | None,
    ) -> None:
        self.instants, self.start, self.end = instants, start, end
        self.usage = cache(usage)
        self.final = instants[-1].state
        self.over_at = _over_at(instants)
        self.periods = self.periods_in(start, end)
        horizon = max((period.end for period in self.periods), default=end)
        self.segments: dict[UUID, list[Segment]] = {}
        for segment in segments_of(instants, horizon, in_service):
            self.segments.setdefault(segment.line_id, []).append(segment)
        self.discounts = [
            replace(force, start=max(force.start, force.value.since))
            for force in stretches(instants, horizon, lambda state: state.discounts.items())
        ]
        self.commitments = committed_of(instants, horizon)
        self.charges_in = cache(self._charges_in)
        self.rolled_into = cache(self._rolled_into)

    def lines(self) -> list[DesiredLine]:
        charged = [line for period in self.periods for line in self._charged(period)]
        return [*charged, *self._settled(), *self._once(), *self._instalments()]

    def periods_in(self, start: datetime, end: datetime) -> list[Period]:
        """Billing periods that lie in [start, end), or partly; the contract's end ends the last one."""
        found = periods_of(self.instants, start, end)
        if self.over_at is None:
            return found
        return [replace(p, end=min(p.end, self.over_at)) for p in found if p.start < self.over_at]

    def _charges_in(self, period: Period) -> tuple[list[Rated], list[Deduction]]:
        """The charges of a whole period, cut where what was asked for begins and ends."""
        rated: list[Rated] = []
        for line_id, segments in self.segments.items():
            if self._let_go(segments[0], period):
                continue
            cuts, quota = self._quota(line_id) if segments[0].kind == "usage" else ([], None)
            line = rate_line(segments, period, self.usage, cuts=(self.start, self.end, *cuts), quota=quota)
            rated += [*line, *minimums(line, period)]
        forces = [force for force in self.discounts if force.start < period.end and force.end > period.start]
        return rated, deductions(rated, forces, self.usage)

    def _let_go(self, segment: Segment, period: Period) -> bool:
        """Whether this is the metered use of a contract's last days, which nobody bills."""
        ending = self.final.ending
        if ending is None or ending.final_usage == "bill" or segment.kind != "usage":
            return False
        return period.start < ending.at < period.full_end

    def _charged(self, period: Period) -> Iterator[DesiredLine]:
        """The lines of a period's charges that were asked for, each followed by what comes off it."""
        rated, off = self.charges_in(period)
        tax_rate = self._tax_rate(period)
        for i, one in enumerate(rated):
            if not self._asked(one) or not (one.net_minor or one.quantity):
                continue
            line = _line(one, period, tax_rate)
            yield line
            left = one.net_minor
            for taken in (taken for taken in off if taken.charge == i):
                seller, platform = funded(taken.minor, taken.discount.seller_share)
                for funder, minor in _funders(seller, platform):
                    # Tax is rounded on what is left of a line, so that line and discounts add up to it.
                    tax = tax_on(left - minor, tax_rate) - tax_on(left, tax_rate)
                    left -= minor
                    yield replace(
                        line,
                        kind="discount",
                        source_id=taken.discount.discount_id,
                        funded_by=funder,
                        quantity=_ONE,
                        rate=major(-minor, one.segment),
                        net_minor=-minor,
                        tax_minor=tax,
                    )

    def _asked(self, one: Rated) -> bool:
        if one.kind == "true_up":
            return self.start < one.end <= self.end
        if one.start == one.end:
            return self.start <= one.start < self.end
        return self.start <= one.start and one.end <= self.end

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
        (period,) = self.periods_in(at, at + _TICK)
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

    def _settled(self) -> Iterator[DesiredLine]:
        """What commitments miss, or were exceeded by, where that falls due in what was asked for."""
        for committed in self.commitments:
            for due_at, windows in committed.settled:
                if self.start < due_at <= self.end:
                    yield from self._settlement(committed.commitment, windows)
            if committed.commitment.kind == "minimum_spend" and committed.commitment.overage_factor != 1:
                for window in committed.windows:
                    if self.start < window.end <= self.end:
                        yield from self._surcharge(committed.commitment, window)

    def _settlement(self, commitment: Commitment, windows: Sequence[Window]) -> Iterator[DesiredLine]:
        """The true-up of windows that are settled together, over the lines that they are for."""
        spent = self._spent(commitment, windows)
        lines = self._lines_at(windows[-1].end, commitment, spent)
        share = sum((window.share for window in windows), _NONE)
        if commitment.kind == "minimum_spend":
            nets = [spent[line.line_id].net for line in lines]
            missing = shortfall(commitment.amount_minor, round_half_up(sum(nets, _NONE)), share)
            for line, net in zip(lines, by_weight(missing, nets) if lines else (), strict=True):
                yield from self._due("true_up", commitment, line, windows, net)
            return
        units = [spent[line.line_id].units for line in lines]
        short = max(_NONE, Fraction(commitment.units) * share - sum(units, _NONE))
        for line, used in zip(lines, units, strict=True):
            part = short * used / sum(units) if any(units) else short / len(lines)
            one = spent[line.line_id]
            more = charges.charge(line.price, one.last + part) - charges.charge(line.price, one.last)
            net = max(0, round_half_up(one.exact + more) - one.posted)
            yield from self._due("true_up", commitment, line, windows, net, decimal(part), line.price.rate)

    def _surcharge(self, commitment: Commitment, window: Window) -> Iterator[DesiredLine]:
        """What a spending beyond the minimum costs on top, over the lines by what each came to."""
        spent = self._spent(commitment, [window])
        lines = self._lines_at(window.end, commitment, spent)
        nets = [spent[line.line_id].net for line in lines]
        used = round_half_up(sum(nets, _NONE))
        extra = surcharge(commitment.amount_minor, used, commitment.overage_factor, window.share)
        for line, net in zip(lines, by_weight(extra, nets) if lines else (), strict=True):
            yield from self._due("overage", commitment, line, [window], net)

    def _spent(self, commitment: Commitment, windows: Sequence[Window]) -> "defaultdict[UUID, _Spent]":
        """What each line of the commitment came to within the windows."""
        found: defaultdict[UUID, _Spent] = defaultdict(_Spent)
        for window in windows:
            for period in self.periods_in(window.start, window.end):
                rated, off = self.charges_in(period)
                for line in found.values():
                    line.last = _NONE
                for i, one in enumerate(rated):
                    line_id = one.segment.line_id
                    part = part_of(one, window.start, window.end, self.usage)
                    if part and one.kind != "one_off" and commitment.covers(line_id):
                        borne = sum(
                            funded(taken.minor, taken.discount.seller_share)[0]
                            for taken in off
                            if taken.charge == i
                        )
                        found[line_id].add(one, part, borne)
        return found

    def _lines_at(
        self, due_at: datetime, commitment: Commitment, spent: "Mapping[UUID, _Spent]"
    ) -> list[LineState]:
        """The lines that a commitment is for just before `due_at`, and those that it was for."""
        return [
            line
            for line in at_instant(self.instants, due_at - _TICK).lines.values()
            if commitment.covers(line.line_id)
            and line.kind != "one_off"
            and line.price.model != "one_off"
            and (line.live or line.line_id in spent)
        ]

    def _due(
        self,
        kind: Literal["true_up", "overage"],
        commitment: Commitment,
        line: LineState,
        windows: Sequence[Window],
        net: int,
        quantity: Decimal = _ONE,
        rate: Decimal | None = None,
    ) -> Iterator[DesiredLine]:
        """A line due at the end of the last window; none when there is nothing to pay."""
        if not net:
            return
        end = windows[-1].end
        state = at_instant(self.instants, end - _TICK)
        (period,) = self.periods_in(end - _TICK, end)
        yield DesiredLine(
            kind=kind,
            line_id=line.line_id,
            source_id=commitment.commitment_id,
            product=line.product_code,
            seller_id=line.seller_id,
            buyer_id=state.buyer_id,
            owner_epoch=state.owner_epoch,
            quantity=quantity,
            rate=_major(net, state) if rate is None else rate,
            start=windows[0].start,
            end=end,
            period_start=period.start,
            net_minor=net,
            tax_minor=tax_on(net, self._tax_rate(period)),
        )

    def _once(self) -> Iterator[DesiredLine]:
        """Fees that operations brought about; what falls on the contract's end belongs to its last days."""
        for charge in self.final.charges:
            at = charge.at if self.over_at is None else min(charge.at, self.over_at - _TICK)
            if self.start <= at < self.end:
                yield from self._fee(charge, at_instant(self.instants, at), at)

    def _fee(self, charge: Charge, state: ContractState, at: datetime) -> Iterator[DesiredLine]:
        """A fee; one that names no line is shared over the live ones by what they cost a month."""
        if charge.kind != "early_fee":
            owed = self._lent(charge.kind, charge.charge_id, charge.seller_id, at, charge.amount_minor)
            yield replace(owed, start=charge.at, end=charge.at)
            return
        lines = [state.lines[charge.line_id]] if charge.line_id in state.lines else state.live_lines
        monthly = [
            charges.charge(line.price, line.quantity) if line.kind == "recurring" else _NONE for line in lines
        ]
        (period,) = self.periods_in(at, at + _TICK)
        for line, net in zip(lines, by_weight(charge.amount_minor, monthly) if lines else (), strict=True):
            if net:
                yield DesiredLine(
                    kind="early_fee",
                    line_id=line.line_id,
                    source_id=charge.charge_id,
                    product=line.product_code,
                    seller_id=charge.seller_id or line.seller_id,
                    buyer_id=state.buyer_id,
                    owner_epoch=state.owner_epoch,
                    quantity=_ONE,
                    rate=_major(net, state),
                    start=charge.at,
                    end=charge.at,
                    period_start=period.start,
                    net_minor=net,
                    tax_minor=tax_on(net, self._tax_rate(period)),
                )

    def _instalments(self) -> Iterator[DesiredLine]:
        """The rows of loans that fall due, also after the contract; a closed loan has none after its end."""
        for loan in self.final.financings.values():
            schedule = schedule_of(loan)
            for due_on, row in zip(schedule.dues, schedule.rows, strict=True):
                at = datetime.combine(due_on, time(), UTC)
                if self.start <= at < self.end and (loan.closed_at is None or at <= loan.closed_at):
                    if row.interest_minor:
                        yield self._lent(
                            "interest", loan.financing_id, loan.lender.id, at, row.interest_minor
                        )
                    if row.principal_minor:
                        yield self._lent(
                            "principal", loan.financing_id, loan.lender.id, at, row.principal_minor
                        )

    def _lent(
        self, kind: LineKind, source_id: UUID | str, lender: UUID | None, at: datetime, net: int
    ) -> DesiredLine:
        """What a lender is owed: of no line, and without tax."""
        state = at_instant(self.instants, at)
        periods = periods_of(self.instants, at, at + _TICK)
        return DesiredLine(
            kind=kind,
            line_id=None,
            source_id=source_id,
            product="",
            seller_id=lender,
            buyer_id=state.buyer_id,
            owner_epoch=state.owner_epoch,
            quantity=_ONE,
            rate=_major(net, state),
            start=at,
            end=at,
            period_start=periods[0].start if periods else at,
            net_minor=net,
        )

    def _tax_rate(self, period: Period) -> Decimal:
        """The rate at the instant that the period is invoiced: its end, or its start when in advance."""
        state = at_instant(self.instants, period.end - _TICK)
        if state.billing.when == "in_advance":
            state = at_instant(self.instants, max(period.start, self.instants[0].at))
        return _NO_TAX if state.terms.tax.exempt_certificate else state.terms.tax.rate


@dataclass
class _Spent:
    """What a line came to in some windows: `net` as the seller earns it, `last` the last period's units."""

    net: Fraction = _NONE
    posted: int = 0
    exact: Fraction = _NONE
    units: Fraction = _NONE
    last: Fraction = _NONE

    def add(self, one: Rated, part: Fraction, borne_minor: int) -> None:
        self.net += (one.net_minor - borne_minor) * part
        self.posted += round_half_up(one.net_minor * part)
        self.exact += one.exact * part
        self.units += one.units * part
        self.last += one.units * part


def _over_at(instants: Sequence[Instant]) -> datetime | None:
    """When the contract was over for good: ended, and nothing billed any more."""
    over_at = None
    for instant in reversed(instants):
        state = instant.state
        if state.status not in FINAL or any(line.paid_until for line in state.lines.values()):
            break
        over_at = instant.at
    return over_at


def _funders(seller_minor: int, platform_minor: int) -> Iterator[tuple[Funder, int]]:
    if seller_minor:
        yield "seller", seller_minor
    if platform_minor:
        yield "platform", platform_minor


def _line(one: Rated, period: Period, tax_rate: Decimal) -> DesiredLine:
    return DesiredLine(
        kind=one.kind,
        line_id=one.segment.line_id,
        source_id=one.source_id,
        product=one.segment.product_code,
        seller_id=one.segment.seller_id,
        buyer_id=one.segment.buyer_id,
        owner_epoch=one.segment.owner_epoch,
        quantity=one.quantity,
        rate=one.rate,
        start=one.start,
        end=one.end,
        period_start=period.start,
        net_minor=one.net_minor,
        tax_minor=tax_on(one.net_minor, tax_rate),
    )


def _major(minor: int, state: ContractState) -> Decimal:
    return Decimal(minor).scaleb(-exponent(state.currency))
