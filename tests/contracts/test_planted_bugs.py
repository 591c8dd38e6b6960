"""Bugs planted into the core of contracts: the test that states the broken rule must fail on each."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from django.db import DatabaseError
from django.db.models import Max

from commerce.errors import CommerceError
from contracts import services
from contracts.models import Contract, ContractEdit
from contracts.rules import fold
from contracts.services import (
    OperationRequest,
    admission,
    edits,
    line_segments,
    previews,
    projection,
    schedule,
)
from tests.contracts import test_corrections, test_line_segments, test_projection, test_renew, test_schedule
from tests.contracts.agreement import agrees_with_its_log, preview_and_record
from tests.contracts.conftest import OPERATOR
from tests.contracts.scheduling import day, renewing, tick
from tests.contracts.test_corrections import LATER, checker, grown, maker  # noqa: F401  (fixtures)
from tests.planted import Bug

pytestmark = pytest.mark.django_db


def a_corrected_edit_keeps_its_place(grown: Contract, servers: Any) -> None:  # noqa: F811
    """Of two edits of one instant the first is replaced by another quantity: the other still adds to it."""
    body = {"line_id": str(servers)}
    at = grown.projected_at
    for payload in ({"quantity": 9}, {"delta": 1}):
        test_corrections.edit(grown, "change_quantity", body | payload, at=at)
    replacement = {"payload": body | {"quantity": 8}}
    test_corrections.correct(grown, target_seq=7, mode="replace", replacement=replacement)
    assert test_corrections.quantities(grown, servers)[-2:] == [9, 9]


def a_preview_is_what_recording_does(active: Contract, servers: Any) -> None:
    body = {"line_id": str(servers), "delta": 1}
    asked = [("change_quantity", body, None), ("suspend", {"reason": "buyer"}, 3)]
    preview_and_record(active, asked, OPERATOR, LATER, "asked")
    agrees_with_its_log(active, LATER)


def who_asked_cannot_be_written_over(grown: Contract, maker: Any, checker: Any) -> None:  # noqa: F811
    approval = test_corrections.ask(grown, maker)
    test_corrections.approvals.approve(approval=approval, actor=checker, at=LATER)
    seq = grown.edits.aggregate(seq=Max("seq"))["seq"]
    test_projection.without_guards(
        "UPDATE contracts_contractedit SET requested_by = 'user:0' WHERE contract_id = %s AND seq = 7",
        grown.pk,
    )
    assert services.verify_log(grown.pk) == seq == 7


def a_future_edit_does_not_show_yet(active: Contract, servers: Any) -> None:
    body = {"line_id": str(servers), "quantity": 9}
    services.record_edits(
        contract_id=active.pk, operations=[OperationRequest("change_quantity", body, LATER)], actor=OPERATOR,
        at=active.projected_at, idempotency_key="ahead", expected_version=4,
    )  # fmt: skip
    agrees_with_its_log(active, active.projected_at)


def a_renewal_comes_before_the_end_of_the_term(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", renewal={"auto": False}, end_policy="evergreen")
    test_corrections.edit(contract, "renew", {}, at=day("2027-03-16"))
    tick(day("2027-04-02"))
    agrees_with_its_log(contract, day("2027-04-02"))
    assert (contract.current.term_no, contract.end_at) == (2, day("2027-05-01"))


BUGS: list[tuple[Bug, Callable[..., None]]] = [
    (
        Bug(
            "the first correction wins",
            fold,
            "resolve",
            (("sorted(edits, key=lambda edit: edit.seq)", "sorted(edits, key=lambda edit: -edit.seq)"),),
        ),
        test_corrections.test_the_latest_correction_of_a_target_wins,
    ),
    (
        Bug(
            "a corrected edit comes after the others of its instant",
            fold,
            "resolve",
            (("(edit.effective_at, edit.seq)", "(edit.effective_at, edit.seq in latest, edit.seq)"),),
        ),
        a_corrected_edit_keeps_its_place,
    ),
    (
        Bug("void does not count", fold, "corrected", (("return None", "return edit"),)),
        test_corrections.test_a_voided_edit_counts_no_more_from_its_own_instant_on,
    ),
    (
        Bug(
            "what was learned at an instant is not known at it",
            fold,
            "known",
            (("edit.recorded_at <= known_at", "edit.recorded_at < known_at"),),
        ),
        test_line_segments.test_at_any_two_instants_sql_says_what_the_fold_says,
    ),
    (
        Bug(
            "the clock comes before a renewal",
            fold,
            "_before",
            (("inclusive = not REGISTRY[edit.operation].before_clock", "inclusive = True"),),
        ),
        a_renewal_comes_before_the_end_of_the_term,
    ),
    (
        Bug(
            "later edits are not looked at",
            admission,
            "check_log",
            (("    broken = fold.broken(new, since)\n", "    broken = {}\n"),),
        ),
        test_corrections.test_a_correction_that_breaks_a_later_edit_names_it_and_passes_in_one_batch_with_it,
    ),
    (
        Bug(
            "one person is enough",
            admission,
            "check_approval",
            (('if why and actor.type != "system"', "if False"),),
        ),
        test_corrections.test_one_person_alone_cannot_correct_a_signed_contract,
    ),
    (
        Bug(
            "an older version is as good",
            edits,
            "record",
            (("expected_version != contract.version", "expected_version > contract.version"),),
        ),
        test_corrections.test_a_stale_version_refuses_the_whole_batch,
    ),
    (
        Bug(
            "a key is whoever comes first",
            edits,
            "_check_same",
            (("row.request_hash != request_hash", "False"),),
        ),
        test_corrections.test_the_key_of_a_batch_is_not_free_for_another,
    ),
    (
        Bug(
            "each operation of a batch is a version of its own",
            edits,
            "_announce",
            (('"to_version": contract.version', '"to_version": row.seq'),),
        ),
        a_preview_is_what_recording_does,
    ),
    (
        Bug("no edit knows the one before it", edits, "_insert", (("prev_hash=previous", 'prev_hash=""'),)),
        a_preview_is_what_recording_does,
    ),
    (
        Bug(
            "the hash leaves out who asked",
            ContractEdit,
            "fingerprint",
            (('"requested_by": self.requested_by', '"requested_by": ""'),),
        ),
        who_asked_cannot_be_written_over,
    ),
    (
        Bug(
            "a segment that does not hold any more is left",
            line_segments,
            "project",
            (("if over:", "if False:"),),
        ),
        a_preview_is_what_recording_does,
    ),
    (
        Bug(
            "segments begin to be known a while ago",
            line_segments,
            "project",
            (
                (
                    "DateTimeTZRange(recorded_at, None)",
                    "DateTimeTZRange(datetime(2020, 1, 1, tzinfo=UTC), None)",
                ),
            ),
        ),
        test_line_segments.test_at_any_two_instants_sql_says_what_the_fold_says,
    ),
    (
        Bug(
            "a preview stays",
            previews,
            "_preview",
            (("transaction.set_rollback(True)", "transaction.set_rollback(False)"),),
        ),
        a_preview_is_what_recording_does,
    ),
    (
        Bug(
            "the row shows what is to come",
            projection,
            "columns",
            (("state = fold.at_instant(steps, at)", "state = steps[-1].state"),),
        ),
        a_future_edit_does_not_show_yet,
    ),
    (
        Bug(
            "a command that nothing implies is kept",
            schedule,
            "replan",
            (("if row.status == Status.PLANNED or (", "if False and ("),),
        ),
        test_schedule.test_a_suspension_that_was_lifted_before_is_not_lifted_again,
    ),
    (
        Bug(
            "a command stays where it was planned first",
            schedule,
            "_keep",
            (("moved = (row.due_at, row.payload) != (command.due_at, command.payload)", "moved = False"),),
        ),
        test_renew.test_an_extension_moves_the_end_and_keeps_the_term,
    ),
]


@pytest.mark.parametrize(("bug", "rule"), BUGS, ids=[str(bug) for bug, _ in BUGS])
def test_a_planted_bug_breaks_its_rule(
    bug: Bug, rule: Callable[..., None], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [request.getfixturevalue(name) for name in inspect.signature(rule).parameters]
    bug.plant(monkeypatch)
    with pytest.raises((AssertionError, CommerceError, DatabaseError, pytest.fail.Exception)):
        rule(*given)


@pytest.mark.parametrize(
    "rule",
    [
        a_corrected_edit_keeps_its_place,
        a_preview_is_what_recording_does,
        who_asked_cannot_be_written_over,
        a_future_edit_does_not_show_yet,
        a_renewal_comes_before_the_end_of_the_term,
    ],
)
def test_the_rules_of_this_file_hold(rule: Callable[..., None], request: pytest.FixtureRequest) -> None:
    rule(*(request.getfixturevalue(name) for name in inspect.signature(rule).parameters))
