"""Answers hold the fields and the words that the providers' published specifications require.

The lists are copied from Modern Treasury's OpenAPI document of 2026-08-22 and OpenMeter's of 2026-08-18.
"""

import pytest

from tests.sandbox.conftest import INTERNAL_ACCOUNT

TIMED = "id object live_mode created_at updated_at"
MODERN_TREASURY = {
    "counterparty": (
        f"{TIMED} discarded_at name accounts email legal_entity_id metadata external_id "
        "send_remittance_advice verification_status"
    ),
    "external_account": (
        f"{TIMED} discarded_at account_type party_type party_address name counterparty_id "
        "account_details routing_details external_id metadata party_name contact_details "
        "ledger_account_id card_id verification_status verification_source"
    ),
    "account_detail": f"{TIMED} discarded_at account_number_type account_number_safe",
    "routing_detail": (
        f"{TIMED} discarded_at routing_number routing_number_type payment_type bank_name bank_address"
    ),
    "virtual_account": (
        f"{TIMED} discarded_at name description counterparty_id internal_account_id account_details "
        "routing_details debit_ledger_account_id credit_ledger_account_id ledger_account_id metadata"
    ),
    "internal_account": (
        f"{TIMED} account_type party_name party_type party_address name account_details "
        "account_capabilities routing_details connection currency metadata parent_account_id "
        "counterparty_id vendor_id legal_entity_id status ledger_account_id contra_ledger_account_id "
        "external_id debitable"
    ),
    "connection": f"{TIMED} discarded_at vendor_id vendor_customer_id vendor_name",
    "account_capability": f"{TIMED} discarded_at direction identifier payment_type",
    "payment_order": (
        f"{TIMED} type subtype amount direction priority originating_account_id receiving_account_id "
        "currency accounting accounting_category_id accounting_ledger_class_id effective_date "
        "description statement_descriptor remittance_information process_after purpose metadata "
        "charge_bearer foreign_exchange_indicator foreign_exchange_contract nsf_protected "
        "originating_party_name originating_party_address ultimate_originating_party_name "
        "ultimate_originating_party_identifier ultimate_receiving_party_name "
        "ultimate_receiving_party_identifier send_remittance_advice expires_at reconciliation_status "
        "external_id status receiving_account receiving_account_type ultimate_originating_account "
        "ultimate_originating_account_id ultimate_originating_account_type originating_account_type "
        "counterparty_id transaction_ids ledger_transaction_id current_return current_hold "
        "reference_numbers vendor_failure_reason foreign_exchange_rate vendor_attributes batch_id"
    ),
    "payment_reference": f"{TIMED} reference_number reference_number_type",
    "return": (
        f"{TIMED} discarded_at returnable_id returnable_type code reason date_of_death corrections "
        "reconciliation_status status transaction_line_item_id transaction_id internal_account_id "
        "type amount currency failure_reason role current_return reference_numbers "
        "ledger_transaction_id"
    ),
    "incoming_payment_detail": (
        f"{TIMED} internal_account_id virtual_account_id virtual_account transaction_line_item_id "
        "transaction_id ledger_transaction_id type data amount currency direction status metadata "
        "as_of_date vendor_id originating_routing_number originating_routing_number_type "
        "originating_account_number_safe originating_account_number_type subtype "
        "reconciliation_status"
    ),
    "transaction": (
        f"{TIMED} discarded_at amount amount_string currency direction vendor_code vendor_code_type "
        "vendor_id as_of_date as_of_time as_of_timezone internal_account_id metadata posted "
        "vendor_customer_id reconciled type foreign_exchange_rate custom_identifiers"
    ),
    "event": f"{TIMED} resource event_name event_time data entity_id",
}
WORDS = {
    (
        "payment_order",
        "status",
    ): "approved cancelled completed denied failed held needs_approval pending processing "
    "returned reversed sent stopped",
    ("payment_order", "priority"): "high normal",
    ("payment_order", "reconciliation_status"): "unreconciled tentatively_reconciled reconciled",
    ("return", "status"): "cancelled completed failed pending processing returned sent",
    ("return", "role"): "originating receiving",
    ("incoming_payment_detail", "status"): "completed pending returned",
    ("external_account", "verification_status"): "pending_verification unverified verified",
    ("internal_account", "status"): "active closed pending_activation pending_closure suspended",
}


def objects(value):
    """Every object in an answer, however deep, that says what it is."""
    if isinstance(value, list):
        for inner in value:
            yield from objects(inner)
    elif isinstance(value, dict):
        if "object" in value:
            yield value
        for inner in value.values():
            yield from objects(inner)


