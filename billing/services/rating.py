"""What a contract owes for a stretch of time, with the usage and the service that were reported to us."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from billing.rules.rating import RatedLine, rate_period
from billing.services.usage import metered
from contracts.rules.fold import Edit
from contracts.services import line_service


def rate(
    contract_id: UUID,
    edits: Sequence[Edit],
    *,
    owner_epoch: int,
    start: datetime,
    end: datetime,
    at: datetime,
) -> list[RatedLine]:
    """The lines that one owner owes for [start, end) as of `at`, as known now."""
    service = line_service(contract_id, at=at)
    return rate_period(
        edits,
        owner_epoch=owner_epoch,
        start=start,
        end=end,
        usage=partial(metered, contract_id),
        service=service,
    )
