"""Webhook endpoints over HTTP: the secret once, ETags, the log, and nothing without the scope."""

import json
from typing import Any
from uuid import uuid4

import pytest

from commerce.api.models import IdempotencyKey
from commerce.webhooks.delivery import deliver_due
from commerce.webhooks.models import WebhookEndpoint
from tests.api.conftest import Api
from tests.commerce.webhooks.conftest import AT, Receiver, organization

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


def test_one_is_offered_the_types_that_one_can_hear_of(seller: Any, platform: Any) -> None:
    own = {row["name"]: row for row in Api(seller)("GET", "webhook-event-types/").json()}
    every = {row["name"]: row for row in Api(platform)("GET", "webhook-event-types/").json()}
    assert own.keys() < every.keys()
    assert "review_item.opened" in every.keys() - own.keys()
    assert own["organization.suspended"]["summary"]
    assert set(own["organization.suspended"]["payload_fields"]) <= set(
        every["organization.suspended"]["payload_fields"]
    )


def test_another_organizations_endpoint_is_not_there(api: Api) -> None:
    id_ = api("POST", "webhook-endpoints/", BODY).json()["id"]
    stranger = Api(organization("buyer"))
    assert stranger("GET", f"webhook-endpoints/{id_}/").status_code == 404
    assert stranger("POST", f"webhook-endpoints/{id_}/rotate-secret/").status_code == 404
    assert stranger("GET", "webhook-endpoints/").json()["items"] == []
