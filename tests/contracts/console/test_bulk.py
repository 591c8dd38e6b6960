"""One operation on many contracts: planned, previewed, confirmed, run row by row, exactly what was seen."""

import json
from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.urls import reverse

from commerce.actor import Actor
from commerce.console import approvals
from commerce.console.demo_users import ensure_demo_users
from commerce.console.models import Approval
from commerce.errors import CommerceError, InvalidInput, PermissionDenied, StateConflict
from commerce.ids import uuid7
from contracts.models import BulkPlan, Contract, ContractEdit
from contracts.services import bulk
from contracts.services.bulk import Chosen
from tests.contracts.conftest import MARCH, create, edit

pytestmark = pytest.mark.django_db
SUSPEND = {"reason": "maintenance", "billing": "stop"}


@pytest.fixture
def people(db: None) -> dict[str, Actor]:
    ensure_demo_users()
    return {user.username: Actor.for_user(user) for user in User.objects.all()}


@pytest.fixture
def many(payload: dict[str, Any]) -> list[Contract]:
    """Three that run, one of them suspended, and a draft."""
    found = []
    for number in range(4):
        body = deepcopy(payload)
        body["number"] = f"B-{number}01"
        for line in body["lines"]:
            line["line_id"] = str(uuid7())
        contract = create(body).contract
        for stage in ("submit", "signed", "live") if number < 3 else ():
            contract = edit(contract, "activate", {"stage": stage}).contract
        found.append(contract)
    edit(found[2], "suspend", {"reason": "maintenance"})
    return found


def planned(actor: Actor, **given: Any) -> BulkPlan:
    arguments = {
        "operation": "suspend", "payload": SUSPEND,
        "chosen": Chosen(numbers=("B-001", "B-101", "B-201", "B-301")),
        "reason": "Power works", "actor": actor, "at": MARCH, **given,
    }  # fmt: skip
    return bulk.plan_bulk(**arguments)


def edits() -> int:
    return ContractEdit.objects.filter(operation="suspend").count()


def test_a_plan_is_previewed_row_by_row_and_records_nothing(
    people: dict[str, Actor], many: list[Contract]
) -> None:
    plan = planned(people["operator"])
    before = edits()
    assert bulk.advance_bulk(at=MARCH) == 4
    plan.refresh_from_db()
    assert plan.status == "ready"
    assert bulk.progress(plan) == {"waiting": 0, "ready": 2, "excluded": 2, "done": 0, "failed": 0}
    assert plan.totals == {"USD": {"contracts": 2, "before": 7_200_000, "after": 0}}
    reasons = dict(plan.rows.filter(outcome="excluded").values_list("contract__number", "detail"))
    assert "already suspended for maintenance" in reasons["B-201"]
    assert "draft" in reasons["B-301"]
    assert edits() == before


def test_confirmed_it_runs_as_its_maker_and_keeps_what_became_of_each(
    people: dict[str, Actor], many: list[Contract]
) -> None:
    plan = planned(people["operator"])
    bulk.advance_bulk(at=MARCH)
    edit(many[1], "suspend", {"reason": "legal"})
    bulk.confirm_bulk(plan=plan, actor=people["operator"], at=MARCH)
    while bulk.advance_bulk(at=MARCH + timedelta(hours=1)):
        pass
    plan.refresh_from_db()
    assert plan.status == "completed"
    outcomes = {row.contract.number: row for row in plan.rows.select_related("contract")}
    assert outcomes["B-001"].outcome == "done"
    assert (outcomes["B-101"].outcome, outcomes["B-101"].seq) == ("failed", None)
    assert "version" in outcomes["B-101"].detail
    row = ContractEdit.objects.get(contract=many[0], seq=outcomes["B-001"].seq)
    assert (row.actor_label, row.reason) == ("operator", "Power works")
    assert not ContractEdit.objects.filter(contract=many[1], payload__reason="maintenance").exists()
    assert bulk.advance_bulk(at=MARCH + timedelta(hours=2)) == 0


