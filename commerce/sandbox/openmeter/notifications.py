"""Notification channels, rules and events: where invoice webhooks go, in Svix's clothes.

Without a rule nothing is recorded or sent, unless the control API named an OpenMeter webhook address;
that address also replaces the channels' own.
"""

import base64
import os
import re

from commerce.sandbox import webhooks
from commerce.sandbox.core import Sandbox
from commerce.sandbox.openmeter.base import bad, change, create, fetch, live, one_of, page, required, router
from commerce.sandbox.store import Row
from commerce.sandbox.web import Request, Response

TYPES = ("invoice.created", "invoice.updated", "entitlements.balance.threshold", "entitlements.reset")
SECRET = re.compile(r"(whsec_)?[A-Za-z0-9+/=]{32,100}")


@router.post("/api/v1/notification/channels")
def create_channel(sandbox: Sandbox, request: Request) -> Response:
    return Response(201, create(sandbox, "channel", **_channel(sandbox, request.body())))


@router.put("/api/v1/notification/channels/{id}")
def update_channel(sandbox: Sandbox, request: Request) -> Response:
    row = fetch(sandbox, "channel", request.params["id"])
    fields = _channel(sandbox, request.body(), row["signingSecret"])
    return Response(200, change(sandbox, "channel", row, **fields))


def _channel(sandbox: Sandbox, body: Row, secret: str = "") -> Row:
    required(body, "type", "name", "url")
    one_of(body, "type", ("WEBHOOK",))
    generated = "whsec_" + base64.b64encode(sandbox.uuid().encode()[:32]).decode()
    secret = body.get("signingSecret") or secret or generated
    if not SECRET.fullmatch(secret):
        raise bad("signingSecret does not match the expected pattern")
    return {
        "type": "WEBHOOK",
        "name": body["name"],
        "url": body["url"],
        "disabled": body.get("disabled", False),
        "customHeaders": body.get("customHeaders", {}),
        "signingSecret": secret,
        "metadata": body.get("metadata", {}),
    }


@router.get("/api/v1/notification/channels")
def list_channels(sandbox: Sandbox, request: Request) -> Response:
    return page(request, live(sandbox, "channel"))


@router.get("/api/v1/notification/channels/{id}")
def get_channel(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, fetch(sandbox, "channel", request.params["id"]))


@router.delete("/api/v1/notification/channels/{id}")
def delete_channel(sandbox: Sandbox, request: Request) -> Response:
    row = fetch(sandbox, "channel", request.params["id"])
    change(sandbox, "channel", row, deletedAt=sandbox.stamp())
    return Response(204)


@router.post("/api/v1/notification/rules")
def create_rule(sandbox: Sandbox, request: Request) -> Response:
    return Response(201, create(sandbox, "rule", **_rule(sandbox, request.body())))


@router.put("/api/v1/notification/rules/{id}")
def update_rule(sandbox: Sandbox, request: Request) -> Response:
    row = fetch(sandbox, "rule", request.params["id"])
    return Response(200, change(sandbox, "rule", row, **_rule(sandbox, request.body())))


def _rule(sandbox: Sandbox, body: Row) -> Row:
    required(body, "type", "name", "channels")
    one_of(body, "type", TYPES)
    known = {row["id"] for row in live(sandbox, "channel")}
    if not isinstance(body["channels"], list) or not 1 <= len(body["channels"]) <= 5:
        raise bad("channels must name 1 to 5 channels")
    if unknown := [channel for channel in body["channels"] if channel not in known]:
        raise bad(f"channel {unknown[0]} does not exist")
    return {
        "type": body["type"],
        "name": body["name"],
        "disabled": body.get("disabled", False),
        "channels": [{"id": channel, "type": "WEBHOOK"} for channel in body["channels"]],
        "metadata": body.get("metadata", {}),
    }


@router.get("/api/v1/notification/rules")
def list_rules(sandbox: Sandbox, request: Request) -> Response:
    return page(request, live(sandbox, "rule"))


@router.get("/api/v1/notification/rules/{id}")
def get_rule(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, fetch(sandbox, "rule", request.params["id"]))


@router.delete("/api/v1/notification/rules/{id}")
def delete_rule(sandbox: Sandbox, request: Request) -> Response:
    change(sandbox, "rule", fetch(sandbox, "rule", request.params["id"]), deletedAt=sandbox.stamp())
    return Response(204)


@router.get("/api/v1/notification/events")
def list_events(sandbox: Sandbox, request: Request) -> Response:
    rows = [
        row
        for row in reversed(sandbox.store.rows("om.notification"))
        if request.one("from") <= row["createdAt"] <= (request.one("to") or "9999")
    ]
    return page(request, [_event(sandbox, row) for row in rows])


@router.get("/api/v1/notification/events/{id}")
def get_event(sandbox: Sandbox, request: Request) -> Response:
    return Response(200, _event(sandbox, fetch(sandbox, "notification", request.params["id"])))


@router.post("/api/v1/notification/events/{id}/resend")
def resend(sandbox: Sandbox, request: Request) -> Response:
    row = fetch(sandbox, "notification", request.params["id"])
    only = request.body().get("channels") or [channel["id"] for channel in row["rule"]["channels"]]
    _send(sandbox, row, only)
    return Response(202)


def _event(sandbox: Sandbox, row: Row) -> Row:
    waiting = {
        delivery["headers"].get("svix-id")
        for delivery in sandbox.store.table("delivery").values()
        if delivery["provider"] == "openmeter"
    }
    status = [
        {
            "state": "SENDING" if f"msg_{row['id']}_{channel['id']}" in waiting else "SUCCESS",
            "reason": "",
            "updatedAt": row["updatedAt"],
            "channel": channel,
            "attempts": [],
        }
        for channel in row["rule"]["channels"]
    ]
    return {**row, "deliveryStatus": status}


def notify(sandbox: Sandbox, kind: str, invoice: Row) -> None:
    """One hop of an invoice, told to every active rule of that type."""
    rules = [rule for rule in live(sandbox, "rule") if rule["type"] == kind and not rule["disabled"]]
    if not live(sandbox, "rule") and webhooks.policy(sandbox)["openmeter_url"]:
        rules = [{"id": "control", "type": kind, "name": "control", "channels": [{"id": "control"}]}]
    for rule in rules:
        identity, now = sandbox.ulid(), sandbox.stamp()
        payload = {"id": identity, "type": kind, "timestamp": now, "data": invoice}
        row = {
            "id": identity,
            "type": kind,
            "createdAt": now,
            "updatedAt": now,
            "rule": rule,
            "payload": payload,
        }
        sandbox.store.put("om.notification", row)
        _send(sandbox, row, [channel["id"] for channel in rule["channels"]])


def _send(sandbox: Sandbox, row: Row, channels: list[str]) -> None:
    override = webhooks.policy(sandbox)["openmeter_url"]
    for identity in channels:
        channel = sandbox.store.get("om.channel", identity) or {"url": override}
        if channel.get("disabled") or channel.get("deletedAt"):
            continue
        headers = {
            **channel.get("customHeaders", {}),
            "svix-id": f"msg_{row['id']}_{identity}",
            "secret": channel.get("signingSecret") or os.environ.get("OPENMETER_WEBHOOK_SECRET", ""),
        }
        webhooks.enqueue(sandbox, "openmeter", override or channel["url"], row["payload"], **headers)
