"""Payment orders, returns and incoming payments: every state, in order, and no step that is not allowed."""

import time

import pytest

from tests.sandbox.conftest import INTERNAL_ACCOUNT


def status(sandbox, order):
    return sandbox.mt.get(f"/payment_orders/{order['id']}").json()["status"]


def events(sandbox, order):
    rows = sandbox.mt.get("/events", params={"entity_id": order["id"], "per_page": 100}).json()
    return [row["event_name"] for row in reversed(rows)]


def test_a_payment_order_walks_to_completed(sandbox, pay):
    order = pay()
    assert order["status"] == "approved"
    assert (order["subtype"], order["effective_date"], order["object"]) == (
        "CCD",
        "2027-03-01",
        "payment_order",
    )
    sandbox.settle()
    walk = ["created", "approved", "begin_processing", "finish_processing", "completed", "reconciled"]
    assert events(sandbox, order) == walk
    final = sandbox.mt.get(f"/payment_orders/{order['id']}").json()
    assert (final["status"], final["reconciliation_status"]) == ("completed", "reconciled")
    [transaction] = [sandbox.mt.get(f"/transactions/{one}").json() for one in final["transaction_ids"]]
    assert (transaction["direction"], transaction["amount"]) == ("debit", 3167500)


def test_it_walks_by_itself_in_a_fraction_of_a_second(sandbox, pay):
    order = pay()
    deadline = time.monotonic() + 3
    while status(sandbox, order) != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_100XX_is_returned_days_later_by_the_test_clock(sandbox, pay):
    order = pay("10003")
    sandbox.settle()
    assert status(sandbox, order) == "completed"
    sandbox.at("2027-03-02T23:59:59Z")
    assert status(sandbox, order) == "completed"
    sandbox.at("2027-03-03T00:00:00Z")
    returned = sandbox.mt.get(f"/payment_orders/{order['id']}").json()
    assert returned["status"] == "returned"
    assert (returned["current_return"]["code"], returned["current_return"]["amount"]) == ("R03", 3167500)
    [one] = sandbox.mt.get("/returns", params={"returnable_id": order["id"]}).json()
    assert (one["status"], one["role"], one["returnable_type"]) == ("completed", "receiving", "payment_order")


def test_a_weekend_is_no_business_day(sandbox, pay):
    sandbox.at("2027-03-05T10:00:00Z")  # a Friday
    order = pay("10001")
    sandbox.settle()
    sandbox.at("2027-03-09T09:59:59Z")
    assert status(sandbox, order) == "completed"
    sandbox.at("2027-03-09T10:00:00Z")
    assert status(sandbox, order) == "returned"


def test_11111111X_fails_and_never_completes(sandbox, pay):
    order = pay("111111110")
    sandbox.settle()
    sandbox.at("2027-03-20T00:00:00Z")
    assert events(sandbox, order) == ["created", "approved", "begin_processing", "failed"]
    final = sandbox.mt.get(f"/payment_orders/{order['id']}").json()
    assert final["status"] == "failed"
    assert final["vendor_failure_reason"]
    assert final["transaction_ids"] == []


def test_process_after_holds_it_back_and_then_it_may_still_be_cancelled(sandbox, pay):
    order = pay(process_after="2027-03-02T00:00:00Z")
    sandbox.settle()
    assert status(sandbox, order) == "approved"
    cancelled = sandbox.mt.patch(f"/payment_orders/{order['id']}", json={"status": "cancelled"})
    assert cancelled.json()["status"] == "cancelled"
    sandbox.at("2027-03-03T00:00:00Z")
    assert status(sandbox, order) == "cancelled"


def test_what_is_under_way_cannot_be_cancelled(sandbox, pay):
    order = pay()
    sandbox.settle()
    answer = sandbox.mt.patch(f"/payment_orders/{order['id']}", json={"status": "cancelled"})
    assert (answer.status_code, answer.json()["errors"]["parameter"]) == (422, "status")
    assert status(sandbox, order) == "completed"


def test_a_protected_field_is_ignored_with_200(sandbox, pay):
    order = pay(process_after="2027-03-02T00:00:00Z")
    path = f"/payment_orders/{order['id']}"
    answer = sandbox.mt.patch(path, json={"amount": 1, "metadata": {"note": "x"}})
    assert (answer.status_code, answer.json()["amount"]) == (200, 3167500)
    assert answer.json()["metadata"] == {"payout_id": "1", "note": "x"}
    sandbox.mt.patch(path, json={"status": "needs_approval"})
    assert sandbox.mt.patch(path, json={"amount": 1}).json()["amount"] == 1