def test_what_died_half_way_goes_on_and_repeats_nothing(
    people: dict[str, Actor], many: list[Contract]
) -> None:
    plan = planned(people["operator"])
    bulk.advance_bulk(at=MARCH, seconds=0)
    assert bulk.progress(plan)["waiting"] == 4
    bulk.advance_bulk(at=MARCH)
    bulk.confirm_bulk(plan=plan, actor=people["operator"], at=MARCH)
    plan.refresh_from_db()
    assert bulk._run_next(plan, MARCH)
    assert bulk.progress(plan)["done"] == 1
    bulk.advance_bulk(at=MARCH)
    bulk.advance_bulk(at=MARCH)
    found = ContractEdit.objects.filter(operation="suspend", reason="Power works")
    assert sorted(found.values_list("contract__number", flat=True)) == ["B-001", "B-101"]


def test_a_stopped_plan_changes_no_further_contract(people: dict[str, Actor], many: list[Contract]) -> None:
    plan = planned(people["operator"])
    bulk.advance_bulk(at=MARCH)
    plan = bulk.confirm_bulk(plan=plan, actor=people["operator"], at=MARCH)
    bulk._run_next(plan, MARCH)
    bulk.cancel_bulk(plan=plan, actor=people["operator"], at=MARCH, reason="Enough")
    assert not bulk._run_next(plan, MARCH)
    assert bulk.advance_bulk(at=MARCH) == 0
    assert bulk.progress(plan)["done"] == 1


def test_many_contracts_are_changed_by_two_people(
    people: dict[str, Actor], many: list[Contract], settings: Any
) -> None:
    settings.BULK_APPROVAL_LIMIT = 1
    plan = planned(people["operator"])
    bulk.advance_bulk(at=MARCH)
    plan = bulk.confirm_bulk(plan=plan, actor=people["operator"], at=MARCH)
    assert plan.status == "needs_approval"
    before = edits()
    assert bulk.advance_bulk(at=MARCH) == 0
    request = Approval.objects.get()
    with pytest.raises(PermissionDenied):
        approvals.approve(approval=request, actor=people["operator"], at=MARCH)
    assert edits() == before
    approvals.approve(approval=request, actor=people["approver"], at=MARCH, reason="Checked")
    bulk.advance_bulk(at=MARCH)
    assert edits() == before + 2
    row = ContractEdit.objects.filter(reason="Power works").first()
    assert row is not None
    assert (row.actor_label, row.requested_by) == ("approver", str(people["operator"]))


def one_of(people: dict[str, Actor], contract: Contract, **given: Any) -> BulkPlan:
    """A previewed plan of the operator's, over one contract."""
    plan = planned(people["operator"], chosen=Chosen(numbers=(contract.number,)), **given)
    bulk.advance_bulk(at=MARCH)
    plan.refresh_from_db()
    return plan


def test_a_change_split_over_several_plans_is_changed_by_two_people(
    people: dict[str, Actor], many: list[Contract], settings: Any
) -> None:
    settings.BULK_APPROVAL_LIMIT = 1
    maker = people["operator"]
    first, second = (one_of(people, contract) for contract in many[:2])
    assert bulk.confirm_bulk(plan=first, actor=maker, at=MARCH).status == "running"
    waiting = bulk.confirm_bulk(plan=second, actor=maker, at=MARCH + timedelta(hours=23))
    assert waiting.status == "needs_approval"
    assert "2 contracts" in Approval.objects.get().arguments["why"]
    before = edits()
    bulk.advance_bulk(at=MARCH)
    assert edits() == before + 1, "the first runs, the second waits"
    again = one_of(people, many[1], payload={"reason": "legal"})
    assert bulk.two_people(again, 1, MARCH + timedelta(hours=23)), "what has been done counts as well"
    assert not bulk.two_people(again, 1, MARCH + timedelta(hours=24))


def test_what_others_did_and_what_two_people_agreed_to_does_not_count(
    people: dict[str, Actor], many: list[Contract], settings: Any
) -> None:
    settings.BULK_APPROVAL_LIMIT = 1
    other = User.objects.create_user("other")
    other.groups.set(User.objects.get(username="operator").groups.all())
    theirs = planned(Actor.for_user(other), chosen=Chosen(numbers=("B-101",)))
    bulk.advance_bulk(at=MARCH)
    bulk.confirm_bulk(plan=theirs, actor=Actor.for_user(other), at=MARCH)
    agreed = planned(people["operator"], payload={"reason": "legal"})
    bulk.advance_bulk(at=MARCH)
    bulk.confirm_bulk(plan=agreed, actor=people["operator"], at=MARCH)
    approvals.approve(approval=Approval.objects.get(), actor=people["approver"], at=MARCH)
    mine = one_of(people, many[0])
    assert bulk.confirm_bulk(plan=mine, actor=people["operator"], at=MARCH).status == "running"


