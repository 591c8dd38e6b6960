"""correct: an earlier edit is voided, replaced or reinstated, two people agree, and nothing is rewritten."""

from copy import deepcopy
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import Permission, User

from commerce.actor import Actor
from commerce.console import approvals
from commerce.console.models import Approval
from commerce.errors import Conflict, PermissionDenied
from commerce.models import TransitionLog
from commerce.parties.models import Organization
from contracts import services
from contracts.models import Contract, ContractEdit
from contracts.rules import fold
from contracts.services import OperationRequest
from tests.contracts.conftest import MARCH, Parties, create, edit
from tests.contracts.test_recording import last_event, pointers, refused

pytestmark = pytest.mark.django_db

TENTH, TWENTIETH = MARCH + timedelta(days=9), MARCH + timedelta(days=19)
LATER = MARCH + timedelta(days=25)


@pytest.fixture
def grown(active: Contract, servers: UUID) -> Contract:
    """Five servers from the 10th (edit #5), one more from the 20th (edit #6)."""
    edit(active, "change_quantity", {"line_id": str(servers), "quantity": 5}, at=TENTH)
    return edit(active, "change_quantity", {"line_id": str(servers), "delta": 1}, at=TWENTIETH).contract


def correct(contract: Contract, **payload: Any) -> Any:
    return edit(contract, "correct", payload, at=LATER, reason="Entered wrong")


def quantities(contract: Contract, line: UUID, known_at: datetime | None = None) -> list[int]:
    log = services.contract_edits(contract.pk)
    days = (MARCH, TENTH, TWENTIETH, LATER)
    return [fold.fold(log, valid_at=day, known_at=known_at).lines[line].quantity for day in days]


def test_a_voided_edit_counts_no_more_from_its_own_instant_on(grown: Contract, servers: UUID) -> None:
    assert quantities(grown, servers) == [2, 5, 6, 6]
    before = ContractEdit.objects.get(contract=grown, seq=6)
    result = correct(grown, target_seq=5, mode="void")
    assert quantities(grown, servers) == [2, 2, 3, 3]
    assert result.edit.effective_at == TENTH
    assert result.edit.supersedes == 5
    assert result.contract.current.lines[servers].quantity == 3
    assert quantities(grown, servers, known_at=before.recorded_at) == [2, 5, 6, 6]
    event = last_event()
    assert event.type == "contract.corrected"
    assert event.payload["effective_at"] == "2027-03-10T00:00:00Z"
    assert event.payload["retroactive"]
    assert event.payload["after"] == {f"/lines/{servers}/quantity": 2}
    assert services.verify_log(grown.pk) is None


def test_a_replaced_edit_keeps_its_place_and_may_move_in_time(grown: Contract, servers: UUID) -> None:
    new = {"payload": {"line_id": str(servers), "quantity": 4}, "effective_at": "2027-03-05T00:00:00Z"}
    result = correct(grown, target_seq=5, mode="replace", replacement=new)
    assert result.edit.effective_at == datetime(2027, 3, 5, tzinfo=UTC)
    assert quantities(grown, servers) == [2, 4, 5, 5]


def test_void_and_then_reinstate_is_as_if_nothing_had_been(grown: Contract, servers: UUID) -> None:
    before = [instant.state.hash for instant in fold.timeline(services.contract_edits(grown.pk))]
    correct(grown, target_seq=5, mode="void")
    result = correct(grown, target_seq=5, mode="reinstate")
    assert [instant.state.hash for instant in fold.timeline(services.contract_edits(grown.pk))] == before
    assert result.contract.state_hash == grown.state_hash
    assert result.contract.version == grown.version + 2


def test_the_latest_correction_of_a_target_wins(grown: Contract, servers: UUID) -> None:
    for quantity in (7, 8, 9):
        new = {"payload": {"line_id": str(servers), "quantity": quantity}}
        correct(grown, target_seq=5, mode="replace", replacement=new)
    assert quantities(grown, servers) == [2, 9, 10, 10]


