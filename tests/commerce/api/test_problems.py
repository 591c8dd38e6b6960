"""Whatever goes wrong is a problem document with a stable code, and says nothing it should not."""

import json
from typing import Any

import pytest

from commerce.console.models import ReviewItem
from tests.commerce.api.conftest import THING, Api

THINGS = "/api/v1/things/"


def check(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["code"] == code
    assert body["status"] == status
    assert body["type"] == f"urn:commerce:problem:{code}"
    assert body["request_id"] == answer["X-Request-ID"]
    assert {"title", "detail", "errors", "retryable"} <= set(body)
    return body


def test_an_unknown_address_is_a_problem(api: Api) -> None:
    check(api.get("/api/v1/nothing/"), 404, "not_found")
    check(api.get(f"{THINGS}not-a-uuid/"), 404, "not_found")
    check(api.get(f"{THINGS}01920000-0000-7000-8000-000000000000/"), 404, "not_found")


def test_a_missing_slash_is_said_and_not_redirected(api: Api) -> None:
    answer = api.post(THINGS.rstrip("/"), THING)
    assert "slash" in check(answer, 404, "not_found")["detail"]
    assert not ReviewItem.objects.exists()


def test_an_unknown_address_of_the_console_is_a_page(api: Api) -> None:
    answer = api.get("/nothing/")
    assert answer.status_code == 404
    assert answer["Content-Type"].startswith("text/html")


def test_a_method_that_is_not_there_is_405(api: Api) -> None:
    answer = api.client.put(THINGS, "{}", "application/json", headers=api._headers({}))
    check(answer, 405, "method_not_allowed")
    assert "POST" in answer["Allow"]
    check(api.client.options(THINGS, headers=api._headers({})), 405, "method_not_allowed")


def test_only_json_is_read(api: Api) -> None:
    answer = api.post(THINGS, raw="kind=a", content_type="application/x-www-form-urlencoded")
    check(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "raw", ["{", "", "[1,", '{"kind": NaN}', b"\xff\xfe", '{"a": 1, "a": 2}', "[" * 100_000, "9" * 10_000]
)
def test_malformed_json_is_400(api: Api, raw: str | bytes) -> None:
    answer = api.post(THINGS, raw=raw)
    assert answer.status_code == 400
    assert answer.json()["code"] in ("malformed_json", "invalid_request")
    assert not ReviewItem.objects.exists()


@pytest.mark.parametrize(
    ("raw", "pointer", "code"),
    [
        ('{"kind": "a\\u0000b"}', "/kind", "invalid_text"),
        ('{"kind": "\\ud800"}', "/kind", "invalid_text"),
        ('{"x": {"a/b": [9007199254740992]}}', "/x/a~1b/0", "number_too_large"),
        ('{"x": 1e400}', "/x", "number_too_large"),
        ('{"x": ' + "[" * 30 + "]" * 30 + "}", "/x" + "/0" * 20, "too_deep"),
    ],
)
def test_values_nobody_could_store_name_their_place(api: Api, raw: str, pointer: str, code: str) -> None:
    body = check(api.post(THINGS, raw=raw), 400, "invalid_request")
    assert {"pointer": pointer, "code": code} in [
        {"pointer": e["pointer"], "code": e["code"]} for e in body["errors"]
    ]


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"colour": "red"}, "/colour", "unknown_field"),
        ({"kind": None}, "/kind", "null"),
        ({"price": 100}, "/price", "not_an_object"),
        ({"price": {"amount_minor": 1}}, "/price/currency", "required"),
        ({"price": {"amount_minor": "1", "currency": "USD"}}, "/price/amount_minor", "amount_not_integer"),
        ({"price": {"amount_minor": True, "currency": "USD"}}, "/price/amount_minor", "amount_not_integer"),
        ({"price": {"amount_minor": 1.5, "currency": "USD"}}, "/price/amount_minor", "amount_not_integer"),
        ({"price": {"amount_minor": 0, "currency": "USD"}}, "/price/amount_minor", "amount_too_small"),
        ({"price": {"amount_minor": 2**53, "currency": "USD"}}, "/price/amount_minor", "number_too_large"),
        ({"price": {"amount_minor": 1, "currency": "XXX"}}, "/price/currency", "unknown_currency"),
        ({"price": {"amount_minor": 1, "currency": ["USD"]}}, "/price/currency", "unknown_currency"),
        ({"price": {"amount_minor": 1, "currency": "USD", "x": 1}}, "/price/x", "unknown_field"),
        ({"due_at": "2027-03-01T00:00:00"}, "/due_at", "invalid_instant"),
        ({"due_at": "2027-03-01"}, "/due_at", "invalid_instant"),
        ({"due_at": "2027-02-30T00:00:00Z"}, "/due_at", "invalid_instant"),
        ({"due_at": "0001-01-01T00:00:00+23:00"}, "/due_at", "invalid_instant"),
        ({"due_at": 1}, "/due_at", "invalid_instant"),
        ({"lines": [{"quantity": 1}, {"quantity": -1}]}, "/lines/1/quantity", "min_value"),
        ({"lines": [{"quantity": "2"}]}, "/lines/0/quantity", "invalid"),
        ({"lines": [{"quantity": 2, "price": 1}]}, "/lines/0/price", "unknown_field"),
        ({"lines": {"quantity": 2}}, "/lines", "not_a_list"),
    ],
)
def test_bad_input_names_the_field_and_writes_nothing(
    api: Api, change: dict[str, Any], pointer: str, code: str
) -> None:
    body = check(api.post(THINGS, THING | change), 400, "invalid_request")
    assert [(e["pointer"], e["code"]) for e in body["errors"]] == [(pointer, code)]
    assert not ReviewItem.objects.exists()