def test_the_same_contract_in_two_plans_is_one_contract_and_a_stopped_plan_none(
    people: dict[str, Actor], many: list[Contract], settings: Any
) -> None:
    settings.BULK_APPROVAL_LIMIT = 1
    maker = people["operator"]
    stopped = one_of(people, many[1])
    bulk.cancel_bulk(plan=bulk.confirm_bulk(plan=stopped, actor=maker, at=MARCH), actor=maker, at=MARCH)
    first = one_of(people, many[0])
    bulk.confirm_bulk(plan=first, actor=maker, at=MARCH)
    bulk.advance_bulk(at=MARCH)
    again = one_of(people, many[0], operation="resume", payload={"reason": "maintenance"})
    assert bulk.confirm_bulk(plan=again, actor=maker, at=MARCH).status == "running"


def test_a_plan_to_which_nobody_agreed_may_be_asked_for_again(
    people: dict[str, Actor], many: list[Contract], settings: Any
) -> None:
    settings.BULK_APPROVAL_LIMIT = 1
    maker = people["operator"]
    plan = planned(maker)
    bulk.advance_bulk(at=MARCH)
    plan = bulk.confirm_bulk(plan=plan, actor=maker, at=MARCH)
    with pytest.raises(StateConflict):
        bulk.confirm_bulk(plan=plan, actor=maker, at=MARCH)
    approvals.reject(approval=Approval.objects.get(), actor=people["approver"], at=MARCH, reason="Not now")
    plan = bulk.confirm_bulk(plan=plan, actor=maker, at=MARCH)
    later = MARCH + approvals.LIFETIME
    assert plan.approval is not None
    with pytest.raises(StateConflict):
        approvals.approve(approval=plan.approval, actor=people["approver"], at=later)
    plan = bulk.confirm_bulk(plan=plan, actor=maker, at=later)
    assert plan.status == "needs_approval"
    assert Approval.objects.count() == 3
    before = edits()
    approvals.approve(approval=Approval.objects.get(status="pending"), actor=people["approver"], at=later)
    bulk.advance_bulk(at=later)
    assert edits() == before + 2


def test_a_row_that_breaks_holds_up_no_other(people: dict[str, Actor], many: list[Contract]) -> None:
    """Whatever a contract does, the others of its plan and the other plans go on."""
    broken = Contract.objects.filter(pk=many[0].pk)
    whole = broken.get().state
    given = {"operation": "change_price", "payload": {"percent": "0.01"}, "product": "h100-server"}
    first, second = (planned(people["operator"], **given) for _ in range(2))
    broken.update(state={"lines": 3})
    bulk.advance_bulk(at=MARCH)
    for plan in (first, second):
        row = plan.rows.get(contract=many[0])
        assert (row.outcome, row.detail) == (
            "excluded",
            "It failed unexpectedly (AttributeError); the log says more.",
        )
    broken.update(state=whole)
    third = planned(people["operator"], **given)
    bulk.advance_bulk(at=MARCH)
    bulk.confirm_bulk(plan=third, actor=people["operator"], at=MARCH)
    approvals.approve(approval=Approval.objects.get(), actor=people["approver"], at=MARCH)
    broken.update(state={"lines": 3})
    bulk.advance_bulk(at=MARCH)
    third.refresh_from_db()
    assert third.status == "completed"
    assert bulk.progress(third)["failed"] == 1
    assert bulk.progress(third)["done"] > 0


