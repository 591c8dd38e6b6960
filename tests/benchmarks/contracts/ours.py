"""The contracts' benchmark through the services that the doors call; one process, durable commits."""

import io
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.core.management import call_command
from django.db import connection

from commerce import roles
from commerce.actor import Actor
from commerce.ids import uuid7
from commerce.parties.models import Organization
from contracts import services
from contracts.models import Contract
from contracts.rules import fold as rules
from contracts.rules.desired import lines_of
from contracts.rules.visibility import seen_edits
from contracts.services import OperationRequest
from contracts.services.schedule import run_due

START = datetime(2027, 3, 1, tzinfo=UTC)
ACTOR = Actor.system("benchmark")
LINES = [UUID(int=n) for n in range(1, 11)]
BATCH = 50
# Ids of the copies follow from their number, so that each table finds them by itself.
_COPY = """
INSERT INTO {table} SELECT (jsonb_populate_record(row, jsonb_build_object({changes}))).*
FROM {table} row, (SELECT n, md5(n::text)::uuid AS id FROM generate_series(1, %(contracts)s - 1) n) copy
WHERE row.{of} = %(id)s
"""
_COPIES = [
    _COPY.format(
        table="contracts_contract", of="id", changes="'id', copy.id, 'number', 'B-' || lpad(n::text, 6, '0')"
    ),
    _COPY.format(
        table="contracts_contractedit",
        of="contract_id",
        changes="""'id', md5(n || row.id::text)::uuid, 'contract_id', copy.id,
                   'idempotency_key', row.idempotency_key || n""",
    ),
    _COPY.format(
        table="contracts_linesegment",
        of="contract_id",
        changes="""'id', nextval(pg_get_serial_sequence('contracts_linesegment', 'id')),
                   'contract_id', copy.id""",
    ),
    _COPY.format(
        table="contracts_scheduledcommand",
        of="contract_id",
        changes="""'id', md5(n || row.id::text)::uuid, 'contract_id', copy.id,
                   'key', replace(row.key, row.contract_id::text, copy.id::text)""",
    ),
]
_state: dict[str, Any] = {}


def migrate() -> None:
    call_command("migrate", verbosity=0)


def prepare(edits: int) -> None:
    """One running contract of ten lines with so many edits, a day apart."""
    contract = _contract(LINES, months=120)
    steps = [_step(n) for n in range(edits - contract.version)]
    for first in range(0, len(steps), BATCH):
        services.record_edits(
            contract_id=contract.pk,
            operations=steps[first : first + BATCH],
            actor=ACTOR,
            at=START,
            idempotency_key=f"batch-{first}",
            expected_version=None,
        )
    _state.update(id=contract.pk, edits=edits, log=services.contract_edits(contract.pk))


def fold(times: int) -> dict[str, float]:
    at = START + timedelta(days=_state["edits"] + 1)
    return _timed(lambda _: rules.fold(_state["log"], valid_at=at), times)


def timeline(times: int) -> dict[str, float]:
    return _timed(lambda _: rules.timeline(_state["log"]), times)


