"""kill -9 while edits are recorded: the edits, their events, schedule and segments are all there, or none."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db import connection

from commerce.embedded import REPOSITORY
from commerce.outbox.models import OutboxEvent
from contracts import services
from contracts.models import Contract, LineSegment
from contracts.services import BatchResult, OperationRequest
from tests.contracts.agreement import agrees_with_its_log, written
from tests.contracts.conftest import MARCH, OPERATOR
from tests.contracts.scheduling import day, renewing

pytestmark = pytest.mark.django_db(transaction=True)

APRIL = day("2027-04-01")


def killed(point: str, work: str, markers: Path) -> None:
    """Another process does the work and is killed at the point."""
    process = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v0", "-c", f"from {__name__} import *\n{work}"],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "DATABASE_NAME": connection.settings_dict["NAME"],
            "CRASH_AT": point,
            "CRASH_MARKERS": str(markers),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr


def grow_and_hold(contract_id: str, line_id: str) -> BatchResult:
    """Three more servers, and a hold with an end, which is scheduled; under one key."""
    return services.record_edits(
        contract_id=UUID(contract_id),
        operations=[
            OperationRequest("change_quantity", {"line_id": line_id, "quantity": 5}),
            OperationRequest("suspend", {"reason": "buyer", "resume_at": f"{APRIL:%FT%TZ}"}),
        ],
        actor=OPERATOR,
        at=MARCH,
        idempotency_key="once",
        expected_version=4,
    )


@pytest.mark.parametrize(
    ("point", "there"), [("edit_recorded", False), ("edit_told", False), ("edit_committed", True)]
)
def test_a_batch_of_a_killed_process_is_there_whole_or_not_at_all(
    active: Contract, servers: UUID, tmp_path: Path, point: str, there: bool
) -> None:
    before = written(active)
    killed(f"contracts.{point}", f"grow_and_hold('{active.pk}', '{servers}')", tmp_path)
    if there:
        agrees_with_its_log(active, MARCH)
        assert active.version == 6
    else:
        assert written(active) == before

    result = grow_and_hold(str(active.pk), str(servers))

    assert result.replayed is there
    agrees_with_its_log(active, MARCH)
    assert (active.version, active.status) == (6, "suspended")
    held = contract_rows(active)
    assert held == {"edits": 6, "events": 6, "resumptions": 1, "segments": {2, 5}}
    assert grow_and_hold(str(active.pk), str(servers)).replayed
    assert contract_rows(active) == held


def contract_rows(contract: Contract) -> dict[str, Any]:
    segments = LineSegment.objects.filter(contract=contract, product_code="h100-server")
    return {
        "edits": contract.edits.count(),
        "events": OutboxEvent.objects.filter(aggregate_id=str(contract.pk)).count(),
        "resumptions": contract.schedule.filter(kind="resume", due_at=APRIL, status="planned").count(),
        "segments": set(segments.values_list("quantity", flat=True)),
    }


def test_a_contract_of_a_killed_process_is_opened_by_the_same_key(
    payload: dict[str, Any], tmp_path: Path
) -> None:
    work = f"services.create_contract(payload={payload!r}, actor=OPERATOR, at=MARCH, idempotency_key='new')"
    killed("contracts.edit_recorded", work, tmp_path)
    assert not Contract.objects.exists()
    assert not OutboxEvent.objects.filter(type="contract.created").exists()
    killed("contracts.edit_committed", work, tmp_path)
    contract = Contract.objects.get()
    opened = services.create_contract(payload=payload, actor=OPERATOR, at=MARCH, idempotency_key="new")
    assert (opened.contract, opened.replayed) == (contract, True)
    agrees_with_its_log(contract, MARCH)
    assert OutboxEvent.objects.filter(aggregate_id=str(contract.pk)).count() == 1


@pytest.mark.parametrize(
    ("point", "there"),
    [
        ("edit_recorded", False),
        ("edit_told", False),
        ("before_schedule_commit", False),
        ("after_schedule_commit", True),
    ],
)
def test_a_killed_executors_commands_are_done_once(
    payload: dict[str, Any], tmp_path: Path, point: str, there: bool
) -> None:
    contract = renewing(payload, "2027-03-01")
    assert services.run_due(at=APRIL, limit=1) == 1, "that nobody opted out in time is told before"
    before = written(contract)
    killed(f"contracts.{point}", "services.run_due(at=APRIL)", tmp_path)
    assert contract.edits.filter(operation="renew").exists() is there
    if not there:
        assert written(contract) == before

    while services.run_due(at=APRIL):
        pass

    agrees_with_its_log(contract, APRIL)
    [renewal] = contract.edits.filter(operation="renew")
    assert renewal.effective_at == APRIL
    [command] = contract.schedule.filter(kind="renewal", due_at=APRIL)
    assert (command.status, command.result_seq, command.attempts) == ("done", renewal.seq, 0)
    assert OutboxEvent.objects.filter(aggregate_id=str(contract.pk), type="contract.renewed").count() == 1
