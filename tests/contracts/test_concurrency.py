"""Real threads on real rows: editors, batches, corrections, approvals and previews, the clock beside them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from django.db import connections, transaction

from commerce.actor import Actor
from commerce.console import approvals
from commerce.errors import CommerceError, StateConflict, VersionConflict
from commerce.outbox.models import OutboxEvent
from contracts import services
from contracts.models import Contract, ContractEdit
from contracts.services import BatchResult, EditResult, OperationRequest, Preview, bills
from tests.contracts.agreement import agrees_with_its_log, written
from tests.contracts.conftest import MARCH, OPERATOR, create, edit
from tests.contracts.scheduling import day, renewing, tick
from tests.contracts.test_corrections import checker, maker, person  # noqa: F401  (fixtures)

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


# Batches, corrections and the scheduler beside single edits


def batch(contract: Contract, *operations: tuple[str, dict[str, Any]], **given: Any) -> BatchResult:
    arguments: dict[str, Any] = {"actor": OPERATOR, "at": LATER, "expected_version": None, **given}
    asked = [OperationRequest(operation, payload, reason="A test") for operation, payload in operations]
    return services.record_edits(contract_id=contract.pk, operations=asked, **arguments)


def test_of_a_batch_and_edits_of_one_version_one_wins_whole_and_the_others_learn_what_it_did(
    active: Contract, servers: UUID
) -> None:
    more = ("change_quantity", {"line_id": str(servers), "delta": 1})
    for round_ in range(4):
        version = Contract.objects.get(pk=active.pk).version
        given = {"expected_version": version, "at": LATER}
        results = together(
            lambda g=given, n=round_: batch(active, more, more, more, idempotency_key=f"b{n}", **g),
            lambda g=given: edit(active, *more, **g),
            lambda g=given, n=round_: batch(active, more, more, idempotency_key=f"c{n}", **g),
        )
        won = [result for result in results if isinstance(result, BatchResult | EditResult)]
        lost = [result for result in results if isinstance(result, VersionConflict)]
        assert (len(won), len(lost)) == (1, 2)
        recorded = won[0].edits if isinstance(won[0], BatchResult) else [won[0].edit]
        for error in lost:
            assert error.extra["current_version"] == version + len(recorded)
            assert [one["seq"] for one in error.extra["edits"]] == [row.seq for row in recorded]
        agrees_with_its_log(active, LATER)
        assert active.version == version + len(recorded)
        assert active.current.lines[servers].quantity == active.version - 2


def test_a_correction_and_an_edit_that_rests_on_its_target_cannot_both_be_recorded(active: Contract) -> None:
    for round_ in range(5):
        held = edit(active, "suspend", {"reason": "buyer"}, at=LATER + timedelta(days=round_))
        void = {"target_seq": held.edit.seq, "mode": "void"}
        at = LATER + timedelta(days=round_, hours=12)
        results = together(
            lambda v=void, t=at: edit(active, "correct", v, at=t, reason="By mistake"),
            lambda t=at: edit(active, "resume", {"reason": "buyer"}, at=t),
        )
        [refusal] = [result for result in results if isinstance(result, CommerceError)]
        first = results[1] is refusal
        assert refusal.code == ("not_suspended" if first else "would_invalidate_later_edit")
        agrees_with_its_log(active, at)
        assert (active.status, active.version) == ("active", held.edit.seq + 1)


def test_a_term_is_renewed_or_opted_out_of_and_never_both(payload: dict[str, Any], servers: UUID) -> None:
    eve, due = day("2027-03-31"), day("2027-04-01")
    contracts = [renewing(payload, "2027-03-01", end_policy="expire") for _ in range(4)]
    opt_out = {"renewal": {"auto": False}}
    ends = set()
    for contract in contracts:
        results = together(
            lambda: services.run_due(at=due),
            lambda c=contract: edit(c, "change_terms", opt_out, at=eve, expected_version=4),
            lambda: services.run_due(at=due),
        )
        tick(due)  # what one left because another held it
        contract.refresh_from_db()
        renewed = contract.edits.filter(operation="renew").count()
        opted_out = isinstance(results[1], EditResult)
        assert renewed + opted_out == 1, results
        if renewed:
            assert isinstance(results[1], VersionConflict)
            assert [one["operation"] for one in results[1].extra["edits"]] == ["renew"]
        agrees_with_its_log(contract, due)
        assert contract.status == ("active" if renewed else "expired")
        told = OutboxEvent.objects.filter(aggregate_id=str(contract.pk), type="contract.renewed")
        assert told.count() == renewed
        ends.add(contract.status)
    assert ends <= {"active", "expired"}


# Two people


def test_what_two_people_agree_to_at_once_is_recorded_once(
    active: Contract,
    servers: UUID,
    maker: Actor,  # noqa: F811
    checker: Actor,  # noqa: F811
) -> None:
    edit(active, "change_quantity", {"line_id": str(servers), "quantity": 5}, at=LATER)
    active.refresh_from_db()
    asked = OperationRequest("correct", {"target_seq": 5, "mode": "void"}, reason="Entered wrong")
    approval = services.request_edits(
        contract_id=active.pk, operations=[asked], expected_version=5, actor=maker, at=LATER, reason="Wrong"
    )
    others = [checker, person("other checker", "contracts.approve_edit")]

    results = together(
        *(lambda who=who: approvals.approve(approval=approval, actor=who, at=LATER) for who in others * 2)
    )

    refused = [result for result in results if isinstance(result, StateConflict)]
    assert len(refused) == 3, results
    [agreed] = [result for result in results if result not in refused]
    row = ContractEdit.objects.get(contract=active, operation="correct")
    assert (row.approval_id, agreed.status) == (approval.pk, "approved")
    assert f"{row.actor_type}:{row.actor_id}" == agreed.checker != row.requested_by
    agrees_with_its_log(active, LATER)
    assert active.version == 6


def test_an_approval_beside_an_edit_records_what_was_seen_or_nothing(
    active: Contract,
    servers: UUID,
    maker: Actor,  # noqa: F811
    checker: Actor,  # noqa: F811
) -> None:
    for _ in range(4):
        version = edit(active, "change_quantity", {"line_id": str(servers), "delta": 1}, at=LATER).edit.seq
        asked = OperationRequest("correct", {"target_seq": version, "mode": "void"}, reason="Entered wrong")
        approval = services.request_edits(
            contract_id=active.pk, operations=[asked], expected_version=version, actor=maker, at=LATER,
            reason="Wrong",
        )  # fmt: skip
        more = {"payment": {"net_days": 10 + version}}
        results = together(
            lambda a=approval: approvals.approve(approval=a, actor=checker, at=LATER),
            lambda v=version, m=more: edit(active, "change_terms", m, at=LATER, expected_version=v),
        )
        agrees_with_its_log(active, LATER)
        assert active.version == version + 1
        approval.refresh_from_db()
        corrected = active.edits.filter(operation="correct", supersedes=version).exists()
        assert (approval.status == "approved") is corrected
        assert isinstance(results[1], VersionConflict) is corrected, results


# Previews


def test_previews_beside_editors_change_nothing_and_refuse_nobody(active: Contract, servers: UUID) -> None:
    more = {"line_id": str(servers), "delta": 1}

    def look() -> Preview:
        return services.preview_edit(
            contract_id=active.pk, operation="change_quantity", payload=more, actor=OPERATOR, at=LATER,
            expected_version=None,
        )  # fmt: skip

    results = together(*(look, lambda: edit(active, "change_quantity", more, at=LATER)) * 4)

    assert [type(result) for result in results] == [Preview, EditResult] * 4
    for said in results[::2]:
        quantities = [state.lines[servers].quantity for state in (said.before, said.after)]
        assert quantities[1] - quantities[0] == 1, "it read the log of one instant"
    agrees_with_its_log(active, LATER)
    assert (active.version, active.current.lines[servers].quantity) == (8, 6)


def test_a_preview_has_let_go_of_the_contract_when_it_counts_the_bills(
    active: Contract, payload: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which takes longest: an editor waits for the recording that is rolled back, and no longer."""
    free: list[bool] = []

    def lock() -> bool:
        with transaction.atomic():
            return Contract.objects.select_for_update(nowait=True).filter(pk=active.pk).exists()

    def metered(*_: Any) -> int:
        free.extend(together(lock))
        return 1

    monkeypatch.setattr(bills, "_sources", [lambda *_: metered])
    before = written(active)
    said = services.preview_edit(
        contract_id=active.pk, operation="change_price", actor=OPERATOR, at=LATER, expected_version=4,
        payload={"line_id": payload["lines"][1]["line_id"], "percent": "-0.5"},
    )  # fmt: skip
    assert free
    assert all(free)
    assert said.bills
    assert written(active) == before
