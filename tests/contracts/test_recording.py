"""Recording an edit: every operation, what refuses it, and that a refusal writes nothing."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import DatabaseError, transaction

from commerce.actor import Actor
from commerce.errors import CommerceError, InvalidInput, PermissionDenied, StateConflict, VersionConflict
from commerce.guards import missing
from commerce.ids import uuid7
from commerce.models import TransitionLog
from commerce.outbox.models import OutboxEvent
from commerce.parties.models import Organization
from contracts import services
from contracts.models import Contract, ContractEdit
from tests.contracts.conftest import MARCH, OPERATOR, Parties, create, edit

pytestmark = pytest.mark.django_db

LATER = MARCH + timedelta(days=10)


def last_event() -> OutboxEvent:
    event = OutboxEvent.objects.filter(aggregate_type="contract").order_by("id").last()
    assert event is not None
    return event


def refused(work: Callable[[], Any]) -> CommerceError:
    """The error of `work`; fails unless nothing at all was written."""
    before = (ContractEdit.objects.count(), OutboxEvent.objects.count(), TransitionLog.objects.count())
    rows = list(Contract.objects.order_by("id").values())
    with pytest.raises(CommerceError) as raised, transaction.atomic():
        work()
    assert (
        ContractEdit.objects.count(),
        OutboxEvent.objects.count(),
        TransitionLog.objects.count(),
    ) == before
    assert list(Contract.objects.order_by("id").values()) == rows
    return raised.value


def pointers(error: CommerceError) -> set[tuple[str, str]]:
    return {(item.pointer, item.code) for item in error.errors}


# Happy paths


def test_adding_a_product_gives_the_contract_a_live_line_and_says_so(
    active: Contract, parties: Parties
) -> None:
    line_id = uuid7()
    result = edit(
        active,
        "add_product",
        {
            "line_id": str(line_id),
            "product": "h100-server",
            "seller_id": str(parties.other_seller.pk),
            "quantity": 3,
            "price": {"model": "unit", "rate": "17500.00", "currency": "USD"},
        },
        at=LATER,
    )
    line = result.contract.current.lines[line_id]
    assert (line.quantity, line.live, line.unit) == (3, True, "server_month")
    assert parties.other_seller.pk in result.contract.seller_ids
    event = last_event()
    assert event.type == "contract.product_added"
    assert event.payload["after"][f"/lines/{line_id}/quantity"] == 3
    assert event.payload["before"] == {}
    assert [touched["line_id"] for touched in event.payload["lines"]] == [str(line_id)]


def test_removing_a_product_ends_its_line_and_keeps_its_history(active: Contract, servers: UUID) -> None:
    result = edit(active, "remove_product", {"line_id": str(servers)}, at=LATER)
    assert not result.contract.current.lines[servers].live
    event = last_event()
    assert event.type == "contract.product_removed"
    assert event.payload["before"] == {f"/lines/{servers}/live": True}
    assert event.payload["after"] == {f"/lines/{servers}/live": False}


def test_an_event_tells_prices_apart_that_differ_in_a_bound_only(active: Contract, servers: UUID) -> None:
    def told(price: dict[str, Any]) -> str:
        whole = {"model": "unit", "rate": "9", **price}
        edit(active, "change_price", {"line_id": str(servers), "price": whole})
        [line] = last_event().payload["lines"]
        return str(line["price_hash"])

    plain = told({})
    assert plain != told({"max_minor": 5}) != told({"included": "1"})
    assert told({}) == plain


def test_a_quantity_is_pinned_or_moved_by_a_delta(active: Contract, servers: UUID) -> None:
    edit(active, "change_quantity", {"line_id": str(servers), "quantity": 5}, at=LATER)
    result = edit(active, "change_quantity", {"line_id": str(servers), "delta": -1}, at=LATER)
    assert result.contract.current.lines[servers].quantity == 4
    event = last_event()
    assert event.type == "contract.quantity_changed"
    assert event.payload["before"] == {f"/lines/{servers}/quantity": 5}
    assert event.payload["after"] == {f"/lines/{servers}/quantity": 4}
    assert event.payload["status"] == {"before": "active", "after": "active"}
    assert (event.payload["from_version"], event.payload["to_version"]) == (5, 6)


def test_suspending_and_resuming_moves_the_status_through_the_transition_log(active: Contract) -> None:
    suspended = edit(active, "suspend", {"reason": "buyer"}, at=LATER, reason="Asked by phone").contract
    assert suspended.status == "suspended"
    assert last_event().type == "contract.suspended"
    resumed = edit(active, "resume", {"reason": "buyer"}, at=LATER + timedelta(days=1)).contract
    assert resumed.status == "active"
    assert last_event().type == "contract.resumed"
    log = TransitionLog.objects.filter(object_id=str(active.pk)).order_by("id")
    assert [row.name for row in log] == ["submit", "sign", "go_live", "suspend", "resume"]
    assert log[3].reason == "Asked by phone"


def test_a_dunning_hold_is_set_and_lifted_once_whatever_else_holds_the_contract(active: Contract) -> None:
    def hold(verb: Any, key: str) -> Any:
        return verb(contract_id=active.pk, actor=Actor.system("dunning"), at=LATER, idempotency_key=key)

    edit(active, "suspend", {"reason": "buyer"}, at=LATER)
    assert hold(services.suspend_contract, "a") is not None
    assert hold(services.suspend_contract, "b") is None
    assert hold(services.resume_contract, "c") is not None
    assert hold(services.resume_contract, "d") is None
    active.refresh_from_db()
    assert active.status == "suspended"
    assert [hold.reason for hold in active.current.holds] == ["buyer"]


def test_terminating_ends_a_running_contract_and_cancels_one_that_never_ran(
    active: Contract, payload: dict[str, Any]
) -> None:
    ended = edit(active, "terminate", {"cause": "mutual"}, at=LATER, reason="Moving out").contract
    assert (ended.status, ended.end_at) == ("terminated", LATER)
    assert last_event().type == "contract.terminated"
    draft = create({**payload, "lines": []}).contract
    assert edit(draft, "terminate", {}, reason="Changed their mind").contract.status == "cancelled"
    assert last_event().type == "contract.cancelled"


def test_withdrawing_returns_to_a_draft_whose_lines_may_change(draft: Contract, servers: UUID) -> None:
    edit(draft, "activate", {"stage": "submit"})
    change = {"line_id": str(servers), "quantity": 1}
    assert refused(lambda: edit(draft, "change_quantity", change)).code == "invalid_state"
    edit(draft, "activate", {"stage": "withdraw"})
    assert edit(draft, "change_quantity", change).contract.status == "draft"


def test_lines_changed_after_signature_must_be_signed_again_before_going_live(
    draft: Contract, servers: UUID
) -> None:
    edit(draft, "activate", {"stage": "submit"})
    edit(draft, "activate", {"stage": "signed"})
    edit(draft, "change_quantity", {"line_id": str(servers), "quantity": 1})
    assert refused(lambda: edit(draft, "activate", {"stage": "live"})).code == "not_signed"
    edit(draft, "activate", {"stage": "signed"})
    assert edit(draft, "activate", {"stage": "live"}).contract.status == "active"


def test_signatures_are_kept_and_only_of_parties(draft: Contract, parties: Parties) -> None:
    edit(draft, "activate", {"stage": "submit"})
    signature = {"party": str(parties.buyer.pk), "name": "A. Buyer", "at": "2027-03-01T00:00:00Z"}
    stranger = {**signature, "party": str(parties.partner.pk)}
    error = refused(lambda: edit(draft, "activate", {"stage": "signed", "signatures": [stranger]}))
    assert pointers(error) == {("/payload/signatures/0/party", "not_a_party")}
    seller = {**signature, "party": str(parties.seller.pk), "name": "S. Seller"}
    alone = {"stage": "signed", "signatures": [signature]}
    assert refused(lambda: edit(draft, "activate", alone)).code == "not_signed"
    signed = edit(draft, "activate", {"stage": "signed", "signatures": [signature, seller]}).contract
    assert [item.name for item in signed.current.signatures] == ["A. Buyer", "S. Seller"]


# Refusals


LINE = "the servers' line"
BAD_PAYLOADS: list[Any] = [
    ("add_product", {"line_id": "x"}, {("/line_id", "invalid_uuid")}),
    ("add_product", {"line_id": "01956f1c-3c00-7000-8000-00000000a009"}, {("/product", "required"),
     ("/seller_id", "required"), ("/price", "required")}),
    ("change_quantity", {"line_id": LINE, "quantity": -1}, {("/quantity", "quantity_negative")}),
    ("change_quantity", {"line_id": LINE, "delta": -3}, {("/delta", "quantity_negative")}),
    ("change_quantity", {"line_id": LINE, "quantity": 2**53}, {("/quantity", "out_of_range")}),
    ("change_quantity", {"line_id": LINE, "quantity": 1.5}, {("/quantity", "invalid_type")}),
    ("change_quantity", {"line_id": LINE, "quantity": True}, {("/quantity", "invalid_type")}),
    ("change_quantity", {"line_id": LINE}, {("/quantity", "quantity_or_delta")}),
    ("change_quantity", {"line_id": LINE, "quantity": 1, "delta": 1}, {("/quantity", "quantity_or_delta")}),
    ("change_quantity", {"line_id": LINE, "quantity": 3, "colour": "red"}, {("/colour", "unknown_field")}),
    ("suspend", {"reason": "mood"}, {("/reason", "invalid_choice")}),
    ("suspend", {"reason": "buyer", "scope": []}, {("/scope", "line_not_found")}),
    ("suspend", {"reason": "buyer", "scope": ["x"]}, {("/scope/0", "invalid_uuid")}),
    ("suspend", {"reason": "buyer", "scope": "some"}, {("/scope", "invalid_choice")}),
    ("activate", {"stage": "launch"}, {("/stage", "invalid_choice")}),
    ("activate", ["live"], {("", "invalid_type")}),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "body", "expected"), BAD_PAYLOADS)
def test_a_bad_payload_names_the_field_and_writes_nothing(
    active: Contract, servers: UUID, operation: str, body: Any, expected: set[tuple[str, str]]
) -> None:
    if isinstance(body, dict) and body.get("line_id") == LINE:
        body = {**body, "line_id": str(servers)}
    error = refused(lambda: edit(active, operation, body, at=LATER))
    assert pointers(error) == {(f"/payload{pointer}", code) for pointer, code in expected}


def changed(payload: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, name = path.strip("/").split("/")
    place: Any = payload
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place[parent]
    place[name] = value
    return payload


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("/lines/0/product", "b200-server", "unknown_product"),
        ("/lines/0/quantity", -1, "out_of_range"),
        ("/lines/0/quantity", 0, "out_of_range"),
        ("/lines/1/price/currency", "EUR", "currency_mismatch"),
        ("/lines/0/price/rate", "1.1234567890123", "rate_scale"),
        ("/lines/0/price/rate", "-1", "amount_negative"),
        ("/lines/0/price/rate", 18000, "invalid_type"),
        ("/lines/0/price/rate", "90071992547410", "amount_overflow"),
        ("/lines/0/price/rate", "NaN", "invalid_decimal"),
        ("/lines/0/kind", "usage", "unknown_field"),
        ("/lines/0/seller_id", "019cd0a1-7b00-7000-8000-000000000003", "unknown_seller"),
        ("/buyer_id", "019cd0a1-7b00-7000-8000-000000000003", "unknown_buyer"),
        ("/terms/settlement/partner_id", "019cd0a1-7b00-7000-8000-000000000003", "unknown_partner"),
        ("/terms/settlement/partner_share", "0", "partner_incomplete"),
        ("/terms/settlement/fee_rate", "1.01", "out_of_range"),
        ("/currency", "XXX", "unknown_currency"),
        ("/currency", "usd", "invalid_format"),
        ("/start_at", "2027-03-01T00:00:00", "invalid_instant"),
        ("/start_at", "yesterday", "invalid_instant"),
        ("/billing/anchor_day", 32, "anchor_day_invalid"),
        ("/term/months", None, "term_invalid"),
        ("/number", "x\u0000", "invalid_format"),
        ("/surprise", 1, "unknown_field"),
    ],
)
def test_a_contract_is_not_created_from_bad_input(
    payload: dict[str, Any], path: str, value: Any, code: str
) -> None:
    error = refused(lambda: create(changed(payload, path, value)))
    assert (path, code) in pointers(error)
    assert Contract.objects.count() == 0


def test_every_fault_of_a_payload_is_reported_at_once(payload: dict[str, Any]) -> None:
    changed(payload, "/currency", 7)
    changed(payload, "/lines/0/quantity", "two")
    error = refused(lambda: create(payload))
    assert error.code == "invalid_type"
    assert pointers(error) == {("/currency", "invalid_type"), ("/lines/0/quantity", "invalid_type")}


@pytest.mark.parametrize("minor", [2**53, -1])
def test_a_downpayment_beyond_its_bounds_is_refused(payload: dict[str, Any], minor: int) -> None:
    payload["terms"]["commitment"] = {"downpayment": {"amount_minor": minor, "currency": "USD"}}
    where = "/terms/commitment/downpayment/amount_minor"
    expected = "amount_overflow" if minor > 0 else "amount_negative"
    assert pointers(refused(lambda: create(payload))) == {(where, expected)}


def test_a_downpayment_is_in_the_currency_of_the_contract(payload: dict[str, Any]) -> None:
    payload["terms"]["commitment"] = {"downpayment": {"amount_minor": 1, "currency": "EUR"}}
    assert refused(lambda: create(payload)).code == "currency_mismatch"


def test_a_number_is_given_once(payload: dict[str, Any]) -> None:
    create({**payload, "number": "ACME-1"})
    error = refused(lambda: create({**payload, "number": "ACME-1"}))
    assert (error.status, error.code) == (409, "duplicate_contract_number")


def test_a_line_id_is_used_once(payload: dict[str, Any], active: Contract) -> None:
    error = refused(lambda: edit(active, "add_product", payload["lines"][0], at=LATER))
    assert pointers(error) == {("/payload/line_id", "line_id_taken")}


def test_an_unknown_or_second_create_operation_is_refused(active: Contract) -> None:
    for operation in ("explode", "create", ""):
        assert refused(lambda name=operation: edit(active, name, {})).code == "unknown_operation"


def test_an_operation_that_changes_nothing_is_refused(active: Contract, servers: UUID) -> None:
    body = {"line_id": str(servers), "quantity": 2}
    assert refused(lambda: edit(active, "change_quantity", body, at=LATER)).code == "no_effect"


def test_a_metered_line_has_no_quantity_to_change(active: Contract, payload: dict[str, Any]) -> None:
    body = {"line_id": payload["lines"][1]["line_id"], "quantity": 2}
    assert refused(lambda: edit(active, "change_quantity", body, at=LATER)).code == "line_is_metered"


def test_a_removed_or_unknown_line_and_the_last_one_cannot_be_removed(
    active: Contract, servers: UUID, payload: dict[str, Any]
) -> None:
    def remove(line_id: Any) -> Any:
        return edit(active, "remove_product", {"line_id": str(line_id)}, at=LATER)

    assert refused(lambda: remove(uuid7())).code == "line_not_found"
    remove(servers)
    assert refused(lambda: remove(servers)).code == "line_not_live"
    assert refused(lambda: remove(payload["lines"][1]["line_id"])).code == "last_line"


def test_the_status_at_the_effective_instant_decides_and_is_named(active: Contract, draft: Contract) -> None:
    edit(active, "terminate", {"cause": "mutual"}, at=LATER, reason="Over")
    error = refused(lambda: edit(active, "suspend", {"reason": "buyer"}, at=LATER + timedelta(days=1)))
    assert isinstance(error, StateConflict)
    assert error.code == "invalid_state"
    assert error.extra == {"contract_status": "terminated", "allowed": ["active", "suspended"]}


def test_a_draft_without_lines_cannot_be_submitted(payload: dict[str, Any]) -> None:
    draft = create({**payload, "lines": []}).contract
    assert refused(lambda: edit(draft, "activate", {"stage": "submit"})).code == "no_lines"


def test_a_contract_does_not_go_live_before_its_start(payload: dict[str, Any]) -> None:
    draft = create(changed(payload, "/start_at", "2027-04-01T00:00:00Z")).contract
    for stage in ("submit", "signed"):
        edit(draft, "activate", {"stage": stage})
    error = refused(lambda: edit(draft, "activate", {"stage": "live"}))
    assert pointers(error) == {("/effective_at", "effective_before_start")}


def test_an_activation_guard_may_refuse(draft: Contract) -> None:
    from contracts.services import edits

    def unfunded(contract: Contract, state: Any, at: datetime) -> None:
        if contract.pk == draft.pk:
            raise StateConflict("No money.", code="downpayment_unfunded")

    services.register_activation_guard(unfunded)
    try:
        edit(draft, "activate", {"stage": "submit"})
        edit(draft, "activate", {"stage": "signed"})
        assert refused(lambda: edit(draft, "activate", {"stage": "live"})).code == "downpayment_unfunded"
    finally:
        edits._activation_guards.remove(unfunded)


# Time


def test_a_back_dated_edit_needs_a_reason_and_takes_effect_then(active: Contract, servers: UUID) -> None:
    body = {"line_id": str(servers), "quantity": 3}
    back = {"at": LATER, "effective_at": MARCH + timedelta(days=5)}
    error = refused(lambda: edit(active, "change_quantity", body, **back))
    assert pointers(error) == {("/reason", "reason_required")}
    edit(active, "change_quantity", body, **back, reason="Delivered on the 6th")
    event = last_event()
    assert event.payload["retroactive"] is True
    assert event.payload["changed_interval"] == ["2027-03-06T00:00:00Z", None]


def test_a_naive_instant_and_one_before_the_contract_are_refused(active: Contract, servers: UUID) -> None:
    body = {"line_id": str(servers), "quantity": 3}

    def at(effective_at: datetime) -> str:
        return refused(
            lambda: edit(active, "change_quantity", body, at=LATER, effective_at=effective_at, reason="x")
        ).code

    assert at(datetime(2027, 3, 5)) == "invalid_instant"
    assert at(MARCH - timedelta(seconds=1)) == "effective_before_start"
    assert at(datetime(2040, 1, 1, tzinfo=UTC)) == "limit_exceeded"


def test_a_back_dated_edit_that_breaks_a_later_one_is_refused_and_names_it(
    active: Contract, servers: UUID
) -> None:
    edit(active, "change_quantity", {"line_id": str(servers), "delta": -2}, at=LATER)
    error = refused(
        lambda: edit(
            active, "change_quantity", {"line_id": str(servers), "quantity": 1},
            at=LATER, effective_at=MARCH + timedelta(days=1), reason="Late paper",
        )
    )  # fmt: skip
    assert error.code == "would_invalidate_later_edit"
    assert error.extra["later_edits"] == [
        {"seq": 5, "operation": "change_quantity", "error": "quantity_negative"}
    ]


def test_a_termination_at_the_period_end_waits_and_then_takes_effect_once(active: Contract) -> None:
    april = datetime(2027, 4, 1, tzinfo=UTC)
    leaving = {"when": "end_of_period", "cause": "mutual"}
    planned = edit(active, "terminate", leaving, at=LATER, reason="Moving out")
    assert planned.edit.effective_at == april
    assert (planned.contract.status, planned.contract.next_due_at) == ("active", april)
    assert (last_event().type, last_event().payload["pending"]) == ("contract.terminated", True)
    assert services.take_effect_due(at=april - timedelta(seconds=1)) == 0
    assert services.take_effect_due(at=april + timedelta(hours=3)) == 1
    active.refresh_from_db()
    assert (active.status, active.end_at, active.next_due_at) == ("terminated", april, None)
    event = last_event()
    assert event.type == "contract.took_effect"
    assert event.occurred_at == april
    assert event.payload["status"] == {"before": "active", "after": "terminated"}
    assert services.take_effect_due(at=april + timedelta(hours=4)) == 0


def test_a_fixed_term_expires_by_the_clock_and_says_so(active: Contract) -> None:
    end = datetime(2028, 3, 1, tzinfo=UTC)
    assert active.next_due_at == end
    assert services.take_effect_due(at=end) == 1
    active.refresh_from_db()
    assert active.status == "expired"
    assert last_event().type == "contract.expired"
    assert last_event().payload["status"] == {"before": "active", "after": "expired"}


def test_an_edit_first_lets_the_clock_catch_up(active: Contract) -> None:
    edit(active, "suspend", {"reason": "maintenance"}, at=MARCH, effective_at=LATER)
    edit(active, "terminate", {"cause": "mutual"}, at=LATER + timedelta(days=1), reason="Over")
    types = OutboxEvent.objects.order_by("id").values_list("type", flat=True)
    assert list(types)[-2:] == ["contract.took_effect", "contract.terminated"]
    log = TransitionLog.objects.filter(object_id=str(active.pk)).order_by("id")
    assert [row.name for row in log][-2:] == ["suspend", "terminate"]


def test_an_edit_reported_late_never_moves_the_projection_back(active: Contract, servers: UUID) -> None:
    edit(active, "suspend", {"reason": "buyer"}, at=LATER)
    contract = edit(
        active, "change_quantity", {"line_id": str(servers), "quantity": 3}, at=LATER - timedelta(days=2)
    ).contract
    assert contract.projected_at == LATER
    assert contract.status == "suspended"


# Versions and keys


def test_a_stale_version_is_refused_with_the_edits_since(active: Contract, servers: UUID) -> None:
    edit(active, "suspend", {"reason": "buyer"}, at=LATER, expected_version=4)
    error = refused(lambda: edit(active, "resume", {"reason": "buyer"}, at=LATER, expected_version=4))
    assert isinstance(error, VersionConflict)
    assert error.extra["current_version"] == 5
    assert [row["operation"] for row in error.extra["edits"]] == ["suspend"]


def test_a_repeated_key_returns_the_first_result_and_writes_nothing(active: Contract, servers: UUID) -> None:
    given = {"at": LATER, "idempotency_key": "once", "expected_version": 4}
    body = {"line_id": str(servers), "quantity": 3}
    first = edit(active, "change_quantity", body, **given)
    count = OutboxEvent.objects.count()
    again = edit(active, "change_quantity", body, **{**given, "at": LATER + timedelta(days=1)})
    assert again.replayed
    assert again.edit.pk == first.edit.pk
    assert (ContractEdit.objects.count(), OutboxEvent.objects.count()) == (5, count)


def test_a_repeated_key_with_another_body_is_refused(active: Contract, servers: UUID) -> None:
    given = {"at": LATER, "idempotency_key": "once"}
    edit(active, "change_quantity", {"line_id": str(servers), "quantity": 3}, **given)
    error = refused(
        lambda: edit(active, "change_quantity", {"line_id": str(servers), "quantity": 4}, **given)
    )
    assert (error.status, error.code) == (422, "idempotency_mismatch")


def test_creating_twice_with_one_key_makes_one_contract(payload: dict[str, Any]) -> None:
    first = create(payload, idempotency_key="once")
    again = create(payload, idempotency_key="once")
    other = create(payload, idempotency_key="once", actor=Actor.system("somebody else"))
    assert again.replayed
    assert again.contract.pk == first.contract.pk != other.contract.pk
    error = refused(lambda: create({**payload, "number": "ACME-2"}, idempotency_key="once"))
    assert error.code == "idempotency_mismatch"


def test_recorded_at_increases_strictly_and_the_hashes_chain(active: Contract) -> None:
    rows = list(ContractEdit.objects.filter(contract=active).order_by("seq"))
    times = [row.recorded_at for row in rows]
    assert times == sorted(set(times))
    assert [row.prev_hash for row in rows] == ["", *(row.hash for row in rows[:-1])]
    assert services.verify_log(active.pk) is None


# Who


def test_an_actor_needs_the_permission_of_the_operation(active: Contract) -> None:
    clerk = Actor(type="api_key", id="1", permissions=frozenset({"contracts.edit_contract"}))
    with pytest.raises(PermissionDenied):
        edit(active, "terminate", {"cause": "mutual"}, actor=clerk, reason="No")
    assert ContractEdit.objects.filter(operation="terminate").count() == 0


def test_a_buyers_key_changes_its_own_contract_where_that_is_the_buyers_choice(
    active: Contract, parties: Parties, servers: UUID
) -> None:
    def key_of(organization: Organization) -> Actor:
        allowed = frozenset(
            f"contracts.{verb}_contract" for verb in ("edit", "suspend", "terminate", "activate")
        )
        return Actor("api_key", "1", organization_id=organization.pk, permissions=allowed)

    body = {"line_id": str(servers), "quantity": 3}
    edit(active, "change_quantity", body, at=LATER, actor=key_of(parties.buyer))
    for organization in (parties.seller, parties.partner):
        error = refused(
            lambda who=organization: edit(
                active, "change_quantity", {**body, "quantity": 9}, at=LATER, actor=key_of(who)
            )
        )
        assert isinstance(error, PermissionDenied)
    abuse = refused(
        lambda: edit(active, "suspend", {"reason": "abuse"}, at=LATER, actor=key_of(parties.buyer))
    )
    assert isinstance(abuse, PermissionDenied)
    edit(active, "suspend", {"reason": "buyer"}, at=LATER, actor=key_of(Organization.objects.platform()))


# The database


def test_the_guards_of_the_contracts_tables_are_as_declared() -> None:
    assert [name for name in missing() if name.startswith("contracts_")] == []


@pytest.mark.parametrize("work", ["update", "delete"])
def test_the_log_is_append_only(active: Contract, work: str) -> None:
    rows = ContractEdit.objects.filter(contract=active)
    with pytest.raises(DatabaseError), transaction.atomic():
        rows.update(reason="never") if work == "update" else rows.delete()
    assert rows.filter(reason="never").count() == 0
    assert rows.count() == 4


def test_a_status_cannot_be_written_past_its_transitions(active: Contract) -> None:
    with pytest.raises(DatabaseError), transaction.atomic():
        Contract.objects.filter(pk=active.pk).update(status="draft")


def test_preview_tells_what_would_happen_and_writes_nothing(active: Contract, servers: UUID) -> None:
    def work() -> None:
        preview = services.preview_edit(
            contract_id=active.pk,
            operation="change_quantity",
            payload={"line_id": str(servers), "quantity": 3},
            actor=OPERATOR,
            at=LATER,
            expected_version=None,
        )
        assert preview.changed_before == {f"/lines/{servers}/quantity": 2}
        assert preview.changed_after == {f"/lines/{servers}/quantity": 3}
        raise InvalidInput("Nothing may have been written by now.", code="done")

    assert refused(work).code == "done"


# Notice


def test_a_buyer_gives_its_notice_when_it_asks_to_leave(payload: dict[str, Any], parties: Parties) -> None:
    payload["term"] = {"kind": "evergreen"}
    payload["terms"]["renewal"] = {"notice_days": 90}
    contract = create(payload).contract
    for stage in ("submit", "signed", "live"):
        edit(contract, "activate", {"stage": stage})
    may = frozenset({"contracts.terminate_contract"})
    buyer = Actor("api_key", "1", organization_id=parties.buyer.pk, permissions=may)

    def leave(days: int, *, actor: Actor = OPERATOR, **more: Any) -> Any:
        instant = MARCH + timedelta(days=days)
        return edit(contract, "terminate", {"when": "date", **more}, actor=actor, at=MARCH,
                    effective_at=instant, reason="Moving out")  # fmt: skip

    for actor in (OPERATOR, buyer):
        error = refused(lambda actor=actor: leave(89, actor=actor))  # type: ignore[misc]
        assert pointers(error) == {("/payload/notice_given_at", "notice_too_short")}
    earlier = {"notice_given_at": "2026-12-01T00:00:00Z"}
    assert isinstance(refused(lambda: leave(1, actor=buyer, **earlier)), PermissionDenied)
    planned = leave(90, actor=buyer)
    assert (planned.contract.status, planned.edit.payload["recorded_at"]) == (
        "active",
        "2027-03-01T00:00:00Z",
    )


# Text


def test_half_a_character_is_refused_before_anything_is_hashed(active: Contract) -> None:
    error = refused(lambda: edit(active, "change_terms", {"references": {"po_number": "a\ud800"}}))
    assert pointers(error) == {("/payload/references/po_number", "invalid_format")}
    error = refused(lambda: edit(active, "suspend", {"reason": "legal"}, reason="a\ud800"))
    assert pointers(error) == {("/reason", "reason_invalid")}
