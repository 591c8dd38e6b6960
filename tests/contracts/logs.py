"""Logs of edits made by hand, for rules that read nothing else, and what they should have billed."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from commerce.ids import uuid7
from contracts.rules.desired import desired_lines
from contracts.rules.fold import Edit
from contracts.rules.lines import DesiredLine, Difference, differences
from contracts.rules.operations.activate import Activate
from contracts.rules.operations.create import Create, Term
from contracts.rules.operations.products import AddProduct
from contracts.rules.service import Report
from contracts.rules.state import Price
from contracts.rules.terms import Billing, Terms

BUYER, SELLER, OTHER_SELLER = UUID(int=8), UUID(int=9), UUID(int=10)
SERVERS, HOURS, SETUP = UUID(int=1), UUID(int=2), UUID(int=3)

Step = tuple[Any, ...]
Used = Mapping[UUID, Sequence[tuple[str, str]]]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def usd(rate: str, model: Any = "unit", **given: Any) -> Price:
    return Price(model, Decimal(rate), "USD", **given)


def servers(
    rate: str = "18000.00", quantity: int = 4, line_id: UUID = SERVERS, seller: UUID = SELLER
) -> AddProduct:
    return AddProduct(line_id, "h100-server", seller, usd(rate), quantity, unit="server_month")


def hours(price: Price | None = None, line_id: UUID = HOURS, seller: UUID = SELLER) -> AddProduct:
    return AddProduct(
        line_id, "h100-burst", seller, price or usd("1.95"), kind="usage", unit="device_hour", meter="burst"
    )


def log(*steps: Step, after: Sequence[Edit] = ()) -> list[Edit]:
    """Edits from (operation, payload, day of effect) or with the day of recording as a fourth.

    With `after`, they follow that log.
    """
    return [*after] + [
        Edit(seq, operation, payload, at(when), at(recorded[0] if recorded else "2020-01-01"))
        for seq, (operation, payload, when, *recorded) in enumerate(steps, len(after) + 1)
    ]


def contract(
    start: str,
    lines: Sequence[AddProduct],
    *then: Step,
    months: int | None = None,
    billing: Billing | None = None,
    terms: Terms | None = None,
) -> list[Edit]:
    """The log of a contract that is live from its start, and of what happens to it then."""
    term = Term("fixed", months) if months else Term()
    created = Create(
        BUYER, "USD", at(start), None, term, billing or Billing(), terms or Terms(), tuple(lines)
    )
    stages = [("activate", Activate(stage), start) for stage in ("submit", "signed", "live")]  # type: ignore[arg-type]
    return log(("create", created, start), *stages, *then)


def desired(
    edits: Sequence[Edit], start: str, end: str, used: Used | None = None, **given: Any
) -> list[DesiredLine]:
    """The desired lines, given use as (day, quantity) by line."""

    def usage(line_id: UUID, since: datetime, until: datetime) -> Decimal:
        readings = (used or {}).get(line_id, ())
        return sum((Decimal(q) for day, q in readings if since <= at(day) < until), Decimal(0))

    return desired_lines(edits, start=at(start), end=at(end), usage=usage, **given)


def changed(before: Sequence[Edit], after: Sequence[Edit], start: str, end: str) -> list[Difference]:
    """What is desired otherwise when the log `before` becomes `after`, and nothing is used."""
    return differences(desired(before, start, end), desired(after, start, end))


def told(lines: Sequence[DesiredLine]) -> list[tuple[str, str, int]]:
    """(kind, days of the year's months, net) of each line, for reading."""
    return [(line.kind, f"{line.start:%m-%d} {line.end:%m-%d}", line.net_minor) for line in lines]


def report(
    state: str,
    when: str,
    unit: str = "u-1",
    line: UUID = SERVERS,
    *,
    source: str = "dcim",
    told: str | None = None,
    recorded: str = "2020-01-01",
    corrects: Report | None = None,
) -> Report:
    """What was said of a unit from an instant on, by default as it happened."""
    return Report(
        id=uuid7(),
        unit_id=unit,
        line_id=line,
        at=at(when),
        state=state,
        source=source,
        received_at=at(told or when),
        recorded_at=at(recorded),
        corrects=corrects.id if corrects else None,
    )
