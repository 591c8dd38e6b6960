"""Commitments settled: what falls short of a window, and what spending beyond one costs on top.

A line of it belongs to the stretch of time in which its window ends, to the owner of that window, and to
the sellers by what they earned of their lines in it: by their time of a line that came to nothing.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Literal
from uuid import UUID

from commerce.money import exponent, round_half_up
from contracts.rules import charges
from contracts.rules.book import TICK, Book
from contracts.rules.commitments import Window, by_weight, shortfall, surcharge
from contracts.rules.discounts import funded
from contracts.rules.lines import DesiredLine
from contracts.rules.pricing import tax_on
from contracts.rules.rating import Rated, decimal, part_of
from contracts.rules.state import Commitment, LineState

_NONE = Fraction(0)


def settlements(book: Book) -> Iterator[DesiredLine]:
    """The lines of commitments that fall due in the book's stretch of time."""
    for committed in book.commitments:
        for due_at, windows in committed.settled:
            if book.start < due_at <= book.end:
                yield from _true_up(book, committed.commitment, windows)
        if committed.commitment.kind == "minimum_spend" and committed.commitment.overage_factor != 1:
            for window in committed.windows:
                if book.start < window.end <= book.end:
                    yield from _surcharge(book, committed.commitment, window)


def _true_up(book: Book, commitment: Commitment, windows: Sequence[Window]) -> Iterator[DesiredLine]:
    """The true-up of windows that are settled together, over the lines that they are for."""
    spent = _spent(book, commitment, windows)
    lines = _lines_at(book, windows[-1].end, commitment, spent)
    share = sum((window.share for window in windows), _NONE)
    if commitment.kind == "minimum_spend":
        nets = [spent[line.line_id].net for line in lines]
        missing = shortfall(commitment.amount_minor, round_half_up(sum(nets, _NONE)), share)
        for line, net in zip(lines, by_weight(missing, nets) if lines else (), strict=True):
            yield from _due(book, "true_up", commitment, line, windows, net, spent[line.line_id])
        return
    units = [spent[line.line_id].units for line in lines]
    short = max(_NONE, Fraction(commitment.units) * share - sum(units, _NONE))
    for line, used in zip(lines, units, strict=True):
        part = short * used / sum(units) if any(units) else short / len(lines)
        one = spent[line.line_id]
        more = charges.charge(line.price, one.last + part) - charges.charge(line.price, one.last)
        net = max(0, round_half_up(one.exact + more) - one.posted)
        yield from _due(book, "true_up", commitment, line, windows, net, one, part)


def _surcharge(book: Book, commitment: Commitment, window: Window) -> Iterator[DesiredLine]:
    """What a spending beyond the minimum costs on top, over the lines by what each came to."""
    spent = _spent(book, commitment, [window])
    lines = _lines_at(book, window.end, commitment, spent)
    nets = [spent[line.line_id].net for line in lines]
    used = round_half_up(sum(nets, _NONE))
    extra = surcharge(commitment.amount_minor, used, commitment.overage_factor, window.share)
    for line, net in zip(lines, by_weight(extra, nets) if lines else (), strict=True):
        yield from _due(book, "overage", commitment, line, [window], net, spent[line.line_id])


@dataclass
class _Spent:
    """What a line came to in some windows: `net` as its sellers earn it, `last` the last period's units.

    `earned` is each seller's part of the net, `times` the part of their charges' time, in microseconds.
    """

    net: Fraction = _NONE
    posted: int = 0
    exact: Fraction = _NONE
    units: Fraction = _NONE
    last: Fraction = _NONE
    earned: defaultdict[UUID, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    times: defaultdict[UUID, Fraction] = field(default_factory=lambda: defaultdict(Fraction))

    def add(self, one: Rated, part: Fraction, borne_minor: int) -> None:
        net = (one.net_minor - borne_minor) * part
        self.net += net
        self.earned[one.segment.seller_id] += net
        self.times[one.segment.seller_id] += (one.end - one.start) // TICK * part
        self.posted += round_half_up(one.net_minor * part)
        self.exact += one.exact * part
        self.units += one.units * part
        self.last += one.units * part


def _spent(book: Book, commitment: Commitment, windows: Sequence[Window]) -> defaultdict[UUID, _Spent]:
    """What each line of the commitment came to within the windows, for their owner."""
    epoch = book.before(windows[-1].end).owner_epoch
    found: defaultdict[UUID, _Spent] = defaultdict(_Spent)
    for window in windows:
        for period in book.periods_in(window.start, window.end):
            rated, off = book.charges_in(period)
            for line in found.values():
                line.last = _NONE
            for i, one in enumerate(rated):
                line_id = one.segment.line_id
                part = part_of(one, window.start, window.end, book.usage)
                counts = one.kind != "one_off" and one.segment.owner_epoch == epoch
                if part and counts and commitment.covers(line_id):
                    borne = sum(
                        funded(taken.minor, taken.discount.seller_share)[0]
                        for taken in off
                        if taken.charge == i
                    )
                    found[line_id].add(one, part, borne)
    return found


def _lines_at(
    book: Book, due_at: datetime, commitment: Commitment, spent: Mapping[UUID, _Spent]
) -> list[LineState]:
    """The lines that a commitment is for just before `due_at`, and those that it was for."""
    return [
        line
        for line in book.before(due_at).lines.values()
        if commitment.covers(line.line_id)
        and line.kind != "one_off"
        and line.price.model != "one_off"
        and (line.live or line.line_id in spent)
    ]


def _due(
    book: Book,
    kind: Literal["true_up", "overage"],
    commitment: Commitment,
    line: LineState,
    windows: Sequence[Window],
    net: int,
    spent: _Spent,
    units: Fraction | None = None,
) -> Iterator[DesiredLine]:
    """Lines due at the end of the last window, one for each seller; none when there is nothing to pay.

    Where it is of `units`, the lines say how many of them at the rate of the line's price.
    """
    end = windows[-1].end
    state, period = book.before(end), book.period_at(end - TICK)
    if not net or period is None:
        return
    earned = {seller_id: net for seller_id, net in spent.earned.items() if net > 0}
    weights = earned or spent.times or {line.seller_id: Fraction(1)}
    parts = by_weight(net, list(weights.values()))
    for (seller_id, weight), part in zip(weights.items(), parts, strict=True):
        if not part:
            continue
        rate = Decimal(part).scaleb(-exponent(state.currency))
        yield DesiredLine(
            kind=kind,
            line_id=line.line_id,
            source_id=commitment.commitment_id,
            product=line.product_code,
            seller_id=seller_id,
            buyer_id=state.buyer_id,
            owner_epoch=state.owner_epoch,
            quantity=Decimal(1) if units is None else decimal(units * weight / sum(weights.values())),
            rate=rate if units is None else line.price.rate,
            start=windows[0].start,
            end=end,
            period_start=period.start,
            net_minor=part,
            tax_minor=tax_on(part, book.tax_rate(period)),
        )
