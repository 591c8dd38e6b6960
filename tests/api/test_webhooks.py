"""A webhook that is signed is taken in at once; what it is about comes to a clear end later."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from commerce.outbox import drain
from commerce.outbox.models import OutboxStream
from commerce.providers.models import ProviderEvent
from tests.api.conftest import contents
from tests.commerce.conftest import sandbox, sandbox_process  # noqa: F401

SECRET = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ="


@pytest.fixture(autouse=True)
def _secret(settings: Any) -> None:
    settings.OPENMETER_WEBHOOK_SECRETS = [SECRET]
    settings.MODERN_TREASURY_WEBHOOK_KEYS = ["webhook-key"]


def openmeter(body: Any, *, age: int = 0, secret: str = SECRET, raw: bytes | None = None) -> Any:
    content = json.dumps(body).encode() if raw is None else raw
    sent_at = str(int(time.time()) - age)
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join([b"msg_1", sent_at.encode(), content])
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    headers = {"webhook-id": "msg_1", "webhook-timestamp": sent_at, "webhook-signature": f"v1,{signature}"}
    return Client().post("/webhooks/openmeter/", content, "application/json", headers=headers)


def modern_treasury(body: Any, *, topic: str, key: str = "webhook-key", raw: bytes | None = None) -> Any:
    content = json.dumps(body).encode() if raw is None else raw
    headers = {
        "X-Signature": hmac.new(key.encode(), content, hashlib.sha256).hexdigest(),
        "X-Webhook-ID": str(uuid4()),
        "X-Topic": topic,
        "X-Live-Mode": "false",
    }
    return Client().post("/webhooks/modern-treasury/", content, "application/json", headers=headers)


def invoice(id_: str) -> dict[str, Any]:
    return {"id": f"evt_{id_}", "type": "invoice.updated", "data": {"id": id_}}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("send", "status"),
    [
        (lambda: openmeter(invoice("a"), age=600), 401),
        (lambda: openmeter(invoice("a"), age=-600), 401),
        (lambda: openmeter(invoice("a"), secret="whsec_d3Jvbmc="), 401),
        (lambda: openmeter(None, raw=b"{"), 400),
        (lambda: openmeter(None, raw=b"[]"), 400),
        (lambda: openmeter(None, raw=b"null"), 400),
        (lambda: openmeter(None, raw=b'{"type": 7, "data": []}'), 400),
        (lambda: openmeter(None, raw=b"[" * 200_000), 400),
        (lambda: openmeter({**invoice("a"), "x": "y" * 300_000}), 413),
        (lambda: openmeter(invoice("a/../b") | {"id": "../x"}), 400),
        (lambda: modern_treasury({}, topic="payment_order", key="wrong"), 401),
        (lambda: modern_treasury(None, topic="payment_order", raw=b"{"), 400),
        (lambda: modern_treasury(None, topic="payment_order", raw=b"\xff"), 400),
        (lambda: modern_treasury(None, topic="payment_order", raw=b"[" * 200_000), 400),
        (lambda: modern_treasury({"x": "y" * 300_000}, topic="payment_order"), 413),
        (lambda: Client().get("/webhooks/openmeter/"), 405),
        (lambda: Client().post("/webhooks/openmeter/", "a=b", "application/x-www-form-urlencoded"), 415),
    ],
)
def test_what_is_not_a_signed_delivery_is_refused_and_leaves_nothing(
    send: Callable[[], Any], status: int
) -> None:
    before = contents()
    answer = send()
    assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json"), (
        answer.content
    )
    assert answer.json()["code"]
    assert contents() == before


@pytest.mark.django_db(transaction=True)
def test_an_unknown_object_is_taken_in_and_comes_to_a_clear_end(sandbox: Any, clock: Any) -> None:  # noqa: F811
    """It was signed, so it is kept; the provider does not know it, so somebody is told, or it ends."""
    sandbox.control("POST", "reset", {})
    unknown = str(uuid4())
    deliveries = [openmeter(invoice("01K0000000000000000000DEAD"))]
    for topic, kind in (
        ("payment_order", "payment_order"),
        ("incoming_payment_detail", "incoming_payment_detail"),
        ("return", "return"),
    ):
        body = {"event": "updated", "data": {"id": unknown, "object": kind}}
        deliveries.append(modern_treasury(body, topic=topic))
    assert [answer.status_code for answer in deliveries] == [204] * 4
    assert ProviderEvent.objects.count() == 4
    drain()
    ends = {stream.aggregate_type: stream for stream in OutboxStream.objects.exclude(group="")}
    assert len(ends) == 4
    assert not any(stream.due_at for stream in ends.values())
    gone = ends.pop("openmeter.invoice")  # an invoice that OpenMeter has deleted is withdrawn, not a fault
    assert (gone.parked_at, gone.last_error) == (None, "")
    for stream in ends.values():
        assert stream.parked_at is not None
        assert "404 resource_not_found" in stream.parked_reason
        assert unknown in stream.parked_reason
