"""Contracts that renew by themselves, and a clock that ticks or does not."""

from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

from commerce.outbox.models import OutboxEvent
from contracts import services
from contracts.models import Contract, ScheduledCommand
from tests.contracts.conftest import create, edit


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def renewing(
    payload: dict[str, Any],
    start: str = "2026-01-31",
    *,
    months: int = 1,
    renewal: dict[str, Any] | None = None,
    live: bool = True,
    **more: Any,
) -> Contract:
    """A running contract with a fixed term; it renews by itself, without notice, unless `renewal` says so."""
    body = deepcopy(payload) | {
        "start_at": f"{start}T00:00:00Z",
        "term": {"kind": "fixed", "months": months},
        "billing": {"anchor_day": int(start[-2:])},
        **more,
    }
    body["terms"]["renewal"] = {"auto": True, "notice_days": 0, "term_months": months, **(renewal or {})}
    contract = create(body, at=day(start)).contract
    for stage in ("submit", "signed", "live") if live else ():
        contract = edit(contract, "activate", {"stage": stage}, at=day(start)).contract
    return contract


def tick(at: datetime) -> int:
    """What beat does at every tick; how many commands were carried out."""
    count = services.run_due(at=at)
    services.take_effect_due(at=at)
    return count


def tick_through(since: datetime, until: datetime, step: timedelta = timedelta(days=1)) -> None:
    while since <= until:
        tick(since)
        since += step


def rows(contract: Contract, **filters: Any) -> list[tuple[str, str, str]]:
    """Key without the contract, due day and status, in order."""
    found = ScheduledCommand.objects.filter(contract=contract, **filters).order_by("due_at", "key")
    return [(row.key.replace(f":{contract.pk}", ""), f"{row.due_at:%Y-%m-%d}", row.status) for row in found]


def log_of(contract: Contract) -> list[tuple[Any, ...]]:
    """The log but for when the database wrote it."""
    return [
        (row.seq, row.operation, row.payload, row.effective_at, row.idempotency_key, row.reason)
        for row in contract.edits.order_by("seq")
        if not row.idempotency_key.startswith("key-")
    ]


def events_of(contract: Contract) -> list[tuple[Any, ...]]:
    """What was told of the contract, but for when the database wrote it."""
    return [
        (row.type, row.occurred_at, {k: v for k, v in row.payload.items() if k != "recorded_at"})
        for row in OutboxEvent.objects.filter(aggregate_id=str(contract.pk)).order_by("sequence")
    ]
