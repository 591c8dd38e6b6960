"""OpenMeter's subscriptions and catalogue: what is refused, with which code, and what then did not happen."""

import pytest

from tests.sandbox.conftest import BURST, FLAT, PLAN, START


def post(sandbox, subscription, action, body=None):
    return sandbox.om.post(f"/subscriptions/{subscription['id']}/{action}", json=body)


def get(sandbox, subscription):
    return sandbox.om.get(f"/subscriptions/{subscription['id']}").json()


def test_status_is_computed_from_the_clock(sandbox, billed):
    subscription = billed()
    assert subscription["status"] == "active"
    canceled = post(sandbox, subscription, "cancel", {"timing": "next_billing_cycle"}).json()
    assert (canceled["status"], canceled["activeTo"]) == ("canceled", "2027-04-01T00:00:00Z")
    sandbox.at("2027-04-01T00:00:00Z")
    assert get(sandbox, subscription)["status"] == "inactive"


def test_a_canceled_subscription_can_be_kept_and_is_then_billed_on(sandbox, billed, invoices):
    subscription = billed()
    post(sandbox, subscription, "cancel", {"timing": "2027-05-01T00:00:00Z"})
    assert post(sandbox, subscription, "cancel", {"timing": "immediate"}).status_code == 403
    kept = post(sandbox, subscription, "unschedule-cancelation")
    assert kept.json()["status"] == "active"
    assert "activeTo" not in kept.json()
    sandbox.at("2027-06-02T00:00:00Z")
    assert len(invoices()) == 3


def test_an_illegal_transition_is_403_and_changes_nothing(sandbox, billed):
    subscription = billed()
    assert post(sandbox, subscription, "unschedule-cancelation").status_code == 403
    answer = sandbox.om.delete(f"/subscriptions/{subscription['id']}")
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert "transition delete in state active not allowed" in answer.json()["detail"]
    assert get(sandbox, subscription)["status"] == "active"


def test_a_cancel_date_must_be_a_boundary_and_the_body_must_be_there(sandbox, billed):
    subscription = billed()
    assert post(sandbox, subscription, "cancel", {"timing": "2027-03-15T00:00:00Z"}).status_code == 400
    assert post(sandbox, subscription, "cancel").status_code == 400
    assert get(sandbox, subscription)["status"] == "active"


def test_one_subscription_per_customer(sandbox, billed):
    billed()
    body = {"customerKey": "acme", "timing": "immediate", "customPlan": PLAN}
    answer = sandbox.om.post("/subscriptions", json=body)
    assert answer.status_code == 409
    [issue] = answer.json()["extensions"]["validationErrors"]
    assert issue["code"] == "only_single_subscription_allowed_per_customer_at_a_time"
    assert len(sandbox.effects()["openmeter"]["subscription"]) == 1


@pytest.mark.parametrize(
    ("timing", "status"),
    [
        ("2027-02-28T23:58:00Z", 201),
        ("2027-02-28T23:57:59Z", 400),
        ("2027-03-02T00:00:00Z", 201),
        ("immediate", 201),
        ("next_billing_cycle", 400),
        ("2027-03-02T00:00:00", 400),
        ("soon", 400),
    ],
)
def test_when_a_subscription_may_start(sandbox, billed, timing, status):
    body = {"customerKey": "acme", "timing": timing, "billingAnchor": START, "customPlan": PLAN}
    assert sandbox.om.post("/subscriptions", json=body).status_code == status


def test_a_scheduled_subscription_can_only_be_deleted(sandbox, billed):
    body = {"customerKey": "acme", "timing": "2027-03-10T00:00:00Z", "customPlan": PLAN}
    scheduled = sandbox.om.post("/subscriptions", json=body).json()
    assert scheduled["status"] == "scheduled"
    assert post(sandbox, scheduled, "cancel", {"timing": "immediate"}).status_code == 403
    assert sandbox.om.delete(f"/subscriptions/{scheduled['id']}").status_code == 204
    assert sandbox.om.get(f"/subscriptions/{scheduled['id']}").status_code == 404


def edit(sandbox, subscription, *operations, timing="immediate"):
    body = {"timing": timing, "customizations": list(operations)}
    return sandbox.om.patch(f"/subscriptions/{subscription['id']}", json=body)


def test_an_edit_closes_one_version_of_an_item_and_opens_another(sandbox, billed):
    subscription = billed()
    sandbox.at("2027-03-11T00:00:00Z")
    remove = {"op": "remove_item", "phaseKey": "default", "itemKey": "h100"}
    dearer = {**FLAT, "price": {**FLAT["price"], "amount": "54000"}}
    add = {"op": "add_item", "phaseKey": "default", "rateCard": dearer}
    assert edit(sandbox, subscription, remove, add).status_code == 200
    [phase] = get(sandbox, subscription)["phases"]
    [before, after] = phase["itemTimelines"]["h100"]
    assert before["activeTo"] == after["activeFrom"] == "2027-03-11T00:00:00Z"
    assert [item["price"]["amount"] for item in phase["items"]] == ["54000", "2.00"]


def test_an_edit_for_the_next_cycle_waits_for_it(sandbox, billed):
    subscription = billed()
    remove = {"op": "remove_item", "phaseKey": "default", "itemKey": "h100"}
    edit(sandbox, subscription, remove, timing="next_billing_cycle")
    keys = [item["key"] for item in get(sandbox, subscription)["phases"][0]["items"]]
    assert keys == ["h100", "burst"]
    sandbox.at("2027-04-01T00:00:00Z")
    assert [item["key"] for item in get(sandbox, subscription)["phases"][0]["items"]] == ["burst"]