def test_modern_treasury_answers_hold_all_required_fields(sandbox, pay):
    pay("10003")
    pay("111111110", external_id="other")
    virtual = {"name": "V", "internal_account_id": INTERNAL_ACCOUNT}
    virtual_id = sandbox.mt.post("/virtual_accounts", json=virtual).json()["id"]
    incoming = {"type": "wire", "amount": 5, "virtual_account_id": virtual_id}
    sandbox.mt.post("/simulations/incoming_payment_details/create_async", json=incoming)
    sandbox.at("2027-03-05T00:00:00Z")
    resources = (
        "counterparties", "external_accounts", "virtual_accounts", "internal_accounts", "payment_orders",
        "returns", "incoming_payment_details", "transactions", "events",
    )  # fmt: skip
    seen = set()
    for resource in resources:
        for row in objects(sandbox.mt.get(f"/{resource}", params={"per_page": 100}).json()):
            kind = row["object"]
            seen.add(kind)
            missing = set(MODERN_TREASURY[kind].split()) - set(row)
            assert not missing or (kind, missing) == ("counterparty", {"accounts"}), (kind, missing)
            for (owner, field), words in WORDS.items():
                if owner == kind:
                    assert row[field] in words.split()
    assert seen == set(MODERN_TREASURY)


ROW = "id createdAt updatedAt"
OPENMETER = {
    "customer": f"{ROW} name",
    "meter": f"{ROW} slug aggregation eventType",
    "feature": f"{ROW} key name",
    "app": f"{ROW} name listing status type enableDraftSyncHook enableIssuingSyncHook",
    "listing": "type name description capabilities installMethods",
    "profile": f"{ROW} name supplier workflow apps default",
    "subscription": (
        f"{ROW} name activeFrom status customerId currency costBasisMode costBasisPins billingCadence "
        "billingAnchor settlementMode phases"
    ),
    "phase": f"{ROW} name key activeFrom items itemTimelines",
    "item": f"{ROW} name activeFrom key billingCadence price",
    "invoice": f"{ROW} type supplier customer number currency totals status statusDetails workflow",
    "line": f"{ROW} name managedBy status currency totals period invoiceAt type",
    "detailed_line": f"{ROW} name managedBy status currency totals period invoiceAt type",
    "totals": (
        "amount chargesTotal discountsTotal creditsTotal taxesInclusiveTotal taxesExclusiveTotal "
        "taxesTotal total"
    ),
    "statusDetails": "immutable failed extendedStatus availableActions",
    "workflow": "sourceBillingProfileId workflow",
    "line_subscription": "subscription phase item billingPeriod",
    "event": "event ingestedAt storedAt",
    "page": "totalCount page pageSize items",
    "notification": "id type createdAt rule deliveryStatus payload",
    "channel": f"{ROW} type name url",
    "problem": "type title status detail instance",
}


@pytest.fixture
def openmeter_answers(sandbox, billed, use, inbox):
    om = sandbox.om
    channel = om.post(
        "/notification/channels", json={"type": "WEBHOOK", "name": "c", "url": inbox.url}
    ).json()
    om.post("/notification/rules", json={"type": "invoice.updated", "name": "r", "channels": [channel["id"]]})
    subscription = om.get(f"/subscriptions/{billed()['id']}").json()
    use("u1", "5", "2027-03-02T00:00:00Z")
    sandbox.at("2027-04-01T01:00:00Z")
    invoices = om.get("/billing/invoices", params={"expand": "lines", "statuses": "issuing"}).json()
    [invoice] = invoices["items"]
    [app] = [row for row in om.get("/apps").json()["items"] if row["type"] == "custom_invoicing"]
    line = invoice["lines"][0]
    return {
        "customer": om.get("/customers/acme").json(),
        "meter": om.get("/meters/hours").json(),
        "feature": om.get("/features/burst").json(),
        "app": app,
        "listing": app["listing"],
        "profile": om.get("/billing/profiles").json()["items"][0],
        "subscription": subscription,
        "phase": subscription["phases"][0],
        "item": subscription["phases"][0]["items"][0],
        "invoice": invoice,
        "line": line,
        "detailed_line": line["children"][0],
        "totals": line["totals"],
        "statusDetails": invoice["statusDetails"],
        "workflow": invoice["workflow"],
        "line_subscription": line["subscription"],
        "event": om.get("/events").json()[0],
        "page": invoices,
        "notification": om.get("/notification/events").json()["items"][0],
        "channel": channel,
        "problem": om.get("/customers/none").json(),
    }


def test_openmeter_answers_hold_all_required_fields(openmeter_answers):
    assert set(openmeter_answers) == set(OPENMETER)
    for kind, fields in OPENMETER.items():
        assert not set(fields.split()) - set(openmeter_answers[kind]), kind


def test_openmeter_speaks_its_own_words_and_hides_ours(openmeter_answers):
    invoice, line = openmeter_answers["invoice"], openmeter_answers["line"]
    assert (invoice["type"], invoice["status"]) == ("standard", "issuing")
    assert (line["type"], line["managedBy"], line["status"]) == ("usage_based", "subscription", "valid")
    assert all(isinstance(value, str) for value in line["totals"].values())
    assert line["children"][0]["type"] == "flat_fee"
    assert invoice["workflow"]["apps"]["invoicing"]["type"] == "custom_invoicing"
    assert openmeter_answers["subscription"]["status"] == "active"
    assert openmeter_answers["app"]["status"] == "ready"
    assert '"_' not in str(openmeter_answers).replace("'", '"')
    for kind in ("customer", "subscription", "invoice", "line"):
        assert len(openmeter_answers[kind]["id"]) == 26