def bills(times: int) -> dict[str, float]:
    """A month in the middle of the log, from the log on."""
    start = START + timedelta(days=_state["edits"] // 2)

    def once(_: int) -> None:
        instants = rules.timeline(_state["log"])
        end = start + timedelta(days=31)
        lines_of(instants, start=start, end=end, usage=lambda *_: Decimal(0))

    return _timed(once, times)


def seen(times: int) -> dict[str, float]:
    """The whole log as the seller of its lines reads it, cut to what it may see."""
    seller = rules.fold(_state["log"], valid_at=START).lines[LINES[0]].seller_id
    return _timed(lambda _: seen_edits(_state["log"], seller), times)


def record(times: int) -> dict[str, float]:
    """The whole service: lock, log, checks, projection, segments, event, commit."""
    at = START + timedelta(days=_state["edits"] + 1)

    def once(n: int) -> None:
        _record(_state["id"], _step(7), at=at, key=f"record-{n}")

    return _timed(once, times)


def preview(times: int) -> dict[str, float]:
    at = START + timedelta(days=_state["edits"] + 1)

    def once(n: int) -> None:
        services.preview_edits(
            contract_id=_state["id"], operations=[_step(7)], actor=ACTOR, at=at, expected_version=None
        )

    return _timed(once, times)


def multiply(contracts: int) -> None:
    """Contracts of one line that renew by themselves after a month, all at the same instant."""
    contract = _contract([uuid7()], months=1, renewal={"auto": True, "notice_days": 7})
    guarded = ("contracts_contract", "contracts_scheduledcommand")
    with roles.owner(), connection.cursor() as cursor:
        for table in guarded:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER guard_status")
        for statement in _COPIES:
            cursor.execute(statement, {"contracts": contracts, "id": contract.pk})
        for table in guarded:
            cursor.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER guard_status")
        cursor.execute("ANALYZE")


def rebuild(contracts: int, workers: int) -> float:
    began = time.perf_counter()
    with suppress(SystemExit):  # the hashes of copies are not theirs
        call_command(
            "contracts_rebuild",
            "--dry-run",
            "--json",
            f"--workers={workers}",
            f"--limit={contracts}",
            stdout=io.StringIO(),
            stderr=io.StringIO(),
        )
    return contracts / (time.perf_counter() - began)


def renew(contracts: int) -> dict[str, float]:
    """From the end of the term on until none is due, as the tick does it."""
    at = START + timedelta(days=31)
    while run_due(at=at - timedelta(days=7), limit=BATCH):  # a notice in time: a late one moves the renewal
        pass
    done, laps, began = 0, [], time.perf_counter()
    tenth = max(contracts // 10, 1)
    while count := run_due(at=at, limit=tenth):
        done += count
        laps.append((count, time.perf_counter()))
    seconds = laps[-1][1] - began
    renewed = Contract.objects.filter(version__gt=4, number__startswith="B-", end_at__gt=at).count()
    if renewed != contracts - 1:
        raise RuntimeError(f"{renewed:,} of {contracts:,} contracts were renewed.")
    first = laps[0][0] / (laps[0][1] - began)
    last = laps[-2][0] / (laps[-2][1] - laps[-3][1]) if len(laps) > 2 else first
    return {"rate": contracts / seconds, "seconds": seconds, "last_beside_first": last / first}


def _contract(lines: list[UUID], months: int, renewal: dict[str, Any] | None = None) -> Contract:
    buyer, seller = (
        Organization.objects.get_or_create(slug=role, defaults={"name": role, "roles": [role]})[0]
        for role in ("buyer", "seller")
    )
    contract = services.create_contract(
        payload={
            "buyer_id": str(buyer.pk),
            "currency": "USD",
            "start_at": "2027-03-01T00:00:00Z",
            "term": {"kind": "fixed", "months": months},
            "terms": {"renewal": renewal or {}, "tax": {"rate": "0.0825"}},
            "lines": [
                {
                    "line_id": str(line),
                    "product": "h100-server",
                    "seller_id": str(seller.pk),
                    "quantity": 2,
                    "price": {"model": "unit", "rate": "18000.00"},
                }
                for line in lines
            ],
        },
        actor=ACTOR,
        at=START,
        idempotency_key=str(uuid7()),
    ).contract
    for stage in ("submit", "signed", "live"):
        _record(contract.pk, OperationRequest("activate", {"stage": stage}), at=START, key=stage)
    contract.refresh_from_db()
    return contract


def _record(contract_id: UUID, step: OperationRequest, *, at: datetime, key: str) -> None:
    services.record_edits(
        contract_id=contract_id,
        operations=[step],
        actor=ACTOR,
        at=at,
        idempotency_key=key,
        expected_version=None,
    )


def _step(n: int) -> OperationRequest:
    """Quantities of one line after the other; every tenth day a hold, lifted the day after."""
    at = START + timedelta(days=n + 1)
    if n % 10 == 5:
        return OperationRequest("suspend", {"reason": "buyer", "billing": "stop"}, at)
    if n % 10 == 6:
        return OperationRequest("resume", {"reason": "buyer"}, at)
    if n % 10 == 7:
        return OperationRequest("change_quantity", {"line_id": str(LINES[0]), "delta": 1})
    return OperationRequest("change_quantity", {"line_id": str(LINES[n % 10]), "delta": 1}, at)


def _timed(once: Callable[[int], Any], times: int) -> dict[str, float]:
    """Milliseconds; the first call of all does not count."""
    once(times)
    found = []
    for n in range(times):
        began = time.perf_counter()
        once(n)
        found.append((time.perf_counter() - began) * 1000)
    found.sort()
    return {"p50": found[times // 2], "p95": found[int(times * 0.95)]}
