"""Webhook endpoints over HTTP: the secret once, ETags, the log, and nothing without the scope."""

import json
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction

from commerce.api.models import IdempotencyKey
from commerce.outbox import append, catalog
from commerce.webhooks.delivery import deliver_due
from commerce.webhooks.fan_out import fan_out
from commerce.webhooks.models import WebhookEndpoint
from tests.api.conftest import Api
from tests.commerce.webhooks.conftest import AT, Receiver, happens, organization

pytestmark = pytest.mark.django_db
BODY = {"url": "https://hooks.example.com/in", "event_types": ["organization.*"]}


@pytest.fixture
def api(seller: Any) -> Api:
    return Api(seller)


def test_the_secret_is_in_the_first_answer_and_nowhere_else(api: Api) -> None:
    key = str(uuid4())
    made = api("POST", "webhook-endpoints/", BODY, Idempotency_Key=key)
    assert made.status_code == 201
    secret, id_ = made.json()["secret"], made.json()["id"]
    assert secret.startswith("whsec_")
    assert made["ETag"] == '"1"'
    assert made["Location"].endswith(f"/webhook-endpoints/{id_}/")
    again = api("POST", "webhook-endpoints/", BODY, Idempotency_Key=key)
    assert again["Idempotent-Replay"] == "true"
    assert again.json() == made.json() | {"secret": None}
    assert WebhookEndpoint.objects.count() == 1
    rotated = api("POST", f"webhook-endpoints/{id_}/rotate-secret/").json()["secret"]
    assert rotated != secret
    reads = [
        api("GET", path).content.decode() for path in ("webhook-endpoints/", f"webhook-endpoints/{id_}/")
    ]
    kept = [json.dumps(row.response) for row in IdempotencyKey.objects.all()]
    for text in (*reads, *kept):
        assert secret not in text
        assert rotated not in text


@pytest.mark.parametrize(
    ("change", "pointer", "status"),
    [
        ({"url": "https://127.0.0.1/"}, "/url", 422),
        ({"url": "http://hooks.example.com/"}, "/url", 422),
        ({"url": 7}, "/url", 400),
        ({"event_types": []}, "/event_types", 400),
        ({"event_types": ["no.such"]}, "/event_types/0", 422),
        ({"secret": "whsec_mine"}, "/secret", 400),
    ],
)
def test_a_bad_endpoint_is_refused_by_field(api: Api, change: Any, pointer: str, status: int) -> None:
    answer = api("POST", "webhook-endpoints/", BODY | change)
    assert answer.status_code == status
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert not WebhookEndpoint.objects.exists()


def test_a_change_needs_the_version_it_is_based_on(api: Api) -> None:
    id_ = api("POST", "webhook-endpoints/", BODY).json()["id"]
    path = f"webhook-endpoints/{id_}/"
    assert api("PATCH", path, {"description": "a"}).status_code == 428
    changed = api("PATCH", path, {"description": "a"}, If_Match='"1"')
    assert (changed.status_code, changed["ETag"], changed.json()["description"]) == (200, '"2"', "a")
    assert api("PATCH", path, {"description": "b"}, If_Match='"1"').status_code == 412
    assert api("DELETE", path, If_Match='"1"').status_code == 412
    assert api("GET", path).json()["description"] == "a"
    assert api("DELETE", path, If_Match='"2"').status_code == 204
    assert api("GET", path).status_code == 404
    assert api("GET", "webhook-endpoints/").json()["items"] == []


def test_a_test_event_and_its_log_can_be_followed(api: Api, receiver: Receiver) -> None:
    id_ = api("POST", "webhook-endpoints/", BODY | {"url": receiver.url}).json()["id"]
    receiver.statuses = [500]
    message = api("POST", f"webhook-endpoints/{id_}/test/").json()
    assert message["status"] == "pending"
    deliver_due(at=AT)
    shown = api("GET", f"webhook-endpoints/{id_}/").json()
    assert shown["failing_since"] is not None
    assert shown["last_success_at"] is None
    path = f"webhook-messages/{message['id']}/"
    assert api("POST", f"{path}resend/").status_code == 202
    deliver_due(at=AT)
    read = api("GET", path).json()
    assert (read["status"], read["body"]["type"], read["webhook_id"]) == (
        "delivered",
        "webhook.test",
        receiver.requests[0].id,
    )
    attempts = api("GET", f"{path}attempts/").json()["items"]
    assert [attempt["status_code"] for attempt in attempts] == [200, 500]
    listed = api("GET", f"webhook-endpoints/{id_}/messages/?status=delivered").json()["items"]
    assert [row["id"] for row in listed] == [message["id"]]
    assert api("GET", f"webhook-endpoints/{id_}/messages/?status=failed").json()["items"] == []
    assert api("GET", f"webhook-endpoints/{id_}/messages/?status=odd").status_code == 400


