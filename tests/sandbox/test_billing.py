"""OpenMeter's billing: what a period costs, when its invoice moves, and what it never does twice."""

from decimal import Decimal

from tests.sandbox.conftest import BURST, FLAT

PERIOD_END, COLLECTED = "2027-04-01T00:00:00Z", "2027-04-01T01:00:00Z"
MONTH = Decimal(31 * 24)


def totals(invoice):
    return {line["name"]: Decimal(line["totals"]["total"]) for line in invoice["lines"]}


def state(invoice):
    return invoice["statusDetails"]["extendedStatus"]


def prorated(hours):
    return (36000 * Decimal(hours) / MONTH).quantize(Decimal("0.01"))


def test_the_worked_example_is_36_200_00(sandbox, billed, use, invoices):
    subscription = billed()
    use("u1", "60", "2027-03-10T00:00:00Z")
    use("u2", "40", "2027-03-31T23:59:59Z")
    use("u3", "7", "2027-04-01T00:00:00Z")
    use("u4", "9", "2027-03-10T00:00:00Z", line="L9")
    sandbox.at(COLLECTED)
    [invoice] = invoices()
    assert totals(invoice) == {"2 H100 servers": Decimal("36000"), "Burst hours": Decimal("200")}
    assert Decimal(invoice["totals"]["total"]) == Decimal("36200.00")
    assert state(invoice) == "issuing.syncing"
    for line in invoice["lines"]:
        assert line["period"] == {"from": "2027-03-01T00:00:00Z", "to": PERIOD_END}
        assert line["subscription"]["subscription"]["id"] == subscription["id"]


def test_nothing_is_invoiced_before_the_period_ends(sandbox, billed, use, invoices):
    billed()
    sandbox.at("2027-03-31T23:59:59Z")
    assert invoices() == []
    [staged] = sandbox.om.get("/billing/invoices", params={"statuses": "gathering"}).json()["items"]
    assert Decimal(staged["totals"]["total"]) == 36000


def test_the_invoice_waits_an_hour_for_late_usage_and_then_no_longer(sandbox, billed, use, invoices):
    billed()
    sandbox.at(PERIOD_END)
    [invoice] = invoices()
    assert state(invoice) == "draft.waiting_for_collection"
    assert invoice["collectionAt"] == COLLECTED
    use("late", "10", "2027-03-31T12:00:00Z")
    sandbox.at(COLLECTED)
    use("too-late", "10", "2027-03-31T12:00:00Z")
    sandbox.at("2027-04-02T00:00:00Z")
    [invoice] = invoices()
    assert totals(invoice)["Burst hours"] == 20
    assert invoice["quantitySnapshotedAt"] == COLLECTED
    assert invoice["dueAt"] == "2027-04-15T01:00:00Z"


def test_without_usage_there_is_nothing_to_wait_for(sandbox, billed, invoices):
    billed(phases=[{"key": "default", "name": "Default", "duration": None, "rateCards": [FLAT]}])
    sandbox.at(PERIOD_END)
    [invoice] = invoices()
    assert state(invoice) == "issuing.syncing"


def test_every_period_is_invoiced_once(sandbox, billed, invoices):
    billed()
    fired = sandbox.at("2027-07-01T12:00:00Z")
    assert [invoice["period"]["from"][:7] for invoice in invoices()] == [
        "2027-03",
        "2027-04",
        "2027-05",
        "2027-06",
    ]
    assert [row["at"] for row in fired] == sorted(row["at"] for row in fired)


def test_suspension_prorates_by_the_exact_time_served(sandbox, billed, invoices):
    subscription = billed()
    sandbox.at("2027-03-11T12:00:00Z")
    marker = {
        "type": "flat_fee",
        "key": "contract",
        "name": "Contract",
        "billingCadence": None,
        "price": None,
    }
    stop = [
        {"op": "add_item", "phaseKey": "default", "rateCard": marker},
        {"op": "remove_item", "phaseKey": "default", "itemKey": "h100"},
        {"op": "remove_item", "phaseKey": "default", "itemKey": "burst"},
    ]
    answer = sandbox.om.patch(f"/subscriptions/{subscription['id']}", json={"customizations": stop})
    assert answer.status_code == 200, answer.text
    sandbox.at("2027-03-21T00:00:00Z")
    resume = [{"op": "add_item", "phaseKey": "default", "rateCard": card} for card in (FLAT, BURST)]
    sandbox.om.patch(f"/subscriptions/{subscription['id']}", json={"customizations": resume})
    assert invoices() == []
    sandbox.at(COLLECTED)
    [invoice] = invoices()
    servers = [line for line in invoice["lines"] if line["name"] == "2 H100 servers"]
    assert [Decimal(line["totals"]["total"]) for line in servers] == [prorated(252), prorated(264)]
    assert [line["period"]["to"] for line in servers] == ["2027-03-11T12:00:00Z", PERIOD_END]