def test_every_fault_is_named_at_once(api: Api) -> None:
    body = check(api.post(THINGS, {"colour": 1, "price": {}}), 400, "invalid_request")
    assert {e["pointer"] for e in body["errors"]} == {
        "/colour",
        "/kind",
        "/price/amount_minor",
        "/price/currency",
    }


def test_a_body_that_is_no_object_is_refused(api: Api) -> None:
    for raw in ("[]", '"text"', "7", "null"):
        check(api.post(THINGS, raw=raw), 400, "invalid_request")


def test_a_query_parameter_nobody_declared_is_400(api: Api) -> None:
    for query in ("color=red", "page=2", "page_size=0", "page_size=201", "page_size=x"):
        body = check(api.get(f"{THINGS}?{query}"), 400, "invalid_request")
        assert body["errors"][0]["pointer"] == f"?{query.partition('=')[0]}"
    check(api.get(f"{THINGS}?kind=%00"), 400, "invalid_request")
    thing = api.post(THINGS, THING).json()["id"]
    check(api.get(f"{THINGS}{thing}/?kind=plain"), 400, "invalid_request")


def test_extra_members_tell_more(api: Api) -> None:
    assert check(api.post(THINGS, THING | {"kind": "poor"}), 409, "insufficient_funds")["balance_minor"] == 5


def test_an_unforeseen_failure_says_nothing_about_the_inside(api: Api) -> None:
    answer = api.post(THINGS, THING | {"kind": "bug"})
    check(answer, 500, "internal_error")
    assert "secret" not in json.dumps(answer.json())
    away = api.get(f"{THINGS}away/")
    check(away, 503, "busy")
    assert "10.0.0.1" not in away.content.decode()


def test_a_change_names_the_version_it_is_based_on(api: Api) -> None:
    change = f"{THINGS}{api.post(THINGS, THING).json()['id']}/change/"
    check(api.post(change, {}), 428, "precondition_required")
    check(api.post(change, {}, **{"If-Match": '"2"'}), 412, "version_conflict")
    check(api.post(change, {}, **{"If-Match": "new"}), 422, "invalid_if_match")
    assert api.post(change, {}, **{"If-Match": '"1"'}).status_code == 200


def test_what_was_answered_may_not_be_cached_or_run(api: Api) -> None:
    answer = api.get(THINGS)
    assert answer["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer["Cache-Control"] == "no-store"
    assert answer["X-Content-Type-Options"] == "nosniff"