def test_disable_and_enable(api: Api) -> None:
    id_ = api("POST", "webhook-endpoints/", BODY).json()["id"]
    off = api("POST", f"webhook-endpoints/{id_}/disable/").json()
    assert (off["status"], off["disabled_because"]) == ("disabled", "person")
    assert api("POST", f"webhook-endpoints/{id_}/disable/").status_code == 409
    assert api("POST", f"webhook-endpoints/{id_}/test/").status_code == 409
    assert api("POST", f"webhook-endpoints/{id_}/enable/").json()["status"] == "enabled"


def test_a_key_without_the_scope_does_nothing(seller: Any) -> None:
    reader = Api(seller, "webhooks:read")
    assert reader("GET", "webhook-endpoints/").status_code == 200
    assert reader("POST", "webhook-endpoints/", BODY).status_code == 403
    stranger = Api(seller, "contracts:read")
    assert stranger("GET", "webhook-endpoints/").status_code == 403
    assert stranger("GET", "webhook-event-types/").status_code == 403
    assert not WebhookEndpoint.objects.exists()


def test_a_key_with_scopes_for_webhooks_alone_reads_nothing_else_by_them(seller: Any) -> None:
    known = catalog.event_type("payout.paid")
    assert known is not None
    everything, api = Api(seller), Api(seller, "webhooks:read", "webhooks:write", "organizations:read")
    refused = api("POST", "webhook-endpoints/", BODY | {"event_types": ["organization.*", "payout.*"]})
    assert (refused.status_code, refused.json()["scope"]) == (403, "payouts:read")
    assert not WebhookEndpoint.objects.exists()
    types = ["organization.*", "payout.*"]
    id_ = everything("POST", "webhook-endpoints/", BODY | {"event_types": types}).json()["id"]
    with transaction.atomic():
        payload = known.example | {"payee_id": str(seller.pk)}
        append("payout", payload["payout_id"], "payout.paid", payload, at=AT)
    happens(seller)
    fan_out(at=AT)
    log = f"webhook-endpoints/{id_}/messages/"
    paid, suspended = sorted(
        everything("GET", log).json()["items"], key=lambda row: row["type"], reverse=True
    )
    assert [row["id"] for row in api("GET", log).json()["items"]] == [suspended["id"]]
    assert api("GET", f"{log}?type=payout.paid").json()["items"] == []
    for method, path in (("GET", ""), ("GET", "attempts/"), ("POST", "resend/")):
        assert api(method, f"webhook-messages/{paid['id']}/{path}").status_code == 404
    shown = everything("GET", f"webhook-messages/{paid['id']}/").json()
    assert shown["body"]["data"]["amount_minor"] == known.example["amount_minor"]
    assert api("GET", f"webhook-messages/{suspended['id']}/").status_code == 200
    changed = api("PATCH", f"webhook-endpoints/{id_}/", {"url": BODY["url"] + "/mine"}, If_Match='"1"')
    assert (changed.status_code, changed.json()["scope"]) == (403, "payouts:read")
    test = api("POST", f"webhook-endpoints/{id_}/test/").json()
    assert api("GET", f"webhook-messages/{test['id']}/").json()["body"]["type"] == "webhook.test"


def test_a_leaked_secret_is_cut_off(api: Api, receiver: Receiver) -> None:
    made = api("POST", "webhook-endpoints/", BODY | {"url": receiver.url}).json()
    path = f"webhook-endpoints/{made['id']}/"
    usual = api("POST", f"{path}rotate-secret/").json()["secret"]
    cut = api("POST", f"{path}rotate-secret/", {"expire_now": True}).json()["secret"]
    assert api("POST", f"{path}rotate-secret/", {"expire_now": "soon"}).status_code == 400
    api("POST", f"{path}test/")
    assert deliver_due(at=AT).delivered == 1
    (request,) = receiver.requests
    assert request.signed_with(cut)
    assert not request.signed_with(usual)
    assert not request.signed_with(made["secret"])


def test_one_is_offered_the_types_that_one_can_hear_of(seller: Any, platform: Any) -> None:
    own = {row["name"]: row for row in Api(seller)("GET", "webhook-event-types/").json()}
    every = {row["name"]: row for row in Api(platform)("GET", "webhook-event-types/").json()}
    assert own.keys() < every.keys()
    assert "review_item.opened" in every.keys() - own.keys()
    assert own["organization.suspended"]["summary"]
    assert own["settlement_leg.paid_out"]["scopes"] == ["settlements:read"]
    assert {"ledger:read", "payouts:read"} < set(every["review_item.opened"]["scopes"])
    assert set(own["organization.suspended"]["payload_fields"]) <= set(
        every["organization.suspended"]["payload_fields"]
    )


def test_another_organizations_endpoint_is_not_there(api: Api) -> None:
    id_ = api("POST", "webhook-endpoints/", BODY).json()["id"]
    stranger = Api(organization("buyer"))
    assert stranger("GET", f"webhook-endpoints/{id_}/").status_code == 404
    assert stranger("POST", f"webhook-endpoints/{id_}/rotate-secret/").status_code == 404
    assert stranger("GET", "webhook-endpoints/").json()["items"] == []