@pytest.mark.django_db(transaction=True)
def test_a_contract_that_somebody_holds_waits_for_the_next_tick(
    people: dict[str, Actor], many: list[Contract]
) -> None:
    held = planned(people["operator"], chosen=Chosen(numbers=(many[0].number,)))
    free = planned(people["operator"], chosen=Chosen(numbers=(many[1].number,)))
    other = connection.copy()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '50ms'")
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("SELECT 1 FROM contracts_contract WHERE id = %s FOR UPDATE", [many[0].pk])
        bulk.advance_bulk(at=MARCH)
        assert bulk.progress(held)["waiting"] == 1
        assert bulk.progress(free)["ready"] == 1
    finally:
        other.rollback()
        other.close()
        connection.close()
    bulk.advance_bulk(at=MARCH)
    assert bulk.progress(held)["ready"] == 1


def test_an_operation_on_lines_is_for_every_line_of_the_product(
    people: dict[str, Actor], many: list[Contract]
) -> None:
    plan = planned(
        people["operator"], operation="change_price", product="h100-burst",
        payload={"percent": "-0.1", "when": "effective"},
    )  # fmt: skip
    bulk.advance_bulk(at=MARCH)
    rows = plan.rows.select_related("contract").order_by("contract__number")
    assert [row.outcome for row in rows][:1] == ["ready"], rows[0].detail
    asked = bulk.requests_for(plan, many[0])
    burst = [line for line in many[0].current.live_lines if line.product_code == "h100-burst"]
    assert [request.payload["line_id"] for request in asked] == [str(line.line_id) for line in burst]  # type: ignore[call-overload]
    nothing = planned(
        people["operator"], operation="change_price", product="b200", payload={"percent": "-0.1"}
    )
    bulk.advance_bulk(at=MARCH)
    assert bulk.progress(nothing)["excluded"] == 4


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"operation": "add_product"}, "unknown_operation"),
        ({"reason": " "}, "reason_required"),
        ({"chosen": Chosen()}, "nothing_chosen"),
        ({"chosen": Chosen(numbers=("B-001", "Z-9"))}, "unknown_contract"),
        ({"chosen": Chosen(status="cancelled")}, "nothing_chosen"),
    ],
)
def test_a_plan_that_makes_no_sense_is_not_stored(
    given: dict[str, Any], code: str, people: dict[str, Actor], many: list[Contract]
) -> None:
    with pytest.raises(CommerceError) as refused:
        planned(people["operator"], **given)
    assert refused.value.code == code
    assert not BulkPlan.objects.exists()


HALF, NUL = "half \ud800", "nul \x00"


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"payload": {"reason": HALF}}, "/payload/reason"),
        ({"payload": {"reason": "maintenance", "colour": "red"}}, "/payload/colour"),
        ({"payload": {}}, "/payload/reason"),
        ({"operation": "change_terms", "payload": {"references": {"notes": HALF}}},
         "/payload/references/notes"),
        ({"operation": "change_terms", "payload": {"references": {"notes": NUL}}},
         "/payload/references/notes"),
        ({"operation": "change_terms", "payload": {"references": {"labels": [NUL]}}},
         "/payload/references/labels/0"),
        ({"operation": "change_price", "payload": {"percent": "much"}}, "/payload/percent"),
        ({"reason": HALF}, "/reason"),
        ({"reason": NUL}, "/reason"),
        ({"reason": "x" * 501}, "/reason"),
        ({"product": HALF}, "/product"),
        ({"product": NUL}, "/product"),
        ({"product": "x" * 61}, "/product"),
        ({"chosen": Chosen(numbers=("B-001", HALF))}, "/numbers"),
        ({"chosen": Chosen(numbers=(NUL,))}, "/numbers"),
        ({"chosen": Chosen(status=NUL)}, "/status"),
        ({"chosen": Chosen(currency=HALF)}, "/currency"),
    ],
)  # fmt: skip
def test_what_no_contract_could_be_asked_for_is_refused_at_its_field_and_not_stored(
    given: dict[str, Any], pointer: str, people: dict[str, Actor], many: list[Contract]
) -> None:
    with pytest.raises(InvalidInput) as refused:
        planned(people["operator"], **given)
    assert [error.pointer for error in refused.value.errors] == [pointer]
    assert not BulkPlan.objects.exists()


