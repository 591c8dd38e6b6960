"""Real threads on real rows: two editors, two creators, the clock beside an editor."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from django.db import connections

from commerce.errors import CommerceError, VersionConflict
from commerce.outbox.models import OutboxEvent
from contracts import services
from contracts.models import Contract, ContractEdit
from tests.contracts.conftest import MARCH, create, edit
from tests.contracts.scheduling import day, renewing

pytestmark = pytest.mark.django_db(transaction=True)

LATER = MARCH + timedelta(days=10)


def together(*works: Callable[[], Any]) -> list[Any]:
    """Start all works at once; their results or errors, in order."""
    barrier = Barrier(len(works))

    def start(work: Callable[[], Any]) -> Any:
        try:
            barrier.wait(timeout=10)
            return work()
        except CommerceError as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(start, works))


def test_of_two_editors_of_one_version_one_wins(active: Contract, servers: UUID) -> None:
    for round_ in range(5):
        version = Contract.objects.get(pk=active.pk).version
        quantities = (10 + 2 * round_, 11 + 2 * round_)
        results = together(
            *(
                lambda q=quantity, v=version: edit(
                    active, "change_quantity", {"line_id": str(servers), "quantity": q},
                    at=LATER, expected_version=v,
                )
                for quantity in quantities
            )
        )  # fmt: skip
        conflicts = [result for result in results if isinstance(result, VersionConflict)]
        assert len(conflicts) == 1
        assert Contract.objects.get(pk=active.pk).version == version + 1
        assert ContractEdit.objects.filter(contract=active).count() == version + 1


def test_many_deltas_without_a_version_all_count(active: Contract, servers: UUID) -> None:
    body = {"line_id": str(servers), "delta": 1}
    together(*[lambda: edit(active, "change_quantity", body, at=LATER)] * 6)
    contract = Contract.objects.get(pk=active.pk)
    assert contract.current.lines[servers].quantity == 8
    assert contract.version == 10
    sequences = OutboxEvent.objects.filter(aggregate_id=str(active.pk)).order_by("sequence")
    assert [event.payload["to_version"] for event in sequences] == list(range(1, 11))


def test_one_key_sent_twice_at_once_is_one_edit(active: Contract, servers: UUID) -> None:
    body = {"line_id": str(servers), "delta": 1}
    results = together(*[lambda: edit(active, "change_quantity", body, at=LATER, idempotency_key="k")] * 4)
    assert sorted(result.replayed for result in results) == [False, True, True, True]
    assert Contract.objects.get(pk=active.pk).current.lines[servers].quantity == 3


def test_one_key_creating_twice_at_once_makes_one_contract(payload: dict[str, Any]) -> None:
    results = together(*[lambda: create(payload, idempotency_key="once")] * 4)
    assert len({result.contract.pk for result in results}) == 1
    assert Contract.objects.count() == 1
    assert OutboxEvent.objects.filter(type="contract.created").count() == 1


def test_a_due_instant_takes_effect_once_beside_other_ticks_and_an_editor(
    active: Contract, servers: UUID
) -> None:
    edit(active, "suspend", {"reason": "maintenance"}, effective_at=LATER)
    tick = lambda: services.take_effect_due(at=LATER)  # noqa: E731
    body = {"line_id": str(servers), "delta": 1}
    together(tick, tick, lambda: edit(active, "change_quantity", body, at=LATER))
    assert OutboxEvent.objects.filter(type="contract.took_effect").count() == 1
    contract = Contract.objects.get(pk=active.pk)
    assert (contract.status, contract.current.lines[servers].quantity) == ("suspended", 3)


def test_two_executors_at_once_do_each_command_once(payload: dict[str, Any]) -> None:
    contracts = [renewing(payload, "2027-03-01") for _ in range(6)]
    at = day("2027-06-02")

    results = together(*(lambda: services.run_due(at=at),) * 3)

    while services.run_due(at=at):  # what one left because another held it
        pass
    assert all(isinstance(result, int) for result in results), results
    for contract in contracts:
        renewals = contract.edits.filter(operation="renew").order_by("seq")
        assert [row.effective_at for row in renewals] == [
            day("2027-04-01"), day("2027-05-01"), day("2027-06-01")
        ]  # fmt: skip
        told = OutboxEvent.objects.filter(aggregate_id=str(contract.pk), type="contract.renewed")
        assert told.count() == 3
        assert not contract.schedule.filter(status="planned", due_at__lte=at).exists()
