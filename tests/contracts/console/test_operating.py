"""Operations in the console: two steps, one form per payload, nothing recorded that nobody saw."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from commerce.actor import Actor
from commerce.console import approvals
from commerce.console.models import Approval
from contracts import services
from contracts.models import Contract, ContractEdit
from contracts.rules.operations import REGISTRY
from contracts.services import drafts
from tests.contracts.conftest import MARCH, edit
from tests.contracts.console.conftest import act, confirm, form_of, hidden, page, preview

pytestmark = pytest.mark.django_db
Browser = Callable[[str], Client]


def text_of(answer: Any) -> str:
    return answer.content.decode()


def test_a_contract_is_made_and_run_through_its_life_from_the_console(browser: Browser, parties: Any) -> None:
    operator = browser("operator")
    new = reverse("admin:contracts_contract_new")
    entered = {
        **hidden(operator.get(new)),
        "payload.buyer_id": "acme", "payload.currency": "USD", "payload.start_at": "2027-03-01T00:00:00",
        "payload.number": "C-77", "payload.term.kind": "fixed", "payload.term.months": "12",
        "payload.terms.tax.rate": "8.25", "payload.terms.settlement.fee_rate": "12.5", "reason": "Agreed",
    }  # fmt: skip
    made = operator.post(new, entered)
    assert made.status_code == 302, text_of(made)
    assert operator.post(new, entered).status_code == 302
    draft = Contract.objects.get()
    assert draft.current.terms.tax.rate == Decimal("0.0825")
    server = {"product": "h100-server", "seller_id": "northwind", "quantity": "2", "price.rate": "18000.50"}
    steps: list[tuple[str, dict[str, Any]]] = [
        ("add-product", {**server, "price.model": "unit"}),
        ("submit", {}),
        ("withdraw", {}),
        ("add-product", {**server, "seller_id": "southwind", "quantity": "1", "price.model": "unit"}),
        ("submit", {}),
        ("signed", {}),
        ("live", {}),
        ("suspend", {"reason": "abuse", "billing": "stop"}),
        ("resume", {"reason": "abuse"}),
        ("terminate", {"when": "end_of_period", "cause": "mutual"}),
    ]
    for name, data in steps:
        given = {f"payload.{key}": value for key, value in data.items()}
        answer = operator.get(form_of(draft, name))
        posted = {**hidden(answer), "reason": "Agreed by phone", **given, "step": "preview"}
        seen = operator.post(form_of(draft, name), posted)
        assert seen.status_code == 200, (name, text_of(seen))
        done = confirm(operator, draft, name, seen)
        assert done.status_code == 302, (name, text_of(done))
    draft.refresh_from_db()
    assert (draft.version, draft.status) == (11, "active")
    assert sorted(line.quantity for line in draft.current.live_lines) == [1, 2]
    assert draft.next_due_at is not None
    last = ContractEdit.objects.get(contract=draft, seq=11)
    assert (last.reason, last.actor_label, last.actor_type) == ("Agreed by phone", "operator", "user")
    assert LogEntry.objects.filter(object_id=str(draft.pk)).count() == 11


def test_a_preview_says_what_would_be_and_writes_nothing(
    browser: Browser, active: Contract, servers: UUID
) -> None:
    at = {"effective_at": "2027-03-16T12:00:00"}
    seen = preview(browser("operator"), active, "change-quantity", line_id=str(servers), quantity="5", **at)
    assert seen.status_code == 200
    text = text_of(seen)
    for said in ("Nothing has been written", "h100-server quantity", "16 Mar 2027", "36,000.00", "27,000.00"):
        assert said in text, said
    assert ContractEdit.objects.filter(contract=active).count() == 4
    active.refresh_from_db()
    assert active.current.lines[servers].quantity == 2


def test_what_was_seen_is_what_is_recorded(browser: Browser, active: Contract, servers: UUID) -> None:
    operator = browser("operator")
    data = {"line_id": str(servers), "quantity": "5", "effective_at": "2027-03-16T12:00:00"}
    found = services.preview_edit(
        contract_id=active.pk, operation="change_quantity",
        payload={"line_id": str(servers), "quantity": 5}, expected_version=4, actor=Actor.system("t"),
        at=MARCH, effective_at=MARCH + timedelta(days=15, hours=12), reason="x",
    )  # fmt: skip
    assert act(operator, active, "change-quantity", **data).status_code == 302
    recorded = ContractEdit.objects.get(contract=active, seq=5)
    assert recorded.effective_at == found.effective_at
    assert (recorded.payload["line_id"], recorded.payload["quantity"]) == (str(servers), 5)


def test_a_contract_that_changed_meanwhile_is_shown_again(
    browser: Browser, active: Contract, servers: UUID
) -> None:
    operator = browser("operator")
    seen = preview(operator, active, "change-quantity", line_id=str(servers), quantity="5")
    edit(active, "change_quantity", {"line_id": str(servers), "quantity": 3})
    again = confirm(operator, active, "change-quantity", seen)
    assert again.status_code == 409
    assert "has changed since you looked" in text_of(again)
    assert ContractEdit.objects.filter(contract=active).count() == 5
    assert confirm(operator, active, "change-quantity", again).status_code == 302
    active.refresh_from_db()
    assert active.current.lines[servers].quantity == 5


def test_a_confirmation_of_something_else_than_was_seen_is_not_recorded(
    browser: Browser, active: Contract, servers: UUID
) -> None:
    operator = browser("operator")
    seen = preview(operator, active, "change-quantity", line_id=str(servers), quantity="5")
    answer = confirm(operator, active, "change-quantity", seen, **{"payload.quantity": "50"})
    assert answer.status_code == 409
    assert ContractEdit.objects.filter(contract=active).count() == 4


def test_pressing_twice_records_once(browser: Browser, active: Contract, servers: UUID) -> None:
    operator = browser("operator")
    seen = preview(operator, active, "change-quantity", line_id=str(servers), quantity="5")
    for _ in range(2):
        assert confirm(operator, active, "change-quantity", seen).status_code == 302
    assert ContractEdit.objects.filter(contract=active).count() == 5


def test_a_refusal_stands_at_its_field(browser: Browser, active: Contract, servers: UUID) -> None:
    operator = browser("operator")
    none = preview(operator, active, "change-quantity", line_id=str(servers), quantity="2")
    assert (none.status_code, "Nothing would change." in text_of(none)) == (422, True)
    both = preview(operator, active, "change-quantity", line_id=str(servers), quantity="2", delta="1")
    field = text_of(both).partition('name="payload.quantity"')[2].partition("c-field")[0]
    assert "Give either quantity or delta." in field
    late = preview(
        operator, active, "change-quantity", line_id=str(servers), quantity="5",
        effective_at="2020-01-01T00:00:00",
    )  # fmt: skip
    assert late.status_code in (403, 422)
    assert "contract exists since" in text_of(late)
    empty = preview(operator, active, "change-quantity", line_id=str(servers), quantity="5", reason="")
    assert "This field is required." in text_of(empty)
    assert ContractEdit.objects.filter(contract=active).count() == 4


def test_a_viewer_sees_the_contract_and_can_do_nothing(browser: Browser, active: Contract) -> None:
    viewer = browser("viewer")
    text = text_of(viewer.get(page(active)))
    assert active.number in text
    assert "/do/" not in text
    for name in (
        *(name.replace("_", "-") for name in REGISTRY if name not in ("create", "activate")),
        "live",
    ):
        answers = (viewer.get(form_of(active, name)), viewer.post(form_of(active, name), {"step": "confirm"}))
        assert [answer.status_code for answer in answers] == [403, 403], name
    for path in ("batch", "new"):
        url = reverse(f"admin:contracts_contract_{path}", args=[active.pk] if path == "batch" else [])
        assert viewer.get(url).status_code == viewer.post(url, {"step": "confirm"}).status_code == 403
    assert ContractEdit.objects.filter(contract=active).count() == 4


def test_a_confirmation_without_its_token_is_refused(browser: Browser, active: Contract) -> None:
    operator = browser("operator")
    operator.handler.enforce_csrf_checks = True
    assert operator.post(form_of(active, "terminate"), {"step": "confirm"}).status_code == 403
    assert ContractEdit.objects.filter(contract=active).count() == 4


def test_every_operation_has_a_form_that_opens(browser: Browser, active: Contract) -> None:
    operator = browser("operator")
    for name in REGISTRY:
        if name in ("create", "activate"):
            continue
        answer = operator.get(form_of(active, name.replace("_", "-")))
        assert answer.status_code == 200, name
        assert "Preview" in text_of(answer)
    assert operator.get(form_of(active, "explode")).status_code == 404


def test_a_correction_begins_with_what_it_replaces_and_two_people_agree(
    browser: Browser, active: Contract, servers: UUID
) -> None:
    operator, approver = browser("operator"), browser("approver")
    edit(active, "change_quantity", {"line_id": str(servers), "quantity": 7})
    chosen = preview(operator, active, "correct", target_seq="5", mode="replace")
    text = text_of(chosen)
    assert 'value="7"' in text.partition('name="payload.replacement.payload.quantity"')[2].partition(">")[0]
    posted = {
        **hidden(chosen), "payload.target_seq": "5", "payload.mode": "replace",
        "payload.replacement.payload.line_id": str(servers), "payload.replacement.payload.quantity": "4",
        "reason": "Typed wrong", "step": "preview",
    }  # fmt: skip
    seen = operator.post(form_of(active, "correct"), posted)
    assert seen.status_code == 200
    assert "Two people must agree" in text_of(seen), text_of(seen)
    done = confirm(operator, active, "correct", seen)
    assert done.status_code == 302, text_of(done)
    active.refresh_from_db()
    assert active.current.lines[servers].quantity == 7
    request = Approval.objects.get()
    agreed = Actor.for_user(approver.get(page(active)).wsgi_request.user)
    approvals.approve(approval=request, actor=agreed, at=MARCH, reason="Right")
    active.refresh_from_db()
    assert active.current.lines[servers].quantity == 4
    assert active.version == 6


def test_a_batch_is_collected_ordered_seen_together_and_recorded_all_or_none(
    browser: Browser, active: Contract, servers: UUID
) -> None:
    operator = browser("operator")
    batch = reverse("admin:contracts_contract_batch", args=[active.pk])
    assert "kept for you until you record it" in text_of(operator.get(batch))
    burst = next(str(id_) for id_ in active.current.lines if id_ != servers)
    for name, data in (
        ("change-quantity", {"payload.line_id": str(servers), "payload.quantity": "9"}),
        ("remove-product", {"payload.line_id": burst, "payload.when": "immediate"}),
        ("suspend", {"payload.reason": "maintenance", "payload.billing": "continue"}),
    ):
        url = form_of(active, name)
        given = {**hidden(operator.get(url)), "reason": "Together", **data, "step": "batch"}
        assert operator.post(url, given).status_code == 302, name
    operator.post(batch, {"step": "up-2"})
    operator.post(batch, {"step": "remove-1"})
    mine = Actor.for_user(operator.get(batch).wsgi_request.user)
    collected = drafts.operations_of(contract=active, actor=mine)
    assert [asked.operation for asked in collected] == ["change_quantity", "remove_product"]
    assert drafts.size(contract=active, actor=Actor.system("somebody else")) == 0
    assert ContractEdit.objects.filter(contract=active).count() == 4
    seen = operator.get(batch)
    assert "What it would do" in text_of(seen)
    assert operator.post(batch, {**hidden(seen), "step": "confirm"}).status_code == 302
    rows = ContractEdit.objects.filter(contract=active, seq__gt=4).order_by("seq")
    assert [row.operation for row in rows] == ["change_quantity", "remove_product"]
    assert len({row.batch_id for row in rows}) == 1
    assert drafts.size(contract=active, actor=mine) == 0


def test_a_batch_with_one_bad_operation_says_which_and_records_none(
    browser: Browser, active: Contract, servers: UUID
) -> None:
    operator = browser("operator")
    mine = Actor.for_user(operator.get(page(active)).wsgi_request.user)
    good = {"line_id": str(servers), "quantity": 9}
    for operation, payload in (("change_quantity", good), ("resume", {"reason": "abuse"})):
        drafts.add(
            contract=active, request=services.OperationRequest(operation, payload, None, "x"), actor=mine
        )
    batch = reverse("admin:contracts_contract_batch", args=[active.pk])
    seen = operator.get(batch)
    assert "not suspended for abuse" in text_of(seen)
    assert "Confirm all" not in text_of(seen)
    forged = {"step": "confirm", "version": "4", "seen": "x", "key": "018f0000-0000-7000-8000-000000000000"}
    assert operator.post(batch, forged).status_code in (409, 422)
    assert ContractEdit.objects.filter(contract=active).count() == 4


def test_an_empty_batch_and_numbers_that_are_none_are_refused(
    browser: Callable[[str], Client], active: Contract
) -> None:
    operator = browser("operator")
    url = reverse("admin:contracts_contract_batch", args=[active.pk])
    empty = operator.post(url, {"step": "confirm", "version": str(active.version), "key": "a", "seen": ""})
    assert (empty.status_code, "1 to 50 operations" in text_of(empty)) == (422, True)
    huge = "9" * 5000
    for forged in ({"step": "confirm", "version": huge}, {"step": f"up-{huge}"}, {"step": f"remove-{huge}"}):
        assert operator.post(url, forged).status_code < 500
    assert ContractEdit.objects.filter(contract=active).count() == active.version
