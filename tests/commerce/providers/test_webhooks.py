"""Webhooks: only what is signed gets in, once, and becomes one event per delivery."""

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from commerce.outbox import catalog, on, registry
from commerce.outbox.models import OutboxEvent
from commerce.providers.models import ProviderEvent
from commerce.providers.openmeter import signature

MT, OM = "/webhooks/modern-treasury/", "/webhooks/openmeter/"
OLD, NEW = "old-key", "new-key"
OM_OLD, OM_NEW = (
    f"whsec_{word}" for word in ("b2xkLXNlY3JldC1vbGQtc2VjcmV0", "bmV3LXNlY3JldC1uZXctc2VjcmV0")
)
ORDER = {"event": "completed", "data": {"id": "po-1", "object": "payment_order", "status": "completed"}}
INVOICE = {"id": "01NOTICE", "type": "invoice.updated", "data": {"id": "01INVOICE", "number": "X"}}


@pytest.fixture(autouse=True)
def _keys(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings.MODERN_TREASURY_WEBHOOK_KEYS = [NEW, OLD]
    settings.OPENMETER_WEBHOOK_SECRETS = [OM_NEW, OM_OLD]
    monkeypatch.setattr(registry, "_handlers", {})
    kinds = ("payment_order", "incoming_payment", "return")
    types = [f"modern_treasury.{kind}_changed" for kind in kinds] + ["openmeter.invoice_changed"]
    on(*types, group="test.providers", provider="elsewhere")(lambda event: None)
    return


def mt(
    body: Any = ORDER, *, key: str = NEW, id: str = "w-1", topic: str = "payment_order", **more: Any
) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {
        "X-Signature": hmac.new(key.encode(), raw, hashlib.sha256).hexdigest(),
        "X-Topic": topic,
        "X-Webhook-ID": id,
        "X-Live-Mode": "false",
        **more,
    }
    return Client(raise_request_exception=False).post(
        MT, raw, content_type="application/json", headers={k: v for k, v in headers.items() if v is not None}
    )


def om(
    body: Any = INVOICE, *, secret: str = OM_NEW, age: float = 0, prefix: str = "svix", **more: Any
) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent_at = str(int(time.time() - age))
    headers = {
        f"{prefix}-id": "msg_1",
        f"{prefix}-timestamp": sent_at,
        f"{prefix}-signature": f"v1,bm90IHRoaXM= v1,{signature(secret, 'msg_1', sent_at, raw)} v2,x",
        **more,
    }
    return Client(raise_request_exception=False).post(
        OM, raw, content_type="application/json", headers={k: v for k, v in headers.items() if v is not None}
    )


def nothing_stored() -> bool:
    return not ProviderEvent.objects.exists() and not OutboxEvent.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("post", "event"),
    [
        (lambda: mt(key=NEW), "modern_treasury.payment_order_changed"),
        (lambda: mt(key=OLD), "modern_treasury.payment_order_changed"),
        (lambda: mt(topic="incoming_payment_detail"), "modern_treasury.incoming_payment_changed"),
        (lambda: mt(topic="return"), "modern_treasury.return_changed"),
        (lambda: om(secret=OM_NEW), "openmeter.invoice_changed"),
        (lambda: om(secret=OM_OLD), "openmeter.invoice_changed"),
        (lambda: om(prefix="webhook"), "openmeter.invoice_changed"),
        (lambda: om({**INVOICE, "type": "invocing.invoice.created"}), "openmeter.invoice_changed"),
    ],
)
def test_a_signed_delivery_is_stored_and_becomes_an_event_of_its_object(
    post: Callable[[], Any], event: str
) -> None:
    assert post().status_code == 204
    row, appended = ProviderEvent.objects.get(), OutboxEvent.objects.get()
    assert (row.state, appended.type) == ("received", event)
    assert appended.aggregate_id == row.object_id == appended.payload["object_id"]
    assert appended.aggregate_type == event.removesuffix("_changed")
    assert appended.payload["delivery_id"] == row.delivery_id


@pytest.mark.django_db
@pytest.mark.parametrize(
    "post",
    [
        lambda: mt(key="wrong"),
        lambda: mt(**{"X-Signature": None}),
        lambda: mt(**{"X-Signature": ""}),
        lambda: mt(**{"X-Signature": "ünsigned"}),
        lambda: om(secret="whsec_d3Jvbmctc2VjcmV0LXdyb25n"),
        lambda: om(age=301),
        lambda: om(age=-301),
        lambda: om(**{"svix-timestamp": "soon"}),
        lambda: om(**{"svix-timestamp": "9" * 5000}),
        lambda: om(**{"svix-timestamp": "²"}),
        lambda: om(**{"svix-signature": None}),
        lambda: om(**{"svix-signature": "v1,ünsigned"}),
        lambda: om(**{"svix-id": None}),
        lambda: om(**{"svix-id": "msg_ü"}),
    ],
)
def test_what_is_unsigned_wrong_or_stale_is_401_and_leaves_nothing(post: Callable[[], Any]) -> None:
    answer = post()
    assert answer.status_code == 401
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "invalid_signature"
    assert nothing_stored()


