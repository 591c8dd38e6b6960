"""Desired lines: what should have been billed for a stretch of time, from the log of edits alone.

The log is folded once. The same lines come out whoever asks: a preview, the check of a provider's invoice,
the difference to what was posted. Amounts are minor units; nothing here knows what was billed before.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from uuid import UUID

from commerce.money import exponent
from contracts.rules.book import TICK, Book
from contracts.rules.commitments import by_weight
from contracts.rules.credits import sla_credits
from contracts.rules.discounts import funded
from contracts.rules.fold import Edit, Instant, at_instant, timeline
from contracts.rules.line_service import LineService
from contracts.rules.lines import DesiredLine, Funder, LineKind
from contracts.rules.loans import schedule_of
from contracts.rules.operations.base import RUNNING
from contracts.rules.operations.fees import monthly
from contracts.rules.periods import MONTHS, Period
from contracts.rules.pricing import tax_on
from contracts.rules.rating import Rated, Usage, major
from contracts.rules.segments import periods_of
from contracts.rules.settling import settlements
from contracts.rules.state import Charge, ContractState, Financing, evolve

_ONE, _NOTHING = Decimal(1), Decimal(0)


def desired_lines(
    edits: Iterable[Edit],
    *,
    start: datetime,
    end: datetime,
    usage: Usage,
    service: LineService | None = None,
    known_at: datetime | None = None,
) -> list[DesiredLine]:
    """Every line for [start, end) as known at `known_at`, by period and then as the lines stand.

    `usage(line_id, from, to)` is in the line's unit. What is due at an instant, or when a period or a
    window of a commitment ends, belongs to the stretch of time in which it falls due.
    """
    return lines_of(timeline(edits, known_at), start=start, end=end, usage=usage, service=service)


def lines_of(
    instants: Sequence[Instant],
    *,
    start: datetime,
    end: datetime,
    usage: Usage,
    service: LineService | None = None,
) -> list[DesiredLine]:
    """`desired_lines` of a timeline that was made already."""
    if start >= end or not instants:
        return []
    book = Book(instants, start, end, usage, service)
    charged = (line for period in book.periods for line in _charged(book, period))
    found = [*charged, *sla_credits(book), *settlements(book), *_fees(book), *_instalments(book)]
    return sorted(found, key=lambda line: line.period_start)


def expected_period_total(state: ContractState, period: Period) -> tuple[int, int]:
    """(net, tax) that `state` will come to in `period` if nothing changes and nothing is used.

    A state that is not live yet counts as live; what is charged once is left out.
    """
    start = max(state.start_at or period.start, period.start)
    end = min(state.end_at or period.end, period.end)
    live = state if state.status in RUNNING else evolve(state, status="active")
    lines = [
        line
        for line in lines_of([Instant(start, live, ())], start=start, end=end, usage=lambda *_: _NOTHING)
        if line.line_id is not None and line.kind not in ("one_off", "early_fee")
    ]
    return sum(line.net_minor for line in lines), sum(line.tax_minor for line in lines)


def _charged(book: Book, period: Period) -> Iterator[DesiredLine]:
    """The lines of a period's charges that were asked for, each followed by what comes off it."""
    rated, off = book.charges_in(period)
    tax_rate = book.tax_rate(period)
    for i, one in enumerate(rated):
        if not _asked(book, one) or not (one.net_minor or one.quantity):
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


def _asked(book: Book, one: Rated) -> bool:
    """Whether a charge falls due in the book's stretch: what its owner forfeited, when he leaves at last."""
    left_at = book.left_at(one.segment.owner_epoch)
    if one.kind == "true_up":
        return book.start < min(one.end, left_at) <= book.end
    if one.start >= left_at:
        return book.start < left_at <= book.end
    if one.start == one.end:
        return book.start <= one.start < book.end
    return book.start <= one.start and one.end <= book.end


def _fees(book: Book) -> Iterator[DesiredLine]:
    """Fees that operations brought about; what falls on the contract's end belongs to its last days."""
    for charge in book.final.charges:
        at = charge.at if book.over_at is None else min(charge.at, book.over_at - TICK)
        if book.start <= at < book.end:
            yield from _fee(book, charge, at_instant(book.instants, at), at)


def _fee(book: Book, charge: Charge, state: ContractState, at: datetime) -> Iterator[DesiredLine]:
    """A fee; one that names no line is shared over the live ones by what they cost a month."""
    if charge.kind != "early_fee":
        owed = _lent(book, charge.kind, charge.charge_id, charge.seller_id, at, charge.amount_minor)
        yield replace(owed, start=charge.at, end=charge.at)
        return
    lines = [state.lines[charge.line_id]] if charge.line_id in state.lines else state.live_lines
    months = MONTHS[state.billing.cadence]
    parts = by_weight(charge.amount_minor, [monthly(line, months) for line in lines]) if lines else ()
    period = book.period_at(at)
    for line, net in zip(lines, parts, strict=True):
        if net and period:
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
                tax_minor=tax_on(net, book.tax_rate(period)),
            )


def _instalments(book: Book) -> Iterator[DesiredLine]:
    """The rows of loans that fall due, also after the contract; a closed loan has none after its end."""
    for loan in book.final.financings.values():
        schedule = schedule_of(loan)
        for due_on, row in zip(schedule.dues, schedule.rows, strict=True):
            at = _due_at(book, loan, due_on)
            if book.start <= at < book.end and (loan.closed_at is None or at <= loan.closed_at):
                if row.interest_minor:
                    yield _lent(book, "interest", loan.financing_id, loan.lender.id, at, row.interest_minor)
                if row.principal_minor:
                    yield _lent(book, "principal", loan.financing_id, loan.lender.id, at, row.principal_minor)


def _due_at(book: Book, loan: Financing, due_on: date) -> datetime:
    """When a row falls due; for a buyer who leaves then and pays the loan off, the last moment of its own."""
    at = datetime.combine(due_on, time(), UTC)
    if loan.closed_at != at or book.before(at).owner_epoch == at_instant(book.instants, at).owner_epoch:
        return at
    return at - TICK


def _lent(
    book: Book, kind: LineKind, source_id: UUID | str, lender: UUID | None, at: datetime, net: int
) -> DesiredLine:
    """What a lender is owed: of no line, and without tax."""
    state = at_instant(book.instants, at)
    periods = periods_of(book.instants, at, at + TICK)
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