def test_a_termination_that_is_voided_brings_the_contract_back(active: Contract) -> None:
    ended = edit(active, "terminate", {"cause": "mutual"}, at=TENTH, reason="By mistake").contract
    assert ended.status == "terminated"
    back = correct(ended, target_seq=ended.version, mode="void").contract
    assert (back.status, back.end_at) == ("active", active.end_at)
    names = (
        TransitionLog.objects.filter(object_id=str(active.pk)).order_by("id").values_list("name", flat=True)
    )
    assert list(names)[-2:] == ["terminate", "reinstate"]


@pytest.mark.parametrize(
    ("asked", "pointer", "code"),
    [
        ({"target_seq": 99, "mode": "void"}, "/payload/target_seq", "target_not_found"),
        ({"target_seq": 7, "mode": "void"}, "/payload/target_seq", "target_is_correction"),
        ({"target_seq": 1, "mode": "void"}, "/payload/mode", "cannot_void_create"),
        ({"target_seq": 6, "mode": "replace"}, "/payload/replacement", "replacement_misplaced"),
        (
            {"target_seq": 6, "mode": "replace", "replacement": {"payload": {}, "op_version": 99}},
            "/payload/replacement/op_version",
            "unknown_op_version",
        ),
        (
            {"target_seq": 6, "mode": "void", "replacement": {"payload": {}}},
            "/payload/replacement",
            "replacement_misplaced",
        ),
        (
            {"target_seq": 6, "mode": "replace", "replacement": {"payload": {"line_id": "x"}}},
            "/payload/replacement/payload/line_id",
            "invalid_uuid",
        ),
    ],
)
def test_what_cannot_be_corrected_is_refused_at_its_field(
    grown: Contract, asked: dict[str, Any], pointer: str, code: str
) -> None:
    correct(grown, target_seq=5, mode="void")
    error = refused(lambda: correct(grown, **asked))
    assert pointers(error) == {(pointer, code)}


def test_a_correction_that_changes_nothing_is_refused(grown: Contract, servers: UUID) -> None:
    same = {"payload": {"line_id": str(servers), "quantity": 5}}
    assert refused(lambda: correct(grown, target_seq=5, mode="reinstate")).code == "no_effect"
    error = refused(lambda: correct(grown, target_seq=5, mode="replace", replacement=same))
    assert error.code == "no_effect"


def test_a_correction_that_breaks_a_later_edit_names_it_and_passes_in_one_batch_with_it(
    active: Contract, servers: UUID
) -> None:
    edit(active, "suspend", {"reason": "buyer"}, at=TENTH)
    edit(active, "resume", {"reason": "buyer"}, at=TWENTIETH)
    error = refused(lambda: correct(active, target_seq=5, mode="void"))
    assert error.code == "would_invalidate_later_edit"
    assert error.extra["later_edits"] == [{"seq": 6, "operation": "resume", "error": "not_suspended"}]
    voids = [
        OperationRequest("correct", {"target_seq": seq, "mode": "void"}, reason="Both by mistake")
        for seq in (5, 6)
    ]
    result = services.record_edits(
        contract_id=active.pk, operations=voids, actor=Actor.system("test"), at=LATER,
        idempotency_key="both", expected_version=6,
    )  # fmt: skip
    assert result.contract.version == 8
    statuses = {instant.state.status for instant in fold.timeline(services.contract_edits(active.pk))}
    assert statuses == {"active", "expired"}
    assert result.contract.current.holds == ()


# Two people


def person(name: str, *permissions: str) -> Actor:
    user = User.objects.create_user(name, is_staff=True)
    codes = [permission.split(".")[1] for permission in permissions]
    user.user_permissions.set(Permission.objects.filter(codename__in=codes))
    return Actor.for_user(User.objects.get(pk=user.pk))


@pytest.fixture
def maker() -> Actor:
    return person("maker", "contracts.edit_contract", "contracts.correct_contract")


@pytest.fixture
def checker() -> Actor:
    return person("checker", "contracts.approve_edit")


