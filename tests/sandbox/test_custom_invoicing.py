"""The invoice's way from our number to `paid`, and everything that is not allowed on it."""

import pytest

COLLECTED = "2027-04-01T01:00:00Z"
PENDING = "payment_processing.pending"


@pytest.fixture
def invoice(sandbox, billed, invoices):
    billed()
    sandbox.at(COLLECTED)
    return invoices()[0]["id"]


def state(sandbox, invoice):
    return sandbox.om.get(f"/billing/invoices/{invoice}").json()["statusDetails"]["extendedStatus"]


def synchronize(sandbox, invoice, number="2027-000001"):
    body = {"invoicing": {"invoiceNumber": number, "sentToCustomerAt": COLLECTED}}
    return sandbox.om.post(f"/apps/custom-invoicing/{invoice}/issuing/synchronized", json=body)


def trigger(sandbox, invoice, name):
    return sandbox.om.post(f"/apps/custom-invoicing/{invoice}/payment/status", json={"trigger": name})


def test_issuing_synchronized_gives_our_number_and_answers_200_with_the_invoice(sandbox, invoice):
    answer = synchronize(sandbox, invoice)
    assert answer.status_code == 200
    assert answer.json()["number"] == "2027-000001"
    assert answer.json()["statusDetails"] == {
        "extendedStatus": PENDING, "immutable": True, "failed": False, "availableActions": {},
    }  # fmt: skip
    again = synchronize(sandbox, invoice, "2027-000002")
    assert again.status_code == 400
    assert sandbox.om.get(f"/billing/invoices/{invoice}").json()["number"] == "2027-000001"
    assert sandbox.effects()["counts"]["openmeter.issuing_synchronized"] == {invoice: 1}


def test_paid_is_final_and_not_a_no_op_the_second_time(sandbox, invoice):
    synchronize(sandbox, invoice)
    assert trigger(sandbox, invoice, "paid").json()["status"] == "paid"
    for name in ("paid", "payment_failed", "void", "payment_overdue"):
        assert trigger(sandbox, invoice, name).status_code == 400
    assert state(sandbox, invoice) == "paid"
    assert sandbox.effects()["counts"]["openmeter.payment_status"] == {invoice: 1}


@pytest.mark.parametrize(
    ("path", "last", "status"),
    [
        (["payment_overdue"], "overdue", 200),
        (["payment_overdue", "paid"], "paid", 200),
        (["payment_overdue", "void"], "overdue", 400),
        (["payment_overdue", "payment_overdue"], "overdue", 400),
        (["payment_uncollectible", "void"], "voided", 200),
        (["payment_uncollectible", "payment_failed"], "uncollectible", 400),
        (["payment_failed", "paid"], "paid", 200),
        (["payment_failed", "payment_failed"], "payment_processing.failed", 400),
        (["action_required", "payment_failed"], "payment_processing.failed", 200),
        (["void", "paid"], "voided", 400),
        (["bribe"], PENDING, 400),
    ],
)
def test_the_table_of_triggers(sandbox, invoice, path, last, status):
    synchronize(sandbox, invoice)
    answers = [trigger(sandbox, invoice, name).status_code for name in path]
    assert answers[-1] == status
    assert state(sandbox, invoice) == last


def test_a_trigger_before_issuing_is_refused_except_for_the_unguarded_one(sandbox, invoice):
    assert trigger(sandbox, invoice, "paid").status_code == 400
    assert trigger(sandbox, invoice, "payment_failed").status_code == 200
    assert state(sandbox, invoice) == "issuing.failed"
    assert sandbox.om.post(f"/billing/invoices/{invoice}/retry").status_code == 200
    assert state(sandbox, invoice) == "issuing.syncing"


def test_void_over_the_billing_api_is_501_with_an_empty_body(sandbox, invoice):
    answer = sandbox.om.post(f"/billing/invoices/{invoice}/void")
    assert (answer.status_code, answer.content) == (501, b"")


def test_the_collection_wait_can_be_skipped_but_not_advanced(sandbox, billed, invoices):
    billed()
    sandbox.at("2027-04-01T00:00:00Z")
    invoice = invoices()[0]["id"]
    refused = sandbox.om.post(f"/billing/invoices/{invoice}/advance")
    assert (refused.status_code, refused.json()["extensions"]["code"]) == (400, "invoice_cannot_advance")
    assert sandbox.om.post(f"/billing/invoices/{invoice}/approve").status_code == 400
    taken = sandbox.om.post(f"/billing/invoices/{invoice}/snapshot-quantities")
    assert taken.json()["statusDetails"]["extendedStatus"] == "issuing.syncing"


def test_the_draft_hook_stops_the_draft(sandbox, billed, invoices):
    [app] = [row for row in sandbox.om.get("/apps").json()["items"] if row["type"] == "custom_invoicing"]
    hooks = {"enableDraftSyncHook": True, "enableIssuingSyncHook": True}
    body = {"type": "custom_invoicing", "name": "Commerce", **hooks}
    assert sandbox.om.put(f"/apps/{app['id']}", json=body).status_code == 200
    billed_by = sandbox.om.get("/billing/profiles", params={"expand": "apps"}).json()["items"]
    assert [row["apps"]["invoicing"]["id"] for row in billed_by if row["default"]] == [app["id"]]
    billed()
    sandbox.at(COLLECTED)
    [invoice] = invoices()
    assert invoice["statusDetails"]["extendedStatus"] == "draft.syncing"
    path = f"/apps/custom-invoicing/{invoice['id']}/draft/synchronized"
    assert sandbox.om.post(path, json={}).status_code == 400
    unknown = {"invoicing": {"lineExternalIds": [{"lineId": "none", "externalId": "x"}]}}
    assert sandbox.om.post(path, json=unknown).status_code == 400
    assert sandbox.om.post(path, json={"invoicing": {"externalId": "c1"}}).status_code == 200
    assert state(sandbox, invoice["id"]) == "issuing.syncing"


def test_invoices_are_listed_by_state_customer_and_last_change(sandbox, invoice, invoices):
    sandbox.at("2027-05-01T01:00:00Z")
    customer = sandbox.om.get("/customers/acme").json()["id"]
    synchronize(sandbox, invoice)
    newest_first = {"orderBy": "updatedAt", "order": "DESC", "statuses": ["issuing", "payment_processing"]}
    page = sandbox.om.get("/billing/invoices", params={**newest_first, "customers": customer}).json()
    assert (page["totalCount"], page["items"][0]["id"]) == (2, invoice)
    assert "lines" not in page["items"][0]
    one = sandbox.om.get("/billing/invoices", params={**newest_first, "page": 2, "pageSize": 1}).json()
    assert [row["id"] for row in one["items"]] != [invoice]
    for wrong in ({"statuses": "lost"}, {"orderBy": "mood"}, {"pageSize": "0"}, {"page": "x"}):
        assert sandbox.om.get("/billing/invoices", params=wrong).status_code == 400
    assert sandbox.om.get("/billing/invoices/01UNKNOWN").status_code == 404
