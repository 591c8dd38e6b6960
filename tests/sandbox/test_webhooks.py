"""Webhooks: what is sent, how it is signed, and how badly delivery can go."""

import base64
import hashlib
import hmac
import time

import pytest

from tests.sandbox.conftest import SIGNING_SECRET, WEBHOOK_KEY

PO_EVENTS = ["created", "approved", "begin_processing", "finish_processing", "completed", "reconciled"]


@pytest.fixture
def deliver(sandbox, inbox):
    """Set the policy; the test's inbox is the target of both providers."""

    def configure(**policy):
        body = {"modern_treasury_url": inbox.url, "openmeter_url": inbox.url, **policy}
        assert sandbox.control.post("/webhooks", json=body).status_code == 200

    return configure


def flush(sandbox):
    return sandbox.control.post("/flush").json()


def orders(inbox):
    return [event for topic, event in inbox.events() if topic == "payment_order"]


def test_modern_treasury_signs_the_raw_body(sandbox, inbox, deliver, pay):
    deliver()
    order = pay()
    flush(sandbox)
    assert orders(inbox) == PO_EVENTS
    for headers, body in inbox.received:
        assert headers["x-signature"] == hmac.new(WEBHOOK_KEY.encode(), body, hashlib.sha256).hexdigest()
        assert headers["x-live-mode"] == "false"
        assert headers["x-organization-id"] == "org"
        for name in ("x-webhook-id", "x-event-id", "x-event-time", "x-delivery-id"):
            assert headers[name]
    assert set(inbox.bodies()[0]) == {"event", "data"}
    assert inbox.bodies()[0]["data"]["id"] == order["id"]
    assert len({headers["x-webhook-id"] for headers, _ in inbox.received}) == len(inbox.received)


def test_each_webhook_carries_the_object_as_it_was_then(sandbox, inbox, deliver, pay):
    deliver()
    pay()
    flush(sandbox)
    said = [body["data"]["status"] for body in inbox.bodies() if body["data"]["object"] == "payment_order"]
    assert said == ["approved", "approved", "processing", "sent", "completed", "completed"]


def test_three_copies_in_shuffled_order_are_the_same_webhooks(sandbox, inbox, deliver, pay):
    deliver(copies=3, shuffle=True, seed=7)
    pay()
    sandbox.settle()
    deadline = time.monotonic() + 10
    while len(inbox.received) < 21 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sorted(orders(inbox)) == sorted(PO_EVENTS * 3)
    assert orders(inbox) != PO_EVENTS * 3
    ids = [headers["x-webhook-id"] for headers, _ in inbox.received]
    assert {ids.count(one) for one in ids} == {3}
    assert len({headers["x-delivery-id"] for headers, _ in inbox.received}) == 21


def test_lost_webhooks_are_lost_and_counted_but_the_event_is_on_record(sandbox, inbox, deliver, pay):
    deliver(lose=1.0)
    order = pay()
    assert flush(sandbox)["attempted"] == 0
    assert inbox.received == []
    assert sandbox.control.get("/webhooks").json()["lost"] == 7
    rows = sandbox.mt.get("/events", params={"resource": "payment_order", "entity_id": order["id"]}).json()
    assert [row["event_name"] for row in reversed(rows)] == PO_EVENTS


def test_which_webhooks_are_lost_depends_on_the_seed_alone(sandbox, inbox, deliver, pay):
    kept = []
    for _ in range(2):
        sandbox.clock_file.write_text("2027-03-01T00:00:00Z")
        sandbox.control.post("/reset", json={"seed": "s"})
        deliver(lose=0.5, seed=3)
        inbox.received.clear()
        pay()
        flush(sandbox)
        kept.append(inbox.events())
    assert kept[0] == kept[1]
    assert 0 < len(kept[0]) < 7


def test_a_refused_webhook_is_tried_again_with_the_same_id(sandbox, inbox, deliver, pay):
    deliver()
    inbox.status = 500
    pay()
    first = flush(sandbox)
    assert (first["delivered"], first["pending"]) == (0, 7)
    inbox.status = 204
    assert flush(sandbox)["delivered"] == 7
    ids = [headers["x-webhook-id"] for headers, _ in inbox.received]
    assert len(set(ids)) == 7
    assert set(ids[:7]) == set(ids[7:])


def test_undelivered_webhooks_survive_kill_9_of_the_sandbox(sandbox, inbox, deliver, pay):
    deliver(delay_ms=60_000)
    pay()
    sandbox.settle()
    sandbox.restart()
    assert inbox.received == []
    assert flush(sandbox)["delivered"] == 7


def test_no_target_no_webhooks(sandbox, inbox, pay):
    pay()
    assert flush(sandbox)["attempted"] == 0


def svix_is_valid(headers, body, secret=SIGNING_SECRET):
    signed = f"{headers['svix-id']}.{headers['svix-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return (
        headers["svix-signature"] == f"v1,{digest}" and abs(int(headers["svix-timestamp"]) - time.time()) < 60
    )


def test_openmeter_tells_every_hop_of_an_invoice_signed_as_svix_does(sandbox, inbox, billed):
    channel = {"type": "WEBHOOK", "name": "c", "url": inbox.url, "signingSecret": SIGNING_SECRET}
    identity = sandbox.om.post("/notification/channels", json=channel).json()["id"]
    for kind in ("invoice.created", "invoice.updated"):
        rule = {"type": kind, "name": kind, "channels": [identity]}
        assert sandbox.om.post("/notification/rules", json=rule).status_code == 201
    billed()
    sandbox.at("2027-04-01T01:00:00Z")
    flush(sandbox)
    assert all(svix_is_valid(headers, body) for headers, body in inbox.received)
    told = [(body["type"], body["data"]["statusDetails"]["extendedStatus"]) for body in inbox.bodies()]
    assert told == [
        ("invoice.created", "draft.waiting_for_collection"),
        ("invoice.updated", "draft.collecting"),
        ("invoice.updated", "draft.validating"),
        ("invoice.updated", "draft.ready_to_issue"),
        ("invoice.updated", "issuing.syncing"),
    ]
    stamps = [body["data"]["updatedAt"] for body in inbox.bodies()]
    assert stamps == sorted(set(stamps))
    assert inbox.bodies()[-1]["data"]["lines"]
    [newest, *_] = sandbox.om.get("/notification/events").json()["items"]
    assert newest["deliveryStatus"][0]["state"] == "SUCCESS"
    inbox.received.clear()
    assert sandbox.om.post(f"/notification/events/{newest['id']}/resend", json={}).status_code == 202
    flush(sandbox)
    assert [body["id"] for body in inbox.bodies()] == [newest["id"]]


def test_without_a_rule_openmeter_tells_nobody(sandbox, inbox, billed):
    billed()
    sandbox.at("2027-04-01T01:00:00Z")
    assert flush(sandbox)["attempted"] == 0


def test_the_control_address_replaces_rules_and_channels(sandbox, inbox, deliver, billed):
    deliver()
    billed()
    sandbox.at("2027-04-01T01:00:00Z")
    flush(sandbox)
    assert len(inbox.received) == 5
    assert all(svix_is_valid(headers, body) for headers, body in inbox.received)


def test_a_rule_needs_a_channel_and_a_channel_a_strong_secret(sandbox):
    rule = {"type": "invoice.created", "name": "r", "channels": ["none"]}
    assert sandbox.om.post("/notification/rules", json=rule).status_code == 400
    channel = {"type": "WEBHOOK", "name": "c", "url": "http://x/", "signingSecret": "whsec_short"}
    assert sandbox.om.post("/notification/channels", json=channel).status_code == 400