def ask(contract: Contract, maker: Actor) -> Approval:
    return services.request_edits(
        contract_id=contract.pk,
        operations=[OperationRequest("correct", {"target_seq": 5, "mode": "void"}, reason="Entered wrong")],
        expected_version=contract.version,
        actor=maker,
        at=LATER,
        reason="Entered wrong",
    )


def test_one_person_alone_cannot_correct_a_signed_contract(grown: Contract, maker: Actor) -> None:
    error = refused(
        lambda: edit(
            grown, "correct", {"target_seq": 5, "mode": "void"}, actor=maker, at=LATER, reason="Wrong"
        )
    )
    assert isinstance(error, PermissionDenied)
    assert error.code == "approval_required"


def test_a_correction_is_recorded_when_somebody_else_agrees_and_names_both(
    grown: Contract, servers: UUID, maker: Actor, checker: Actor
) -> None:
    approval = ask(grown, maker)
    assert quantities(grown, servers) == [2, 5, 6, 6]
    approvals.approve(approval=approval, actor=checker, at=LATER)
    assert quantities(grown, servers) == [2, 2, 3, 3]
    row = ContractEdit.objects.get(contract=grown, operation="correct")
    assert (row.requested_by, f"{row.actor_type}:{row.actor_id}") == (str(maker), str(checker))
    assert row.approval_id == approval.pk
    assert services.verify_log(grown.pk) is None


def test_a_maker_cannot_agree_to_their_own_correction(grown: Contract, servers: UUID) -> None:
    both = person("both", "contracts.edit_contract", "contracts.correct_contract", "contracts.approve_edit")
    approval = ask(grown, both)
    error = refused(lambda: approvals.approve(approval=approval, actor=both, at=LATER))
    assert error.code == "own_approval"
    assert quantities(grown, servers) == [2, 5, 6, 6]


def test_a_request_is_overtaken_by_an_edit_in_between(
    grown: Contract, servers: UUID, maker: Actor, checker: Actor
) -> None:
    approval = ask(grown, maker)
    edit(grown, "change_quantity", {"line_id": str(servers), "quantity": 9}, at=LATER)
    closed = approvals.approve(approval=approval, actor=checker, at=LATER)
    assert closed.status == "cancelled"
    assert not ContractEdit.objects.filter(contract=grown, operation="correct").exists()


def test_what_needs_nobody_else_cannot_be_requested(grown: Contract, servers: UUID, maker: Actor) -> None:
    one = OperationRequest("change_quantity", {"line_id": str(servers), "quantity": 9})
    error = refused(
        lambda: services.request_edits(
            contract_id=grown.pk, operations=[one], expected_version=grown.version, actor=maker, at=LATER,
            reason="More",
        )
    )  # fmt: skip
    assert error.code == "no_approval_needed"


def test_going_back_more_than_a_month_needs_the_right_to_and_a_year_is_the_end(
    active: Contract, servers: UUID
) -> None:
    operator = person("operator", "contracts.edit_contract")
    finance = person("finance", "contracts.edit_contract", "contracts.backdate_contract")

    def back(actor: Actor, days: int) -> Any:
        at = TENTH + timedelta(days=days)
        payload = {"line_id": str(servers), "quantity": 5}
        return edit(
            active, "change_quantity", payload, actor=actor, at=at, effective_at=TENTH, reason="Forgotten"
        )

    assert pointers(refused(lambda: back(operator, 32))) == {("/effective_at", "backdate_limit")}
    assert pointers(refused(lambda: back(finance, 401))) == {("/effective_at", "backdate_limit")}
    assert back(finance, 45).edit.effective_at == TENTH


# Batches


def batch(contract: Contract, *operations: OperationRequest, **given: Any) -> Any:
    arguments: dict[str, Any] = {
        "actor": Actor.system("test"), "at": LATER, "idempotency_key": "a batch", "expected_version": None,
        **given,
    }  # fmt: skip
    return services.record_edits(contract_id=contract.pk, operations=operations, **arguments)