def test_usage_outside_an_items_interval_is_not_billed(sandbox, billed, use, invoices):
    subscription = billed()
    sandbox.at("2027-03-11T00:00:00Z")
    stop = [{"op": "remove_item", "phaseKey": "default", "itemKey": "burst"}]
    sandbox.om.patch(f"/subscriptions/{subscription['id']}", json={"customizations": stop})
    use("served", "5", "2027-03-10T23:59:59Z")
    use("stopped", "50", "2027-03-11T00:00:00Z")
    sandbox.at(COLLECTED)
    assert totals(invoices()[0])["Burst hours"] == 10


def test_an_immediate_cancel_cuts_the_final_invoice_for_the_part_served(sandbox, billed, invoices):
    subscription = billed()
    sandbox.at("2027-03-16T00:00:00Z")
    answer = sandbox.om.post(f"/subscriptions/{subscription['id']}/cancel", json={"timing": "immediate"})
    assert answer.json()["status"] == "inactive"
    sandbox.at("2027-05-02T00:00:00Z")
    [invoice] = invoices()
    assert totals(invoice)["2 H100 servers"] == prorated(360)
    assert invoice["period"]["to"] == "2027-03-16T00:00:00Z"


def test_a_subscription_that_starts_late_pays_its_first_period_in_part(sandbox, billed, invoices):
    sandbox.at("2027-03-21T00:00:00Z")
    body = {"customerKey": "acme", "timing": "2027-03-21T00:00:00Z", "billingAnchor": "2027-03-01T00:00:00Z"}
    phases = [{"key": "default", "name": "Default", "duration": None, "rateCards": [FLAT]}]
    plan = {"name": "C", "currency": "USD", "billingCadence": "P1M", "phases": phases}
    # The fixture sets OpenMeter up; its subscription is not wanted here.
    assert sandbox.om.post("/subscriptions", json={**body, "customPlan": plan}).status_code == 201
    sandbox.at(PERIOD_END)
    assert totals(invoices()[0]) == {"2 H100 servers": prorated(264)}


def test_an_advance_fee_is_invoiced_at_the_start_and_not_again_at_the_end(sandbox, billed, invoices):
    advance = {**FLAT, "price": {"type": "flat", "amount": "500", "paymentTerm": "in_advance"}}
    billed(phases=[{"key": "default", "name": "Default", "duration": None, "rateCards": [advance]}])
    sandbox.settle()
    assert [Decimal(invoice["totals"]["total"]) for invoice in invoices()] == [500]
    sandbox.at(PERIOD_END)
    assert [invoice["period"]["from"][:7] for invoice in invoices()] == ["2027-03", "2027-04"]


def test_a_one_time_fee_is_whole_and_once(sandbox, billed, invoices):
    setup = {**FLAT, "billingCadence": None, "price": {"type": "flat", "amount": "1000"}}
    billed(phases=[{"key": "default", "name": "Default", "duration": None, "rateCards": [setup]}])
    sandbox.at("2027-06-02T00:00:00Z")
    assert [Decimal(invoice["totals"]["total"]) for invoice in invoices()] == [1000]


def test_the_default_sandbox_app_pays_every_invoice_by_itself(sandbox, invoices):
    sandbox.om.post("/customers", json={"name": "Acme", "key": "acme"})
    phases = [{"key": "default", "name": "Default", "duration": None, "rateCards": [FLAT]}]
    plan = {"name": "C", "currency": "USD", "billingCadence": "P1M", "phases": phases}
    sandbox.om.post("/subscriptions", json={"customerKey": "acme", "timing": "immediate", "customPlan": plan})
    sandbox.at(PERIOD_END)
    [invoice] = invoices()
    assert invoice["status"] == "paid"
    assert invoice["number"] == "INV-ACME-1"


def test_a_wrong_invoice_can_be_asked_for(sandbox, billed, invoices):
    billed()
    wrong = {"amount": "100.00", "item_key": "h100", "customer": "acme"}
    assert sandbox.control.post("/openmeter/overcharge", json=wrong).status_code == 201
    sandbox.at("2027-05-01T01:00:00Z")
    assert [totals(invoice)["2 H100 servers"] for invoice in invoices()] == [36100, 36000]


def test_manual_lines_wait_for_their_instant(sandbox, billed, invoices):
    billed()
    customer = sandbox.om.get("/customers/acme").json()["id"]
    period = {"from": "2027-03-01T00:00:00Z", "to": "2027-03-10T00:00:00Z"}
    line = {"name": "Gap", "period": period, "invoiceAt": "2027-03-10T00:00:00Z"}
    line["rateCard"] = {"price": {"type": "flat", "amount": "250.00"}}
    path = f"/billing/customers/{customer}/invoices/pending-lines"
    answer = sandbox.om.post(path, json={"currency": "USD", "lines": [line]})
    assert answer.status_code == 201, answer.text
    none_due = sandbox.om.post("/billing/invoices/invoice", json={"customerId": customer})
    assert none_due.json()["extensions"]["code"] == "invoice_create_no_lines"
    sandbox.at("2027-03-10T00:00:00Z")
    assert [totals(invoice) for invoice in invoices()] == [{"Gap": Decimal(250)}]
