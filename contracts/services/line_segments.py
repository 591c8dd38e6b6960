"""Keeping `LineSegment` in step with the log: an edit ends what it contradicts and adds what it says."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

from contracts.models import Contract, LineSegment
from contracts.rules import schema
from contracts.rules.fold import Instant
from contracts.rules.segments import segments_of

FOREVER = datetime(9999, 1, 1, tzinfo=UTC)

Key = tuple[UUID, datetime, datetime | None]
Said = dict[Key, dict[str, Any]]

_SUPERSEDE = """
UPDATE contracts_linesegment SET known = tstzrange(lower(known), %(at)s) WHERE id = ANY (%(ids)s)
"""


def said(instants: Sequence[Instant], since: datetime | None = None) -> Said:
    """By line and stretch of valid time: what the segments that reach `since` or later must say."""
    found = {}
    for segment in segments_of(instants, FOREVER):
        if since is None or segment.valid_to >= since:
            end = None if segment.valid_to == FOREVER else segment.valid_to
            found[segment.line_id, segment.valid_from, end] = {
                "product_code": segment.product_code,
                "seller_id": segment.seller_id,
                "buyer_id": segment.buyer_id,
                "quantity": segment.quantity,
                "share": segment.share,
                "price": schema.dump(segment.price),
            }
    return found


def stored(contract_id: UUID, since: datetime | None = None) -> dict[Key, tuple[int, dict[str, Any]]]:
    """The rows that count now, likewise, each with its id."""
    rows = LineSegment.objects.filter(contract_id=contract_id, known__upper_inf=True)
    if since is not None:
        rows = rows.extra(where=["(upper_inf(valid) OR upper(valid) >= %s)"], params=[since])
    return {
        (row.line_id, row.valid.lower, row.valid.upper): (
            row.pk,
            {
                "product_code": row.product_code,
                "seller_id": row.seller_id,
                "buyer_id": row.buyer_id,
                "quantity": row.quantity,
                "share": row.share,
                "price": row.price,
            },
        )
        for row in rows
    }


def differing(contract: Contract, instants: Sequence[Instant]) -> list[Key]:
    """The stretches at which the rows that count now and the log disagree."""
    want, have = said(instants), stored(contract.pk)
    return [
        key for key in {**want, **have} if key not in have or key not in want or have[key][1] != want[key]
    ]


def project(
    contract: Contract, instants: Sequence[Instant], *, recorded_at: datetime, since: datetime | None = None
) -> None:
    """Make the rows say what the timeline says, from `since` on, as known from `recorded_at`."""
    want, have = said(instants, since), stored(contract.pk, since)
    over = [id_ for key, (id_, row) in have.items() if want.get(key) != row]
    if over:
        with connection.cursor() as cursor:
            cursor.execute(_SUPERSEDE, {"at": recorded_at, "ids": over})
    LineSegment.objects.bulk_create(
        LineSegment(
            contract=contract,
            line_id=line_id,
            valid=DateTimeTZRange(start, end),
            known=DateTimeTZRange(recorded_at, None),
            **want[line_id, start, end],
        )
        for line_id, start, end in want
        if (line_id, start, end) not in have or have[line_id, start, end][1] != want[line_id, start, end]
    )
