"""Credits for missed uptime: what a line gives back of its recurring charges for when its units were down.

A credit is for a billing period, or for an owner's part of one, and belongs to the stretch of time in which
that ends. It is of what the buyer pays after discounts, by the terms in force at the end; used and one-off
charges give nothing back, nor does what was forfeited, which nobody serves.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from uuid import UUID

from contracts.rules.book import Book
from contracts.rules.line_service import LineService
from contracts.rules.lines import DesiredLine
from contracts.rules.periods import Period
from contracts.rules.pricing import tax_on
from contracts.rules.rating import Rated, major
from contracts.rules.sla import Charged, gives_credit, sla_credit
from contracts.rules.terms import Sla

# A charge, and what is left of it after discounts.
_Paid = tuple[Rated, int]


def sla_credits(book: Book) -> Iterator[DesiredLine]:
    """The credits that fall due in the book's stretch of time, of periods that are over."""
    service = book.service
    if service is None:
        return
    for period in book.periods:
        cuts = [epoch.start for epoch in book.epochs if period.start < epoch.start < period.end]
        for start, end in pairwise([period.start, *cuts, period.end]):
            if book.start < end <= min(book.end, service.until):
                yield from _credits(book, service, period, start, end)


def _credits(
    book: Book, service: LineService, period: Period, start: datetime, end: datetime
) -> Iterator[DesiredLine]:
    """A credit for each line, and seller of it, that missed its uptime in [start, end) of the period."""
    sla, tax_rate = book.before(end).terms.sla, book.tax_rate(period)
    if not gives_credit(sla) or not any(_was_down(book, service, start, end, sla)):
        return
    for paid in _recurring(book, period, start, end):
        given = sla_credit([_charged(service, one, left) for one, left in paid], sla)
        if not (minor := sum(given)):
            continue
        segment = paid[-1][0].segment
        # By charge, as discounts are taxed: a charge and what comes off it add up to the tax of what is left.
        taxes = [
            tax_on(left - part, tax_rate) - tax_on(left, tax_rate)
            for (_, left), part in zip(paid, given, strict=True)
        ]
        yield DesiredLine(
            kind="sla_credit",
            line_id=segment.line_id,
            source_id=segment.line_id,
            product=segment.product_code,
            seller_id=segment.seller_id,
            buyer_id=segment.buyer_id,
            owner_epoch=segment.owner_epoch,
            quantity=Decimal(1),
            rate=major(-minor, segment),
            start=start,
            end=end,
            period_start=period.start,
            net_minor=-minor,
            tax_minor=sum(taxes),
            funded_by="seller",
        )


def _was_down(book: Book, service: LineService, start: datetime, end: datetime, sla: Sla) -> Iterator[bool]:
    """Of each recurring line: whether a unit of it was ever down or degraded in that time."""
    for line_id, segments in book.segments.items():
        if segments[0].kind == "recurring":
            yield bool(service.availability(line_id, start, end).down_minutes(sla))


def _recurring(book: Book, period: Period, start: datetime, end: datetime) -> Iterable[list[_Paid]]:
    """The recurring charges in [start, end) by line and seller, whatever part of the period was asked for."""
    rated, off = book.charges_in(period, whole=True)
    taken: Counter[int] = Counter()
    for one in off:
        taken[one.charge] += one.minor
    found: dict[tuple[UUID, UUID], list[_Paid]] = defaultdict(list)
    for i, charge in enumerate(rated):
        served_until = book.forfeited_at.get(charge.segment.line_id, end)
        if charge.kind == "recurring" and start <= charge.start < min(served_until, end):
            key = charge.segment.line_id, charge.segment.seller_id
            found[key].append((charge, charge.net_minor - taken[i]))
    return found.values()


def _charged(service: LineService, charge: Rated, left: int) -> Charged:
    found = service.availability(charge.segment.line_id, charge.start, charge.end)
    return Charged(left, (charge.end - charge.start) * charge.segment.quantity, found)