def test_accidents_by_the_control_api_follow_the_same_rules(sandbox, pay):
    order = pay(process_after="2027-03-02T00:00:00Z")
    path = f"/modern-treasury/payment-orders/{order['external_id']}"
    assert sandbox.control.post(f"{path}/return", json={"code": "R02"}).status_code == 409
    assert sandbox.control.post(f"{path}/fail").json()["status"] == "failed"
    assert sandbox.control.post(f"{path}/fail").status_code == 409
    sandbox.settle()
    sandbox.at("2027-03-03T00:00:00Z")
    assert status(sandbox, order) == "failed"
    assert sandbox.control.post("/modern-treasury/payment-orders/none/fail").status_code == 404


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        ({"amount": 10.5}, "amount"),
        ({"amount": "10"}, "amount"),
        ({"amount": True}, "amount"),
        ({"amount": 0}, "amount"),
        ({"amount": -5}, "amount"),
        ({"type": "carrier_pigeon"}, "type"),
        ({"direction": "sideways"}, "direction"),
        ({"type": "wire", "direction": "debit"}, "direction"),
        ({"currency": "EUR"}, "currency"),
        ({"effective_date": "tomorrow"}, "effective_date"),
        ({"originating_account_id": "none"}, "originating_account_id"),
        ({"receiving_account_id": "none"}, "receiving_account_id"),
        ({"receiving_account_id": None}, "receiving_account_id"),
        ({"metadata": {"n": 1}}, "metadata"),
    ],
)
def test_a_refused_payment_order_pays_nobody(sandbox, payee, change, parameter):
    body = {
        "type": "ach",
        "amount": 100,
        "direction": "credit",
        "originating_account_id": INTERNAL_ACCOUNT,
        "receiving_account_id": payee(),
        **change,
    }
    answer = sandbox.mt.post("/payment_orders", json=body)
    assert (answer.status_code, answer.json()["errors"]["parameter"]) == (422, parameter)
    assert sandbox.effects()["modern_treasury"]["payment_order"] == []


def test_orders_are_found_by_reference(sandbox, pay):
    order, other = pay(), pay("10001", external_id="payout_2_a1", metadata={"payout_id": "2"})
    for params in ({"external_id": "payout_1_a1"}, {"metadata[payout_id]": "1"}):
        assert [row["id"] for row in sandbox.mt.get("/payment_orders", params=params).json()] == [order["id"]]
    listed = sandbox.mt.get("/payment_orders", params={"created_at_start": "2027-03-01"}).json()
    assert [row["id"] for row in listed] == [other["id"], order["id"]]
    assert sandbox.effects()["counts"]["modern_treasury.payment_order"] == {
        "payout_1_a1": 1,
        "payout_2_a1": 1,
    }


def test_a_second_payment_with_the_same_reference_is_a_second_payment_and_can_be_counted(sandbox, payee):
    body = {"type": "ach", "amount": 5, "direction": "credit", "external_id": "payout_1_a1"}
    body |= {"originating_account_id": INTERNAL_ACCOUNT, "receiving_account_id": payee()}
    for key in ("one", "two"):
        answer = sandbox.mt.post("/payment_orders", json=body, headers={"Idempotency-Key": key})
        assert answer.status_code == 201
    assert sandbox.effects()["counts"]["modern_treasury.payment_order"] == {"payout_1_a1": 2}


@pytest.fixture
def virtual_account(sandbox):
    body = {"name": "Acme", "internal_account_id": INTERNAL_ACCOUNT}
    return sandbox.mt.post("/virtual_accounts", json=body).json()["id"]


def arrive(sandbox, **body):
    return sandbox.mt.post(
        "/simulations/incoming_payment_details/create_async", json={"type": "wire", **body}
    )


def test_an_incoming_payment_is_pending_and_then_completed_once(sandbox, virtual_account):
    answer = arrive(
        sandbox, amount=15000000, currency="USD", direction="credit", virtual_account_id=virtual_account
    )
    assert answer.status_code == 202
    assert set(answer.json()) == {"id", "object"}
    path = f"/incoming_payment_details/{answer.json()['id']}"
    sandbox.settle()
    paid = sandbox.mt.get(path).json()
    assert (paid["status"], paid["amount"], paid["virtual_account_id"]) == (
        "completed",
        15000000,
        virtual_account,
    )
    assert paid["internal_account_id"] == INTERNAL_ACCOUNT
    assert sandbox.mt.get(f"/transactions/{paid['transaction_id']}").json()["posted"] is True
    assert events(sandbox, paid) == ["created", "completed", "reconciled"]
    found = sandbox.mt.get("/incoming_payment_details", params={"virtual_account_id": virtual_account}).json()
    assert [row["id"] for row in found] == [paid["id"]]


def test_we_can_send_an_incoming_payment_back_once(sandbox, virtual_account):
    incoming = arrive(sandbox, amount=500, virtual_account_id=virtual_account).json()["id"]
    sandbox.settle()
    body = {"returnable_id": incoming, "returnable_type": "incoming_payment_detail", "code": "R23"}
    assert sandbox.mt.post("/returns", json=body).json()["role"] == "originating"
    assert sandbox.mt.get(f"/incoming_payment_details/{incoming}").json()["status"] == "returned"
    assert sandbox.mt.post("/returns", json=body).status_code == 422


def test_money_needs_somewhere_to_arrive(sandbox):
    assert arrive(sandbox, amount=1).json()["errors"]["parameter"] == "internal_account_id"
    assert (
        arrive(sandbox, amount=1, virtual_account_id="none").json()["errors"]["parameter"]
        == "virtual_account_id"
    )
    assert arrive(sandbox, amount=1.5, internal_account_id=INTERNAL_ACCOUNT).status_code == 422
    assert sandbox.effects()["modern_treasury"]["incoming_payment_detail"] == []