def test_a_batch_is_recorded_whole_in_its_order_and_once(active: Contract, servers: UUID) -> None:
    steps = [
        OperationRequest("change_quantity", {"line_id": str(servers), "quantity": 5}),
        OperationRequest("change_quantity", {"line_id": str(servers), "delta": 1}),
        OperationRequest("suspend", {"reason": "buyer"}),
    ]
    result = batch(active, *steps)
    assert [row.seq for row in result.edits] == [5, 6, 7]
    assert len({row.batch_id for row in result.edits}) == 1
    assert [row.batch_pos for row in result.edits] == [0, 1, 2]
    assert result.contract.current.lines[servers].quantity == 6
    assert last_event().payload["from_version"] == 4
    assert last_event().payload["to_version"] == 7
    again = batch(active, *steps)
    assert again.replayed
    assert [row.pk for row in again.edits] == [row.pk for row in result.edits]
    assert Contract.objects.get(pk=active.pk).version == 7
    assert services.verify_log(active.pk) is None


def test_a_batch_with_one_bad_operation_writes_nothing_and_points_at_it(
    active: Contract, servers: UUID
) -> None:
    steps = [
        OperationRequest("change_quantity", {"line_id": str(servers), "quantity": 5}),
        OperationRequest("resume", {"reason": "buyer"}),
    ]
    error = refused(lambda: batch(active, *steps))
    assert pointers(error) == {("/operations/1/payload/reason", "not_suspended")}


def test_a_batch_has_one_to_fifty_operations(active: Contract, servers: UUID) -> None:
    one = OperationRequest("change_quantity", {"line_id": str(servers), "delta": 1})
    assert refused(lambda: batch(active)).code == "limit_exceeded"
    assert refused(lambda: batch(active, *[one] * 51)).code == "limit_exceeded"
    assert batch(active, *[one] * 50).contract.current.lines[servers].quantity == 52


def test_the_key_of_a_batch_is_not_free_for_another(active: Contract, servers: UUID) -> None:
    one = OperationRequest("change_quantity", {"line_id": str(servers), "delta": 1})
    batch(active, one, one)
    assert refused(lambda: batch(active, one)).code == "idempotency_mismatch"


def test_a_preview_of_a_batch_says_what_recording_it_does(active: Contract, servers: UUID) -> None:
    steps = [
        OperationRequest("change_quantity", {"line_id": str(servers), "quantity": 5}),
        OperationRequest("suspend", {"reason": "buyer", "billing": "stop"}),
    ]
    preview = services.preview_edits(
        contract_id=active.pk, operations=steps, actor=Actor.system("test"), at=LATER, expected_version=4
    )
    assert Contract.objects.get(pk=active.pk).version == 4
    result = batch(active, *steps)
    assert preview.after.hash == result.contract.current.hash
    assert preview.changed_after[f"/lines/{servers}/quantity"] == 5


def test_a_stale_version_refuses_the_whole_batch(active: Contract, servers: UUID) -> None:
    one = OperationRequest("change_quantity", {"line_id": str(servers), "delta": 1})
    error = refused(lambda: batch(active, one, one, expected_version=3))
    assert isinstance(error, Conflict)
    assert error.code == "version_conflict"


# What was reviewed


def test_what_was_recorded_of_the_draft_is_corrected_by_two_people_once_it_was_signed(
    active: Contract, payload: dict[str, Any], maker: Actor
) -> None:
    new = {"payload": payload | {"start_at": "2027-03-01T00:00:00Z", "terms": {"tax": {"rate": "0"}}}}
    error = refused(
        lambda: edit(
            active, "correct", {"target_seq": 1, "mode": "replace", "replacement": new}, actor=maker,
            at=LATER, reason="Cheaper",
        )
    )  # fmt: skip
    assert error.code == "approval_required"


def test_a_replaced_creation_keeps_the_terms_that_it_leaves_open(
    active: Contract, payload: dict[str, Any]
) -> None:
    body = payload | {"terms": {"tax": {"rate": "0.05"}}}
    after = correct(
        active, target_seq=1, mode="replace", replacement={"payload": body}
    ).contract.current.terms
    assert after.tax.rate == Decimal("0.05")
    assert after.settlement == active.current.terms.settlement
    assert after.payment == active.current.terms.payment