@pytest.mark.django_db
def test_without_keys_nobody_gets_in(settings: Any) -> None:
    settings.MODERN_TREASURY_WEBHOOK_KEYS = settings.OPENMETER_WEBHOOK_SECRETS = []
    assert (mt(key="").status_code, om().status_code) == (401, 401)
    assert nothing_stored()


@pytest.mark.django_db
def test_a_changed_body_is_not_what_was_signed() -> None:
    raw = json.dumps(ORDER).encode()
    signed = hmac.new(NEW.encode(), raw, hashlib.sha256).hexdigest()
    assert mt(raw + b" ", **{"X-Signature": signed}).status_code == 401
    assert nothing_stored()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("post", "status"),
    [
        (lambda: mt(b"not json"), 400),
        (lambda: mt(b"[]"), 400),
        (lambda: mt(**{"X-Webhook-ID": None}), 400),
        (lambda: mt(id="one two"), 400),
        (lambda: mt(**{"X-Live-Mode": "true"}), 400),
        (lambda: mt(**{"X-Live-Mode": None}), 400),
        (lambda: om(b"not json"), 400),
        (lambda: om({"type": "invoice.updated"}), 400),
        (lambda: om({**INVOICE, "id": "a b"}), 400),
        (lambda: mt(b" " * (256 * 1024 + 1)), 413),
        (lambda: Client().post(MT, b"{}", content_type="text/plain"), 415),
        (lambda: Client().get(MT), 405),
    ],
)
def test_nonsense_is_a_problem_document_and_leaves_nothing(post: Callable[[], Any], status: int) -> None:
    answer = post()
    assert answer.status_code == status
    assert answer["Content-Type"] == "application/problem+json"
    assert nothing_stored()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "post",
    [
        lambda: mt(topic="balance_report"),
        lambda: mt(topic=""),
        lambda: mt({"event": "failed"}),
        lambda: mt({"event": "failed", "data": {"id": "../po"}}),
        lambda: om({**INVOICE, "type": "entitlements.reset"}),
    ],
)
def test_what_we_do_not_follow_is_stored_as_ignored(post: Callable[[], Any]) -> None:
    assert post().status_code == 204
    assert ProviderEvent.objects.get().state == "ignored"
    assert not OutboxEvent.objects.exists()


@pytest.mark.django_db
def test_a_repetition_is_acknowledged_and_forgotten() -> None:
    assert [mt().status_code for _ in range(3)] == [204] * 3
    assert [om().status_code for _ in range(3)] == [204] * 3
    assert (ProviderEvent.objects.count(), OutboxEvent.objects.count()) == (2, 2)


@pytest.mark.django_db
def test_deliveries_of_one_object_are_one_stream_in_order() -> None:
    mt(id="w-1")
    mt({**ORDER, "event": "returned"}, id="w-2")
    mt({**ORDER, "data": {"id": "po-2"}}, id="w-3")
    events = OutboxEvent.objects.order_by("id").values_list("aggregate_id", "sequence", "payload__event")
    assert list(events) == [("po-1", 1, "completed"), ("po-1", 2, "returned"), ("po-2", 1, "completed")]


@pytest.mark.django_db
def test_account_numbers_in_a_body_are_not_stored() -> None:
    canary = "987654321098"
    data = {"id": "ipd-1", "account_number": "10003", "data": {"text": f"from {canary}"}, "nul": "a\u0000b"}
    mt({"event": "completed", "data": data}, topic="incoming_payment_detail")
    stored = json.dumps(ProviderEvent.objects.get().body)
    assert canary not in stored
    assert "10003" not in stored
    assert '"ab"' in stored


@pytest.mark.django_db(transaction=True)
def test_the_same_delivery_at_the_same_time_is_one_event() -> None:
    start, answers = threading.Barrier(8), []

    def deliver() -> None:
        start.wait()
        answers.append(mt().status_code)
        connection.close()

    threads = [threading.Thread(target=deliver) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [204] * 8
    assert (ProviderEvent.objects.count(), OutboxEvent.objects.count()) == (1, 1)


@pytest.mark.django_db(transaction=True)
def test_a_delivery_that_cannot_become_an_event_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it kept, the provider's repetition would be taken for a duplicate and the news be lost."""
    monkeypatch.setattr(registry, "_handlers", {})
    monkeypatch.setattr(catalog, "_types", {})
    assert mt().status_code == 500
    assert nothing_stored()