@pytest.mark.parametrize(
    ("operation", "timing", "status"),
    [
        ({"op": "add_item", "phaseKey": "default", "rateCard": FLAT}, "immediate", 409),
        ({"op": "remove_item", "phaseKey": "default", "itemKey": "none"}, "immediate", 400),
        ({"op": "remove_item", "phaseKey": "none", "itemKey": "h100"}, "immediate", 400),
        ({"op": "remove_item", "phaseKey": "default", "itemKey": "h100"}, "2027-04-01T00:00:00Z", 400),
        ({"op": "paint_item"}, "immediate", 400),
    ],
)
def test_a_refused_edit_leaves_the_subscription_as_it_was(sandbox, billed, operation, timing, status):
    subscription = billed()
    before = get(sandbox, subscription)
    remove = {"op": "remove_item", "phaseKey": "default", "itemKey": "burst"}
    assert edit(sandbox, subscription, remove, operation, timing=timing).status_code == status
    assert get(sandbox, subscription) == before


def test_change_gives_a_new_subscription_at_the_same_instant(sandbox, billed, invoices):
    subscription = billed()
    plan = {**PLAN, "metadata": {"contract_id": "C-1", "version": "2"}}
    answer = post(
        sandbox, subscription, "change", {"timing": "next_billing_cycle", "customPlan": plan}
    ).json()
    assert answer["next"]["id"] != subscription["id"]
    assert answer["current"]["activeTo"] == answer["next"]["activeFrom"] == "2027-04-01T00:00:00Z"
    sandbox.at("2027-05-02T00:00:00Z")
    assert [len(invoice["lines"]) for invoice in invoices()] == [2, 2]


@pytest.mark.parametrize(
    "card",
    [
        {**FLAT, "key": "with-dash"},
        {**FLAT, "price": {"type": "flat", "amount": 36000}},
        {**FLAT, "price": {"type": "flat", "amount": "-1"}},
        {**FLAT, "price": {"type": "bargain", "amount": "1"}},
        {**FLAT, "type": "rental"},
        {**FLAT, "featureKey": "other"},
        {**BURST, "key": "unmetered", "featureKey": "unmetered"},
        {name: value for name, value in FLAT.items() if name != "billingCadence"},
        {**FLAT, "billingCadence": "P1Y"},
        {**FLAT, "discounts": {"percentage": {"percentage": 120}}},
        {**BURST, "price": {"type": "unit", "amount": "1", "minimumAmount": "some"}},
    ],
)
def test_a_bad_rate_card_creates_nothing(sandbox, billed, card):
    sandbox.om.post("/features", json={"key": "unmetered", "name": "No meter"})
    phases = [{"key": "default", "name": "Default", "duration": None, "rateCards": [card]}]
    body = {"customerKey": "acme", "timing": "immediate", "customPlan": {**PLAN, "phases": phases}}
    assert sandbox.om.post("/subscriptions", json=body).status_code == 400
    assert sandbox.effects()["openmeter"]["subscription"] == []


def test_currency_and_customer_must_fit(sandbox, billed):
    plan = {**PLAN, "currency": "EUR"}
    euros = {"customerKey": "acme", "timing": "immediate", "customPlan": plan}
    assert sandbox.om.post("/subscriptions", json=euros).status_code == 400
    nobody = {"customerKey": "nobody", "timing": "immediate", "customPlan": PLAN}
    assert sandbox.om.post("/subscriptions", json=nobody).status_code == 404


def test_a_customers_put_clears_what_it_leaves_out(sandbox):
    full = {"name": "Acme", "key": "acme", "currency": "USD", "metadata": {"a": "1"}, "description": "x"}
    created = sandbox.om.post("/customers", json=full).json()
    assert sandbox.om.post("/customers", json=full).status_code == 409
    changed = sandbox.om.put("/customers/acme", json={"name": "Acme Ltd", "key": "acme"}).json()
    assert (changed["id"], changed["currency"], changed["name"]) == (created["id"], "USD", "Acme Ltd")
    assert not {"metadata", "description"} & set(changed)


def test_a_key_may_hold_any_character(sandbox):
    assert sandbox.om.post("/customers", json={"name": "A", "key": "a/b c"}).status_code == 201
    assert sandbox.om.get("/customers/a%2Fb%20c").json()["key"] == "a/b c"


def test_a_customer_in_use_cannot_be_deleted_and_a_deleted_one_is_412(sandbox, billed):
    subscription = billed()
    assert sandbox.om.delete("/customers/acme").status_code == 400
    idle = sandbox.om.post("/customers", json={"name": "Idle", "key": "idle"}).json()
    assert sandbox.om.delete("/customers/idle").status_code == 204
    assert sandbox.om.get(f"/customers/{idle['id']}").status_code == 412
    assert sandbox.om.get("/customers/idle").status_code == 404
    assert get(sandbox, subscription)["status"] == "active"


def test_the_profile_of_a_customer_can_be_seen_and_set(sandbox, billed):
    customer = sandbox.om.get("/customers/acme").json()["id"]
    answer = sandbox.om.get(f"/billing/customers/{customer}", params={"expand": "apps"}).json()
    assert answer["customerProfile"]["apps"]["invoicing"]["type"] == "custom_invoicing"
    [trap] = [row for row in sandbox.om.get("/billing/profiles").json()["items"] if not row["default"]]
    sandbox.om.put(f"/billing/customers/{customer}", json={"billingProfileId": trap["id"]})
    answer = sandbox.om.get(f"/billing/customers/{customer}", params={"expand": "apps"}).json()
    assert answer["customerProfile"]["apps"]["invoicing"]["type"] == "sandbox"


def test_authentication(sandbox):
    for headers in (
        {"Authorization": ""},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic token"},
    ):
        answer = sandbox.om.get("/customers", headers=headers)
        assert (answer.status_code, answer.json()["title"]) == (401, "Unauthorized")
