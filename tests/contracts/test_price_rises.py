"""How far a price rises before two people are asked: from where two last agreed, in however many steps."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import User

from commerce.actor import Actor
from commerce.console.approvals import approve
from commerce.console.demo_users import ensure_demo_users
from commerce.errors import PermissionDenied
from contracts import services
from contracts.models import Contract
from tests.contracts.conftest import MARCH, create, edit

pytestmark = pytest.mark.django_db

APRIL = datetime(2027, 4, 1, tzinfo=UTC)


SHORT = {"percent": "0.09", "notice_given_at": "2027-01-01T00:00:00Z"}


@pytest.fixture
def people(db: None) -> dict[str, Actor]:
    ensure_demo_users()
    return {user.username: Actor.for_user(user) for user in User.objects.all()}


def _rate(contract: Contract, line_id: UUID) -> Decimal:
    return Contract.objects.get(pk=contract.pk).current.lines[line_id].price.rate


def test_a_steep_rise_takes_two_people_whatever_notice_was_given(
    active: Contract, servers: UUID, people: dict[str, Actor]
) -> None:
    rise = {"line_id": str(servers), "notice_given_at": "2027-01-01T00:00:00Z"}
    for share, limit, steep in (("0.11", "0.1", True), ("0.11", "0.2", False), ("0.09", "0.2", True)):
        at = MARCH + timedelta(days=Contract.objects.get(pk=active.pk).version)
        if services.platform_terms(at).limits.price_rise_approval != Decimal(limit):
            asked = services.request_platform_terms(
                changes={"limits": {"price_rise_approval": limit}},
                actor=people["operator"],
                at=at,
                reason="Ok.",
            )
            approve(approval=asked, actor=people["approver"], at=at)
        work = partial(
            edit, active, "change_price", {**rise, "percent": share}, actor=people["operator"], at=at
        )
        if not steep:
            work()
            continue
        with pytest.raises(PermissionDenied) as refused:
            work()
        assert refused.value.code == "approval_required"
    assert Contract.objects.get(pk=active.pk).current.lines[servers].price.rate == Decimal("19980")


def test_many_small_rises_are_one_rise(active: Contract, servers: UUID, people: dict[str, Actor]) -> None:
    """A preview says what recording says, and a cut in between is where the rise begins."""
    rise = {"line_id": str(servers), **SHORT}
    edit(active, "change_price", rise, actor=people["operator"], at=MARCH + timedelta(days=1))
    second = {"at": MARCH + timedelta(days=2), "actor": people["operator"]}

    with pytest.raises(PermissionDenied) as refused:
        edit(active, "change_price", rise, **second)
    assert refused.value.code == "approval_required"
    preview = services.preview_edit(
        contract_id=active.pk, operation="change_price", payload=rise, expected_version=None, **second
    )
    assert preview.approval == refused.value.extra["why"]
    assert _rate(active, servers) == Decimal("19620")

    edit(active, "change_price", {"line_id": str(servers), "percent": "-0.1"}, **second)
    with pytest.raises(PermissionDenied):
        edit(active, "change_price", {**rise, "percent": "0.11"}, **second)
    edit(active, "change_price", rise, **second)
    assert _rate(active, servers) == Decimal("19247.22")


def test_a_batch_of_small_rises_takes_two_people_too(
    active: Contract, servers: UUID, people: dict[str, Actor]
) -> None:
    asked = [services.OperationRequest("change_price", {"line_id": str(servers), **SHORT})] * 2
    given = {"contract_id": active.pk, "operations": asked, "at": MARCH + timedelta(days=1)}
    with pytest.raises(PermissionDenied):
        services.record_edits(
            **given, actor=people["operator"], idempotency_key="twice", expected_version=None
        )
    preview = services.preview_edits(**given, actor=people["operator"], expected_version=None)
    assert len(preview.approval) == 1
    assert _rate(active, servers) == Decimal("18000")


def test_what_two_people_agreed_to_is_where_the_next_rise_is_counted_from(
    active: Contract, servers: UUID, people: dict[str, Actor]
) -> None:
    rise = {"line_id": str(servers), **SHORT}
    at = MARCH + timedelta(days=1)
    edit(active, "change_price", rise, actor=people["operator"], at=at)
    approval = services.request_edits(
        contract_id=active.pk,
        operations=[services.OperationRequest("change_price", rise)],
        expected_version=Contract.objects.get(pk=active.pk).version,
        actor=people["operator"], at=at, reason="The index rose.",
    )  # fmt: skip
    approve(approval=approval, actor=people["approver"], at=at)
    assert _rate(active, servers) == Decimal("21385.8")

    edit(active, "change_price", rise, actor=people["operator"], at=at + timedelta(days=1))

    assert _rate(active, servers) == Decimal("23310.522")
    with pytest.raises(PermissionDenied):
        edit(active, "change_price", rise, actor=people["operator"], at=at + timedelta(days=1))


def test_a_rise_that_is_dated_before_another_takes_two_people(
    active: Contract, servers: UUID, people: dict[str, Actor]
) -> None:
    rise = {"line_id": str(servers), **SHORT}
    later = MARCH + timedelta(days=9)
    edit(active, "change_price", rise, actor=people["operator"], at=later)
    with pytest.raises(PermissionDenied) as refused:
        edit(
            active, "change_price", rise, actor=people["operator"], at=later,
            effective_at=later - timedelta(days=5), reason="Found late.",
        )  # fmt: skip
    assert refused.value.code == "approval_required"
    assert _rate(active, servers) == Decimal("19620")


def test_a_renewal_at_the_agreed_uplift_is_no_rise_of_one_persons(
    payload: dict[str, Any], servers: UUID, people: dict[str, Actor]
) -> None:
    payload["term"]["months"] = 1
    payload["terms"]["renewal"] = {"uplift": {"kind": "percent", "value": "0.09"}}
    contract = create(payload).contract
    for stage in ("submit", "signed", "live"):
        edit(contract, "activate", {"stage": stage})
    for _ in range(3):
        contract.refresh_from_db()
        edit(contract, "renew", {"term_months": 1}, actor=people["operator"])
        services.take_effect_due(at=contract.end_at)

    last = _rate(contract, servers)
    assert last == Decimal("18000") * Decimal("1.09") ** 3
    own = {"uplift": {"kind": "percent", "value": "0.11"}, "term_months": 1}
    with pytest.raises(PermissionDenied):
        edit(contract, "renew", own, actor=people["operator"])


def test_a_higher_uplift_for_renewals_takes_two_people(active: Contract, people: dict[str, Actor]) -> None:
    """Renewals apply it without asking anybody."""
    for uplift, steep in (
        ({"kind": "percent", "value": "0.03", "cap": "0.05"}, True),
        ({"kind": "catalog"}, True),
        ({"kind": "none", "cap": "0.05"}, False),
    ):
        preview = services.preview_edit(
            contract_id=active.pk, operation="change_terms", payload={"renewal": {"uplift": uplift}},
            actor=people["operator"], at=MARCH + timedelta(days=1), expected_version=None,
        )  # fmt: skip
        assert bool(preview.approval) == steep
    capped = {"kind": "percent", "value": "0.03", "cap": "0.05"}
    edit(active, "change_terms", {"renewal": {"uplift": capped}}, at=MARCH + timedelta(days=1))
    for changed, steep in (({"value": "0.04"}, True), ({"cap": None}, True), ({"value": "0.02"}, False)):
        preview = services.preview_edit(
            contract_id=active.pk, operation="change_terms",
            payload={"renewal": {"uplift": {**capped, **changed}}},
            actor=people["operator"], at=MARCH + timedelta(days=2), expected_version=None,
        )  # fmt: skip
        assert bool(preview.approval) == steep, changed


def test_what_was_signed_is_not_made_dearer_from_before_the_signature(
    payload: dict[str, Any], servers: UUID, people: dict[str, Actor]
) -> None:
    contract = create(payload, at=MARCH - timedelta(days=9)).contract
    for stage in ("submit", "signed", "live"):
        edit(contract, "activate", {"stage": stage})
    dearer = {"line_id": str(servers), "percent": "0.5"}
    with pytest.raises(PermissionDenied) as refused:
        edit(
            contract, "change_price", dearer, actor=people["operator"], at=MARCH + timedelta(days=1),
            effective_at=MARCH - timedelta(days=5), reason="They said so.",
        )  # fmt: skip
    assert refused.value.code == "approval_required"
    assert _rate(contract, servers) == Decimal("18000")


def test_free_units_do_not_hide_a_steep_rise(payload: dict[str, Any], people: dict[str, Actor]) -> None:
    payload["lines"][1]["price"] |= {"included": "100"}
    contract, line_id = create(payload).contract, payload["lines"][1]["line_id"]
    for stage in ("submit", "signed", "live"):
        edit(contract, "activate", {"stage": stage})
    rise = {"line_id": line_id, "percent": "9", "notice_given_at": "2027-01-01T00:00:00Z"}
    with pytest.raises(PermissionDenied) as refused:
        edit(contract, "change_price", rise, actor=people["operator"])
    assert refused.value.code == "approval_required"
    assert edit(contract, "change_price", {**rise, "percent": "0.1"}, actor=people["operator"]).edit.seq == 5


def test_an_expired_contract_is_taken_up_at_a_far_higher_price_by_two_people(
    payload: dict[str, Any], servers: UUID, people: dict[str, Actor]
) -> None:
    payload["term"]["months"] = 1
    contract = create(payload).contract
    for stage in ("submit", "signed", "live"):
        edit(contract, "activate", {"stage": stage})
    assert services.take_effect_due(at=APRIL) == 1

    def renew(rate: str, actor: Actor) -> Any:
        price = {"model": "unit", "rate": rate}
        taken_up = {"term_months": 1, "reprice": [{"line_id": str(servers), "price": price}]}
        return edit(contract, "renew", taken_up, actor=actor, at=APRIL + timedelta(days=1))

    with pytest.raises(PermissionDenied) as refused:
        renew("90000", people["operator"])
    assert refused.value.code == "approval_required"
    assert Contract.objects.get(pk=contract.pk).status == "expired"
    assert renew("19800", people["operator"]).contract.status == "active"
