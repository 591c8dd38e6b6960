"""Units of offers: taken by edits, given back by edits and by the clock, never more than there are."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import DatabaseError, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commerce.errors import CommerceError, Conflict, InvalidInput, PermissionDenied, StateConflict
from commerce.ids import uuid7
from commerce.invariants import REGISTRY
from commerce.models import TransitionLog
from commerce.outbox import drain
from contracts import services
from contracts.models import Contract, Offer, Reservation, ReservedUnit, Stock
from contracts.rules import fold
from contracts.services.reservations import HOLD
from contracts.tasks import release_holds, take_effect
from tests.contracts.conftest import MARCH, OPERATOR, Parties, create, edit
from tests.contracts.test_catalogue_offers import block, draft_on, events, faults, key_of, live

pytestmark = pytest.mark.django_db

LATER = MARCH + timedelta(days=10)
MAY = MARCH + timedelta(days=61)


@pytest.fixture
def offer(parties: Parties) -> Offer:
    """Ten servers."""
    return live(parties.seller)


def stock(offer: Offer) -> tuple[int, int]:
    """Held and committed."""
    row = Stock.objects.get(pk=offer.stock_id)
    return row.held, row.committed


def line_of(contract: Contract) -> UUID:
    return next(iter(contract.current.lines))


def signed(offer: Offer, payload: dict[str, Any], **line: Any) -> Contract:
    contract = draft_on(offer, payload, **line)
    for stage in ("submit", "signed"):
        contract = edit(contract, "activate", {"stage": stage}).contract
    return contract


def running(offer: Offer, payload: dict[str, Any], **line: Any) -> Contract:
    return edit(signed(offer, payload, **line), "activate", {"stage": "live"}).contract


def requantify(contract: Contract, quantity: int, **given: Any) -> Contract:
    body = {"line_id": str(line_of(contract)), "quantity": quantity}
    return edit(contract, "change_quantity", body, **given).contract


def findings() -> list[str]:
    checks = [invariant for invariant in REGISTRY if invariant.check.__module__ == "contracts.invariants"]
    return [finding.detail for invariant in checks for finding in invariant.check()]


# Taking and giving back


def test_a_draft_holds_its_units_and_a_signature_commits_them(offer: Offer, payload: dict[str, Any]) -> None:
    contract = draft_on(offer, payload, quantity=3)
    [row] = Reservation.objects.all()
    assert (row.status, row.quantity, row.expires_at) == ("held", 3, MARCH + HOLD)
    assert stock(offer) == (3, 0)
    contract = edit(contract, "activate", {"stage": "submit"}, at=LATER).contract
    row.refresh_from_db()
    assert (row.status, row.expires_at) == ("held", LATER + HOLD)
    edit(contract, "activate", {"stage": "signed"}, at=LATER)
    row.refresh_from_db()
    assert (row.status, row.committed_at, row.expires_at) == ("committed", LATER, None)
    assert stock(offer) == (0, 3)
    assert [event["units"] for event in events("units.reserved")] == [3]
    assert not events("units.released")
    assert not findings()


def test_more_than_is_free_is_refused_with_what_is_free(offer: Offer, payload: dict[str, Any]) -> None:
    contract = running(offer, payload, quantity=8)
    with pytest.raises(Conflict) as refused:
        draft_on(offer, payload, quantity=3)
    assert faults(refused.value) == {"/lines/0/quantity": "capacity_unavailable"}
    assert refused.value.extra["free"] == 2
    with pytest.raises(Conflict) as refused:
        requantify(contract, 11, at=LATER)
    assert faults(refused.value) == {"/payload/quantity": "capacity_unavailable"}
    with pytest.raises(Conflict) as refused:
        edit(contract, "change_quantity", {"line_id": str(line_of(contract)), "delta": 3}, at=LATER)
    assert faults(refused.value) == {"/payload/delta": "capacity_unavailable"}
    assert stock(offer) == (0, 8)
    assert Contract.objects.get().version == contract.version
    assert stock(requantify(contract, 10, at=LATER).reservations.get().offer) == (0, 10)


def test_edits_move_the_difference(offer: Offer, payload: dict[str, Any]) -> None:
    contract = running(offer, payload, quantity=4)
    contract = requantify(contract, 7, at=LATER)
    contract = requantify(contract, 2, at=LATER)
    assert stock(offer) == (0, 2)
    contract = requantify(contract, 0, at=LATER)
    assert stock(offer) == (0, 0)
    assert Reservation.objects.get().status == "released"
    contract = requantify(contract, 5, at=LATER)
    assert stock(offer) == (0, 5)
    assert [event["units"] for event in events("units.reserved")] == [4, 3, 5]
    assert [(event["units"], event["reserved"]) for event in events("units.released")] == [(5, 2), (2, 0)]
    assert not findings()


def test_units_go_from_one_line_to_another_in_one_batch(offer: Offer, payload: dict[str, Any]) -> None:
    contract = running(offer, payload, quantity=9)
    other = str(uuid7())
    contract = edit(
        contract, "add_product", {"line_id": other, "offer_id": str(offer.pk), "quantity": 1}, at=LATER
    ).contract
    batch = [
        services.OperationRequest("change_quantity", {"line_id": other, "quantity": 9}),
        services.OperationRequest("change_quantity", {"line_id": str(line_of(contract)), "quantity": 1}),
    ]
    given: dict[str, Any] = {"actor": OPERATOR, "at": LATER, "expected_version": None}
    services.record_edits(contract_id=contract.pk, operations=batch, idempotency_key="swap", **given)
    assert stock(offer) == (0, 10)
    batch = [
        services.OperationRequest("change_quantity", {"line_id": other, "quantity": 10}),
        services.OperationRequest("suspend", {"reason": "maintenance"}),
    ]
    with pytest.raises(Conflict) as refused:
        services.record_edits(contract_id=contract.pk, operations=batch, idempotency_key="more", **given)
    assert faults(refused.value) == {"/operations/0/payload/quantity": "capacity_unavailable"}
    assert Contract.objects.get().status == "active"


def test_a_preview_takes_nothing(offer: Offer, payload: dict[str, Any]) -> None:
    contract = running(offer, payload, quantity=4)
    services.preview_edit(
        contract_id=contract.pk,
        operation="change_quantity",
        payload={"line_id": str(line_of(contract)), "quantity": 9},
        actor=OPERATOR,
        at=LATER,
        expected_version=None,
    )
    assert stock(offer) == (0, 4)
    assert len(events("units.reserved")) == 1


# Time


def test_units_planned_for_later_are_taken_now_and_those_of_an_ending_line_kept_until_its_end(
    offer: Offer, payload: dict[str, Any]
) -> None:
    contract = running(offer, payload, quantity=4)
    contract = requantify(contract, 6, at=LATER, effective_at=MAY)
    assert stock(offer) == (0, 6)
    contract = requantify(contract, 1, at=LATER, effective_at=MAY + timedelta(days=1))
    assert stock(offer) == (0, 6)
    for day, expected in ((0, (0, 6)), (1, (0, 1))):
        at = MAY + timedelta(days=day)
        services.take_effect(contract_id=contract.pk, at=at)
        services.refit_reservations(contract_id=contract.pk, actor=OPERATOR, at=at)
        assert stock(offer) == expected
    assert not findings()


def test_a_correction_of_the_past_gives_units_back(offer: Offer, payload: dict[str, Any]) -> None:
    contract = running(offer, payload, quantity=4)
    contract = requantify(contract, 9, at=LATER)
    services.record_edit(
        contract_id=contract.pk,
        operation="correct",
        payload={"target_seq": contract.version, "mode": "void"},
        actor=OPERATOR,
        at=LATER + timedelta(days=1),
        idempotency_key="void",
        expected_version=None,
        reason="A slip.",
    )
    assert stock(offer) == (0, 4)


def test_an_ended_contract_gives_everything_back(offer: Offer, payload: dict[str, Any]) -> None:
    cancelled, ended = signed(offer, payload, quantity=4), running(offer, payload, quantity=5)
    edit(cancelled, "terminate", {"cause": "mutual"}, at=LATER, reason="No.")
    assert stock(offer) == (0, 5)
    edit(ended, "terminate", {"cause": "mutual"}, at=LATER, reason="No.")
    assert stock(offer) == (0, 0)
    assert {row.status for row in Reservation.objects.all()} == {"released"}


def test_an_expired_hold_frees_its_units_once(offer: Offer, payload: dict[str, Any]) -> None:
    draft_on(offer, payload, quantity=3)
    running(offer, payload, quantity=2)
    assert services.release_expired_holds(at=MARCH + HOLD - timedelta(seconds=1)) == 0
    assert services.release_expired_holds(at=MARCH + HOLD) == 1
    assert services.release_expired_holds(at=MARCH + HOLD) == 0
    assert stock(offer) == (0, 2)
    assert [event["reason"] for event in events("units.released")] == ["The hold expired."]
    assert TransitionLog.objects.filter(name="release").get().actor == "system:contracts.reservations"
    assert not findings()


def test_a_contract_whose_hold_expired_takes_its_units_again_when_it_moves_on(
    offer: Offer, payload: dict[str, Any]
) -> None:
    first, second = draft_on(offer, payload, quantity=6), draft_on(offer, payload, quantity=4)
    late = MARCH + HOLD
    services.release_expired_holds(at=late)
    assert stock(offer) == (0, 0)
    other = {
        "line_id": str(uuid7()),
        **{k: payload["lines"][1][k] for k in ("product", "seller_id", "price")},
    }
    edit(first, "add_product", other, at=late)
    assert stock(offer) == (0, 0)
    running_one = draft_on(offer, payload, quantity=5)
    with pytest.raises(Conflict) as refused:
        edit(first, "activate", {"stage": "submit"}, at=late)
    assert refused.value.code == "capacity_unavailable"
    assert Contract.objects.get(pk=first.pk).status == "draft"
    edit(second, "activate", {"stage": "submit"}, at=late)
    assert stock(offer) == (9, 0)
    assert running_one.reservations.get().quantity == 5


def test_who_holds_nothing_any_more_needs_an_offer_that_is_on_sale(
    offer: Offer, payload: dict[str, Any], parties: Parties
) -> None:
    holding, expired = draft_on(offer, payload), draft_on(offer, payload)
    Reservation.objects.filter(contract=holding).update(expires_at=MARCH + 3 * HOLD)
    late = MARCH + HOLD
    services.release_expired_holds(at=late)
    services.withdraw_offer(offer_id=offer.pk, actor=OPERATOR, at=late, reason="No more.")
    edit(holding, "activate", {"stage": "submit"}, at=late)
    with pytest.raises(Conflict) as refused:
        edit(expired, "activate", {"stage": "submit"}, at=late)
    assert refused.value.code == "offer_withdrawn"
    assert stock(offer) == (2, 0)


def test_a_running_line_grows_on_an_offer_that_was_withdrawn(offer: Offer, payload: dict[str, Any]) -> None:
    contract = running(offer, payload, quantity=2)
    services.withdraw_offer(offer_id=offer.pk, actor=OPERATOR, at=LATER, reason="No more.")
    requantify(contract, 5, at=LATER)
    assert stock(offer) == (0, 5)


def test_the_clock_and_the_relay_give_back_what_a_planned_end_frees(
    offer: Offer, payload: dict[str, Any], clock: Any
) -> None:
    contract = running(offer, payload, quantity=4)
    edit(contract, "terminate", {"when": "date", "cause": "mutual"}, at=LATER, effective_at=MAY, reason="No.")
    held = draft_on(offer, payload, quantity=3).reservations.get()
    drain(groups=["contracts.reservations"])
    assert stock(offer) == (3, 4)
    clock(MAY)
    take_effect()
    drain(groups=["contracts.reservations"])
    assert stock(offer) == (3, 0)
    assert release_holds() == 1
    assert stock(offer) == (0, 0)
    held.refresh_from_db()
    assert (held.status, held.released_at) == ("released", MAY)


# Versions, capacity, named units


def test_all_versions_share_one_stock(offer: Offer, payload: dict[str, Any]) -> None:
    running(offer, payload, quantity=7)
    changes = {"price": {"model": "unit", "rate": "17000"}}
    second = services.revise_offer(offer_id=offer.pk, changes=changes, actor=OPERATOR, at=MARCH)
    services.publish_offer(offer_id=second.pk, actor=OPERATOR, at=MARCH)
    with pytest.raises(Conflict, match="3 units of h100-monthly are free, 4 more are asked for"):
        draft_on(second, payload, quantity=4)
    draft_on(second, payload, quantity=3)
    assert stock(offer) == stock(second) == (3, 7)


def test_capacity_does_not_go_below_what_is_reserved(offer: Offer, payload: dict[str, Any]) -> None:
    running(offer, payload, quantity=7)
    with pytest.raises(Conflict) as refused:
        services.set_capacity(offer_id=offer.pk, capacity=6, actor=OPERATOR, at=LATER)
    assert (refused.value.code, refused.value.extra["taken"]) == ("capacity_in_use", 7)
    services.set_capacity(offer_id=offer.pk, capacity=7, actor=OPERATOR, at=LATER)
    with pytest.raises(Conflict):
        draft_on(offer, payload, quantity=1)
    services.set_capacity(offer_id=offer.pk, capacity=None, actor=OPERATOR, at=LATER)
    draft_on(offer, payload, quantity=1_000_000)
    assert stock(offer) == (1_000_000, 7)
    changed = [(event["capacity_before"], event["capacity"]) for event in events("offer.capacity_changed")]
    assert changed == [(10, 7), (7, None)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE contracts_reservation SET quantity = 11",
        "UPDATE contracts_stock SET capacity = 3",
        "UPDATE contracts_stock SET committed = 11",
        "UPDATE contracts_reservation SET line_id = gen_random_uuid()",
        "UPDATE contracts_reservation SET status = 'held', expires_at = now()",
        "DELETE FROM contracts_reservation",
        "DELETE FROM contracts_stock",
    ],
)
def test_the_database_gives_out_no_more_than_there_is(
    offer: Offer, payload: dict[str, Any], statement: str
) -> None:
    running(offer, payload, quantity=4)
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert stock(offer) == (0, 4)


def test_verify_finds_counts_that_are_not_the_sum_and_lines_without_units(
    offer: Offer, payload: dict[str, Any]
) -> None:
    contract = running(offer, payload, quantity=4)
    assert not findings()
    Stock.objects.update(held=1)
    assert findings() == ["1 held and 4 committed of 10 are counted, 0 and 4 are reserved."]
    Stock.objects.update(held=0)
    Reservation.objects.update(quantity=3)
    assert findings() == [f"Line {line_of(contract)} of {contract.number} has 4 units and reserved 3."]


def test_a_held_reservation_is_released_by_hand_and_a_committed_one_is_not(
    offer: Offer, payload: dict[str, Any], parties: Parties
) -> None:
    held = draft_on(offer, payload, quantity=3).reservations.get()
    committed = running(offer, payload, quantity=2).reservations.get()
    given: dict[str, Any] = {"at": LATER, "reason": "They went elsewhere."}
    with pytest.raises(PermissionDenied):
        services.release_hold(reservation_id=held.pk, actor=key_of(parties.seller), **given)
    services.release_hold(reservation_id=held.pk, actor=OPERATOR, **given)
    for row in (held, committed):
        with pytest.raises(StateConflict) as refused:
            services.release_hold(reservation_id=row.pk, actor=OPERATOR, **given)
        assert refused.value.code == "units_not_held"
    assert stock(offer) == (0, 2)


def test_lines_without_an_offer_reserve_nothing(payload: dict[str, Any]) -> None:
    contract = create(payload).contract
    edit(contract, "activate", {"stage": "submit"})
    assert not Reservation.objects.exists()


def test_a_blocked_sellers_line_that_holds_its_units_goes_on(
    offer: Offer, payload: dict[str, Any], parties: Parties
) -> None:
    contract = draft_on(offer, payload)
    block(parties.seller)
    edit(contract, "activate", {"stage": "submit"}, at=LATER)
    assert not ReservedUnit.objects.exists()
    assert stock(offer) == (2, 0)


def test_what_an_offer_says_of_term_service_and_tax_is_the_lines(
    parties: Parties, payload: dict[str, Any]
) -> None:
    offer = live(parties.seller, min_term_months=6, sla_policy="gold", tax_code="txcd_10")
    [line] = draft_on(offer, payload, min_term_months=6).current.live_lines
    assert (line.sla_policy, line.tax_code, line.min_term_until) == (
        "gold", "txcd_10", datetime(2027, 9, 1, tzinfo=UTC),
    )  # fmt: skip
    with pytest.raises(InvalidInput) as refused:
        draft_on(offer, payload, min_term_months=1, sla_policy="none")
    assert faults(refused.value) == {
        "/lines/0/min_term_months": "offer_min_term_months_differs",
        "/lines/0/sla_policy": "offer_sla_policy_differs",
    }
    assert Contract.objects.count() == 1


def correct(contract: Contract, seq: int, mode: str, **given: Any) -> Contract:
    payload = {"target_seq": seq, "mode": mode, **given}
    return edit(contract, "correct", payload, at=LATER, reason="A slip.").contract


def test_a_correction_of_what_was_sold_asks_for_units_and_not_for_a_sale(
    offer: Offer, payload: dict[str, Any]
) -> None:
    contract = running(offer, payload, quantity=1)
    body = {"line_id": str(uuid7()), "offer_id": str(offer.pk), "quantity": 5}
    contract = edit(contract, "add_product", body, at=MARCH + timedelta(days=1)).contract
    seq = contract.version
    services.withdraw_offer(offer_id=offer.pk, actor=OPERATOR, at=LATER, reason="No more.")
    contract = correct(contract, seq, "replace", replacement={"payload": {**body, "quantity": 7}})
    assert stock(offer) == (0, 8)
    with pytest.raises(Conflict) as refused:
        correct(contract, seq, "replace", replacement={"payload": {**body, "quantity": 10}})
    assert refused.value.code == "capacity_unavailable"
    contract = correct(contract, seq, "void")
    assert stock(offer) == (0, 1)
    correct(contract, seq, "reinstate")
    assert stock(offer) == (0, 6)
    with pytest.raises(InvalidInput, match="withdrawn"):
        edit(contract, "add_product", {**body, "line_id": str(uuid7())}, at=LATER)
    assert not findings()


def test_a_unit_is_on_one_line_at_a_time(offer: Offer, payload: dict[str, Any], parties: Parties) -> None:
    first = running(offer, payload, quantity=2, unit_ids=["rack-1", "rack-2"])
    for unit_ids in (["rack-3", "rack-2"], ["rack-1"]):
        with pytest.raises(Conflict) as refused:
            draft_on(offer, payload, quantity=2, unit_ids=unit_ids)
        assert refused.value.code == "unit_unavailable"
        assert refused.value.extra["units"] == [unit_ids[-1]]
    assert stock(offer) == (0, 2)
    body = {"line_id": str(line_of(first)), "delta": -1, "release_units": ["rack-1"]}
    edit(first, "change_quantity", body, at=LATER)
    draft_on(offer, payload, quantity=2, unit_ids=["rack-3", "rack-1"])
    other = live(parties.other_seller)
    draft_on(other, payload, quantity=1, unit_ids=["rack-1"])
    assert sorted(ReservedUnit.objects.values_list("unit_id", flat=True)) == [
        "rack-1", "rack-1", "rack-2", "rack-3",
    ]  # fmt: skip


def test_units_that_are_given_back_may_be_named_again(offer: Offer, payload: dict[str, Any]) -> None:
    draft_on(offer, payload, quantity=2, unit_ids=["rack-1", "rack-2"])
    services.release_expired_holds(at=MARCH + HOLD)
    assert not ReservedUnit.objects.exists()
    draft_on(offer, payload, quantity=1, unit_ids=["rack-2"])
    assert ReservedUnit.objects.get().unit_id == "rack-2"


STEPS = st.one_of(
    st.tuples(st.just("order"), st.integers(1, 6)),
    st.tuples(st.just("change"), st.integers(0, 7)),
    st.tuples(st.just("plan"), st.integers(0, 7)),
    st.tuples(st.sampled_from(["sign", "end", "expire"]), st.just(0)),
    st.tuples(st.just("capacity"), st.integers(0, 12)),
)


@given(st.lists(STEPS, min_size=4, max_size=12))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_in_whatever_order_contracts_have_what_they_need_and_no_more_than_there_is(
    offer: Offer, payload: dict[str, Any], steps: list[tuple[str, int]]
) -> None:
    with transaction.atomic():
        own = live(offer.seller, code=uuid7().hex)
        contracts: list[Contract] = []
        at = MARCH
        for step, number in steps:
            at += timedelta(hours=1)
            before = stock(own)
            try:
                with transaction.atomic():
                    _take(step, number, own, payload, contracts, at)
            except CommerceError:
                assert stock(own) == before
            capacity = Stock.objects.get(pk=own.stock_id).capacity
            assert capacity is not None
            assert sum(stock(own)) <= capacity
            for contract in Contract.objects.filter(pk__in=[contract.pk for contract in contracts]):
                rows = {row.status: row.quantity for row in contract.reservations.exclude(status="released")}
                most = _most(contract, at)
                if contract.status in ("pending_activation", "active"):
                    assert rows == ({"committed": most} if most else {})
                elif contract.status == "draft":
                    assert rows in ({}, {"held": most})
                else:
                    assert rows == {}
        assert not findings()
        transaction.set_rollback(True)


def _take(
    step: str, number: int, own: Offer, payload: dict[str, Any], contracts: list[Contract], at: datetime
) -> None:
    given: dict[str, Any] = {"at": at}
    if step == "order":
        contracts.append(draft_on(own, payload, quantity=number))
    elif step == "capacity":
        services.set_capacity(offer_id=own.pk, capacity=number, actor=OPERATOR, **given)
    elif step == "expire":
        services.release_expired_holds(at=MARCH + 2 * HOLD)
    elif not contracts:
        return
    elif step == "change":
        requantify(contracts[-1], number, **given)
    elif step == "plan":
        requantify(contracts[-1], number, effective_at=MAY, **given)
    elif step == "sign":
        for stage in ("submit", "signed", "live"):
            edit(contracts[-1], "activate", {"stage": stage}, **given)
    else:
        edit(contracts[-1], "terminate", {"cause": "mutual"}, reason="No.", **given)


def _most(contract: Contract, at: datetime) -> int:
    """The most that its line has at `at` or later."""
    log = services.contract_edits(contract.pk)
    found = (fold.fold(log, valid_at=instant) for instant in (at, MAY))
    return max(line.quantity for state in found for line in state.live_lines)