def test_a_line_of_a_signed_draft_keeps_its_seller_and_one_that_was_added_since_may_be_corrected(
    draft: Contract, payload: dict[str, Any], parties: Parties
) -> None:
    line = payload["lines"][0]
    first, later = ({**line, "line_id": str(UUID(int=n))} for n in (1, 2))
    edit(draft, "add_product", first)
    for stage in ("submit", "signed", "live"):
        edit(draft, "activate", {"stage": stage})
    edit(draft, "add_product", later, at=TENTH)
    other = {"seller_id": str(parties.other_seller.pk)}

    new = {"payload": first | other}
    error = refused(lambda: correct(draft, target_seq=2, mode="replace", replacement=new))
    assert pointers(error) == {("/payload/replacement/payload/seller_id", "seller_fixed")}
    done = correct(draft, target_seq=6, mode="replace", replacement={"payload": later | other})
    assert done.contract.current.lines[UUID(int=2)].seller_id == parties.other_seller.pk


def test_a_replacement_whose_payload_fixes_its_instant_takes_effect_there(active: Contract) -> None:
    ended = edit(active, "terminate", {"cause": "mutual"}, at=TENTH, reason="Over").contract
    new = {"payload": {"cause": "mutual", "when": "end_of_period"}}
    result = correct(ended, target_seq=5, mode="replace", replacement=new)
    assert result.contract.status == "active"
    state = fold.fold(services.contract_edits(active.pk), valid_at=datetime(2027, 4, 1, tzinfo=UTC))
    assert (state.status, state.end_at) == ("terminated", datetime(2027, 4, 1, tzinfo=UTC))
    new["effective_at"] = "2027-03-15T00:00:00Z"
    error = refused(lambda: correct(ended, target_seq=5, mode="replace", replacement=new))
    assert pointers(error) == {("/payload/replacement/effective_at", "effective_at_fixed")}


def test_the_notice_of_a_termination_runs_on_when_it_is_replaced(payload: dict[str, Any]) -> None:
    payload["term"] = {"kind": "evergreen"}
    contract = create(payload).contract
    for stage in ("submit", "signed", "live"):
        edit(contract, "activate", {"stage": stage})
    end = {"when": "date"}
    edit(contract, "terminate", end, effective_at=MARCH + timedelta(days=30), reason="Moving")

    new = {"payload": end | {"final_usage": "skip"}}
    ended = correct(contract, target_seq=5, mode="replace", replacement=new).edit.payload["replacement"]
    assert ended["payload"]["recorded_at"] == "2027-03-01T00:00:00Z"

    sooner = new | {"effective_at": (MARCH + timedelta(days=29)).isoformat()}
    error = refused(lambda: correct(contract, target_seq=5, mode="replace", replacement=sooner))
    assert error.code == "notice_too_short"


def test_the_fault_of_a_replacement_is_its_own_and_points_at_it(grown: Contract) -> None:
    new = {"payload": {"line_id": str(UUID(int=7)), "quantity": 3}}
    error = refused(lambda: correct(grown, target_seq=5, mode="replace", replacement=new))
    assert pointers(error) == {("/payload/replacement/payload/line_id", "line_not_found")}


def test_a_replacement_lies_no_further_ahead_than_any_edit(grown: Contract, servers: UUID) -> None:
    new = {"payload": {"line_id": str(servers), "quantity": 3}, "effective_at": "2150-12-01T00:00:00Z"}
    error = refused(lambda: correct(grown, target_seq=5, mode="replace", replacement=new))
    assert error.code == "limit_exceeded"