@pytest.mark.parametrize("field", ["payload.references.notes", "product", "reason", "numbers"])
@pytest.mark.parametrize("text", [NUL, b"half \xed\xa0\x80"])
def test_what_is_no_text_is_refused_on_the_form_or_is_made_text(
    field: str, text: Any, browser: Callable[[str], Client], many: list[Contract]
) -> None:
    """Bytes that are not UTF-8 come in as marks of replacement: what a form holds is always text."""
    new = reverse("admin:contracts_bulkplan_new") + "?operation=change_terms"
    given = {"numbers": "B-001", "payload.references.notes": "x", "reason": "Agreed", field: text}
    answer = browser("operator").post(new, urlencode(given), "application/x-www-form-urlencoded")
    if text == NUL or field == "numbers":
        assert answer.status_code == 422
        assert not BulkPlan.objects.exists()
    else:
        assert answer.status_code == 302
        plan = BulkPlan.objects.get()
        assert "\ufffd" in f"{plan.payload} {plan.product} {plan.reason}"


def test_a_plan_is_stored_as_it_was_asked_for(people: dict[str, Actor], many: list[Contract]) -> None:
    plan = planned(people["operator"], operation="change_price", payload={"percent": "-0.1"})
    plan.refresh_from_db()
    assert plan.payload == {"percent": "-0.1"}, "the line is each contract's own"


def test_only_people_with_the_permission_plan_and_run(people: dict[str, Actor], many: list[Contract]) -> None:
    for actor in (people["viewer"], people["approver"], Actor.system("script")):
        with pytest.raises(PermissionDenied):
            planned(actor)
    plan = planned(people["operator"])
    bulk.advance_bulk(at=MARCH)
    with pytest.raises(PermissionDenied):
        bulk.confirm_bulk(plan=plan, actor=people["viewer"], at=MARCH)
    assert edits() == 1


def test_from_the_console_a_plan_is_made_seen_and_confirmed(
    browser: Callable[[str], Client], many: list[Contract]
) -> None:
    operator = browser("operator")
    new = reverse("admin:contracts_bulkplan_new")
    assert "operation=terminate" in operator.get(f"{new}?status__exact=active").content.decode()
    form = f"{new}?operation=suspend"
    entered = {
        "payload.reason": "abuse",
        "payload.billing": "stop",
        "payload.access": "block",
        "status": "active",
    }
    assert operator.post(form, entered).status_code == 422
    made = operator.post(form, {**entered, "reason": "Power works"})
    assert made.status_code == 302, made.content.decode()
    page = made["Location"]
    seen = operator.get(page)
    assert seen["Refresh"] == "2"
    assert "0 of 2 previewed" in seen.content.decode()
    bulk.advance_bulk(at=MARCH)
    text = operator.get(page).content.decode()
    assert "72,000.00" in text
    assert many[0].number in text
    confirm = page.replace("/change/", "/do/confirm/")
    asked = operator.get(confirm).content.decode()
    assert "2 contracts are changed, 0 are left out" in asked
    fingerprint = asked.partition('name="fingerprint" value="')[2].partition('"')[0]
    assert operator.post(confirm, {"reason": "Yes", "fingerprint": fingerprint}).status_code == 302
    bulk.advance_bulk(at=MARCH)
    text = operator.get(f"{page}?outcome=done").content.decode()
    assert "edit #5" in text
    assert operator.get(f"{page}?after={'x' * 36}").status_code == 200
    assert browser("viewer").get(new).status_code == 403
    with pytest.raises(InvalidInput):
        planned(Actor.for_user(User.objects.get(username="operator")), chosen=Chosen())


def test_the_command_shows_plans_and_carries_on_with_them(
    people: dict[str, Actor], many: list[Contract], clock: Any, capsys: Any
) -> None:
    plan = planned(people["operator"])
    call_command("contracts_bulk", "run")
    plan.refresh_from_db()
    assert plan.status == "ready"
    capsys.readouterr()
    call_command("contracts_bulk", "--json", "show", str(plan.pk))
    shown = json.loads(capsys.readouterr().out)
    assert shown["rows"]["excluded"] == 2
    assert {row["contract"] for row in shown["remarks"]} == {"B-201", "B-301"}
    call_command("contracts_bulk", "list", "--status", "ready")
    assert str(plan.pk) in capsys.readouterr().out
    assert edits() == 1
