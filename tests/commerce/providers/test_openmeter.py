"""OpenMeter's client against the simulator, over HTTP."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from commerce.errors import Rejected, Retryable, Unknown
from commerce.providers import openmeter
from commerce.providers.openmeter import (
    Feature,
    FlatFee,
    Meter,
    OpenMeter,
    Subscription,
    UnitPrice,
    Usage,
    UsageFee,
)
from tests.commerce.conftest import Sandbox

START, END = datetime(2027, 3, 1, tzinfo=UTC), datetime(2027, 4, 1, tzinfo=UTC)
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
METER = Meter("device_hours", "device_hour", "$.hours")
FEATURE = Feature("burst", "Burst hours", "device_hours")
CARDS = (
    FlatFee("h100", "2 × H100", Decimal("36000.00")),
    UsageFee("burst", "Burst hours", UnitPrice(Decimal("2.00"))),
)


@pytest.fixture
def client(sandbox: Sandbox) -> OpenMeter:
    client = openmeter.client()
    prepare(client)
    return client


def prepare(client: OpenMeter, url: str = "http://127.0.0.1:9/hook") -> Any:
    return client.prepare(webhook_url=url, signing_secret=SECRET, meters=[METER], features=[FEATURE])


def subscribe(client: OpenMeter) -> Subscription:
    client.ensure_customer(key="acme", name="Acme", currency="USD")
    return client.create_subscription(
        customer_key="acme",
        name="C-1",
        currency="USD",
        rate_cards=CARDS,
        metadata={"contract_id": "c1"},
        timing=START,
        billing_anchor=START,
    )


def test_preparing_twice_makes_nothing_twice(client: OpenMeter, sandbox: Sandbox) -> None:
    first = prepare(client)
    assert prepare(client) == first
    assert prepare(client, "http://127.0.0.1:9/moved") == first
    rows = client._http.get("api/v1/notification/channels").json()["items"]
    assert [row["url"] for row in rows] == ["http://127.0.0.1:9/moved"]
    rules = client._http.get("api/v1/notification/rules").json()["items"]
    assert sorted(rule["type"] for rule in rules) == ["invoice.created", "invoice.updated"]
    profiles = [row for row in client._http.get("api/v1/billing/profiles").json()["items"] if row["default"]]
    assert [row["id"] for row in profiles] == [first.billing_profile_id]
    hooks = client._http.get(f"api/v1/apps/{first.app_id}").json()
    assert (hooks["enableDraftSyncHook"], hooks["enableIssuingSyncHook"]) == (False, True)


def test_a_customer_is_made_once_and_kept_up_to_date(client: OpenMeter, sandbox: Sandbox) -> None:
    first = client.ensure_customer(key="acme", name="Acme", currency="USD", metadata={"a": "1"})
    assert client.ensure_customer(key="acme", name="Acme", currency="USD", metadata={"a": "1"}) == first
    renamed = client.ensure_customer(key="acme", name="Acme Inc", currency="USD", metadata={"a": "2"})
    assert (renamed.id, renamed.name) == (first.id, "Acme Inc")
    assert renamed.raw["usageAttribution"] == {"subjectKeys": ["acme"]}
    assert len(sandbox.effects("openmeter", "customer")) == 1
    assert client.customer("nobody") is None


def test_a_customer_billed_in_another_currency_is_refused(client: OpenMeter) -> None:
    client.ensure_customer(key="acme", name="Acme", currency="USD")
    with pytest.raises(Rejected, match="USD"):
        client.ensure_customer(key="acme", name="Acme", currency="EUR")


def test_a_subscription_is_found_by_its_metadata_after_a_lost_answer(
    client: OpenMeter, sandbox: Sandbox
) -> None:
    assert client.subscriptions("acme") == []
    sandbox.fault("openmeter", "POST", "subscriptions$", "timeout_after_effect")
    with pytest.raises(Unknown):
        subscribe(client)
    [found] = client.subscriptions("acme")
    assert found.metadata["contract_id"] == "c1"
    full = client.subscription(found.id)
    assert full
    assert sorted(item.key for item in full.items) == ["burst", "h100"]
    assert client.subscription("01J0SVB00000000000000000AA") is None


def test_an_edit_replaces_items_and_a_cancellation_ends(client: OpenMeter) -> None:
    subscription = subscribe(client)
    three = FlatFee("h100", "3 × H100", Decimal("54000"))
    edited = client.edit_subscription(subscription.id, remove=["h100"], add=[three])
    current = client.subscription(edited.id)
    assert current
    names = {item.name for item in current.items if item.key == "h100" and item.active_to is None}
    assert names == {"3 × H100"}
    assert client.cancel_subscription(edited.id, timing="immediate").active_to


def test_usage_is_counted_once_however_often_it_is_sent(client: OpenMeter) -> None:
    subscribe(client)
    at = datetime(2027, 3, 1, 0, 0, 1, tzinfo=UTC)
    events = [
        Usage(f"u{n}", "commerce/usage", "device_hour", "acme", at, {"hours": "33.5"}) for n in range(2)
    ]
    client.ingest(events)
    client.ingest(events)
    assert client.usage(meter="device_hours", subject="acme", start=START, end=END) == Decimal(67)
    assert client.has_event(id="u1")
    assert not client.has_event(id="u9")


def test_an_unanswered_ingestion_may_be_repeated(client: OpenMeter, sandbox: Sandbox) -> None:
    event = Usage("u1", "commerce/usage", "device_hour", "acme", START, {"hours": "1"})
    sandbox.fault("openmeter", "POST", "events", "timeout_after_effect")
    with pytest.raises(Retryable):
        client.ingest([event])
    client.ingest([event])


def test_an_instant_without_offset_never_leaves(client: OpenMeter) -> None:
    naive = Usage("u1", "s", "device_hour", "acme", datetime(2027, 3, 1), {"hours": "1"})
    with pytest.raises(ValueError, match="offset"):
        client.ingest([naive])


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_post_without_key_is_unknown_where_a_read_is_retryable(
    client: OpenMeter, sandbox: Sandbox, status: int
) -> None:
    sandbox.fault("openmeter", "POST", "subscriptions", "error", status=status)
    client.ensure_customer(key="acme", name="Acme", currency="USD")
    with pytest.raises(Unknown):
        subscribe(client)
    sandbox.fault("openmeter", "GET", "subscriptions", "error", status=status)
    with pytest.raises(Retryable):
        client.subscriptions("acme")


def test_an_invoice_goes_from_our_number_to_paid_and_repetitions_change_nothing(
    client: OpenMeter, sandbox: Sandbox
) -> None:
    subscription = subscribe(client)
    event = Usage("u1", "commerce/usage", "device_hour", "acme", START, {"hours": "100"})
    client.ingest([event])
    sandbox.control("POST", "clock", {"now": "2027-04-01T02:00:00Z"})
    [listed] = client.invoices()
    invoice = client.invoice(listed.id)
    assert (invoice.total, invoice.net, invoice.currency) == (Decimal(36_200), Decimal(36_200), "USD")
    assert invoice.extended_status == "issuing.syncing"
    assert invoice.subscription_ids == {subscription.id}
    assert sorted(line.net for line in invoice.lines) == [Decimal(200), Decimal(36_000)]
    assert {line.feature_key: line.metered_quantity for line in invoice.lines}["burst"] == Decimal(100)
    assert (invoice.customer_key, invoice.invoicing_app) == ("acme", "custom_invoicing")
    with pytest.raises(Retryable):
        client.payment_status(invoice.id, "paid")

    issued = client.issuing_synchronized(invoice.id, number="2027-000001", sent_at=END)
    assert issued.number == "2027-000001"
    assert client.issuing_synchronized(invoice.id, number="2027-000001", sent_at=END) == issued
    with pytest.raises(Rejected):
        client.issuing_synchronized(invoice.id, number="2027-000002", sent_at=END)

    assert client.payment_status(invoice.id, "payment_overdue").extended_status == "overdue"
    sandbox.fault("openmeter", "POST", "payment/status", "timeout_after_effect")
    assert client.payment_status(invoice.id, "paid").extended_status == "paid", "a lost answer is looked up"
    assert client.payment_status(invoice.id, "paid").extended_status == "paid"
    with pytest.raises(Rejected):
        client.payment_status(invoice.id, "payment_failed")
    triggers = [effect["trigger"] for effect in sandbox.effects("openmeter", "payment_status")]
    assert triggers == ["payment_overdue", "paid"]

    assert [row.id for row in client.invoices(updated_since=START)] == [invoice.id]
    assert list(client.invoices(updated_since=datetime(2028, 1, 1, tzinfo=UTC))) == []