def test_what_two_people_agree_to_takes_effect_when_the_maker_saw_it(grown: Contract, checker: Actor) -> None:
    """Agreed to a week later, in another billing period, and further back than the checker alone may go."""
    rights = ("edit_contract", "terminate_contract", "correct_contract")
    asker = person("asker", *(f"contracts.{right}" for right in rights))
    approval = services.request_edits(
        contract_id=grown.pk,
        operations=[
            OperationRequest("correct", {"target_seq": 6, "mode": "void"}, reason="Wrong"),
            OperationRequest("terminate", {"cause": "mutual", "when": "end_of_period"}, reason="Over"),
        ],
        expected_version=grown.version,
        actor=asker,
        at=LATER,
        reason="Agreed",
    )
    approvals.approve(approval=approval, actor=checker, at=LATER + timedelta(days=6))
    row = ContractEdit.objects.get(contract=grown, operation="terminate")
    assert row.effective_at == datetime(2027, 4, 1, tzinfo=UTC)


def test_an_operation_of_a_batch_counts_from_what_those_before_it_leave(
    active: Contract, servers: UUID
) -> None:
    steps = [
        OperationRequest("change_terms", {"billing": {"anchor_day": 15}}),
        OperationRequest("remove_product", {"line_id": str(servers), "when": "end_of_period"}),
    ]
    result = batch(active, *steps, at=MARCH + timedelta(days=4))
    assert result.edits[1].effective_at == datetime(2027, 3, 15, tzinfo=UTC)


def test_a_batch_is_learned_at_one_instant(active: Contract, servers: UUID) -> None:
    one = OperationRequest("change_quantity", {"line_id": str(servers), "delta": 1})
    result = batch(active, one, one)
    assert len({row.recorded_at for row in result.edits}) == 1
    again = batch(active, one, idempotency_key="later")
    assert again.edits[0].recorded_at > result.edits[1].recorded_at


def test_a_key_leaves_room_for_the_places_of_a_batch(active: Contract, servers: UUID) -> None:
    one = OperationRequest("change_quantity", {"line_id": str(servers), "delta": 1})
    assert (
        refused(lambda: batch(active, one, one, idempotency_key="k" * 319)).code == "idempotency_key_invalid"
    )
    assert batch(active, one, one, idempotency_key="k" * 317).contract.version == 6


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"number": "NEW-1"}, "/number", "number_fixed"),
        ({"currency": "EUR", "lines": []}, "/currency", "currency_fixed"),
        ({"lines": []}, "/lines", "line_dropped"),
    ],
)
def test_a_signed_contract_keeps_its_number_its_currency_and_its_first_lines(
    active: Contract, payload: dict[str, Any], change: dict[str, Any], pointer: str, code: str
) -> None:
    new = {"payload": payload | change}
    error = refused(lambda: correct(active, target_seq=1, mode="replace", replacement=new))
    assert (f"/payload/replacement/payload{pointer}", code) in pointers(error)


def test_a_signed_contract_keeps_its_buyer_and_the_sellers_of_its_first_lines(
    draft: Contract, payload: dict[str, Any], parties: Parties
) -> None:
    zeta = Organization.objects.create(name="Zeta", slug="zeta", roles=["buyer"])
    other = deepcopy(payload) | {"buyer_id": str(zeta.pk)}
    other["lines"][0]["seller_id"] = str(parties.other_seller.pk)
    # A draft may be for another buyer; from then on it is that one who signs.
    draft = correct(draft, target_seq=1, mode="replace", replacement={"payload": other}).contract
    assert draft.current.buyer_id == zeta.pk
    for stage in ("submit", "signed"):
        draft = edit(draft, "activate", {"stage": stage}, at=LATER).contract

    back = {"payload": payload}
    error = refused(lambda: correct(draft, target_seq=1, mode="replace", replacement=back))

    assert pointers(error) == {
        ("/payload/replacement/payload/buyer_id", "buyer_fixed"),
        ("/payload/replacement/payload/lines/0/seller_id", "seller_fixed"),
    }
    draft.refresh_from_db()
    assert (draft.buyer_id, draft.current.owner_epoch) == (zeta.pk, 1)
    other["lines"][0]["quantity"] = 3
    correct(draft, target_seq=1, mode="replace", replacement={"payload": other})
