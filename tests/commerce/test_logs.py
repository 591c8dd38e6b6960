"""A log line is one JSON object with its context, and no secret is on it however it got there."""

import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.test import Client

from commerce.actor import Actor
from commerce.api.services import issue_key
from commerce.console.security import ContentSecurityPolicyMiddleware
from commerce.logs import JsonFormatter, actor, bound, redact
from commerce.money import Money
from commerce.parties.models import Organization

ACCOUNT = "987654321098"
IBAN = "DE89370400440532013000"
API_KEY = "ck_test_0123abcd_" + "f" * 64
CANARIES = (
    ACCOUNT,
    IBAN,
    "GB29 NWBK 6016 1331 9268 19",
    API_KEY,
    "whsec_c2VjcmV0LXNlY3JldA==",
    "Basic b3JnOnNlY3JldC1rZXk=",
    "Bearer eyJhbGciOi.eyJzdWIi.c2ln",
)
NAMED = ("account_number", "iban", "api_key", "Authorization", "webhook_secret", "password", "token")


class Opaque:
    """Something JSON does not know, whose text holds a secret."""

    def __str__(self) -> str:
        return f"<Opaque {ACCOUNT}>"


# Of its own, beside the tree of loggers, where pytest listens too.
log = logging.Logger("commerce.test", logging.INFO)  # noqa: LOG001


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log.addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().rstrip("\n").split("\n")]
    log.removeHandler(handler)


Lines = Callable[[], list[dict[str, Any]]]


def test_a_line_says_when_how_bad_where_and_what(lines: Lines) -> None:
    log.warning("paid %s of %d", "INV-1", 3, extra={"invoice": "INV-1", "amount_minor": 316_750_012_345})
    (line,) = lines()
    assert datetime.fromisoformat(line.pop("at")).tzinfo is UTC
    assert line == {
        "level": "warning",
        "logger": "commerce.test",
        "message": "paid INV-1 of 3",
        "invoice": "INV-1",
        "amount_minor": 316_750_012_345,
    }


def test_a_line_has_the_request_the_actor_and_the_event_while_they_last(lines: Lines) -> None:
    with bound(request_id="r-1", actor="user:7"):
        with bound(event_id="e-1"):
            log.info("inside")
        log.info("between")
    log.info("outside")
    inside, between, outside = lines()
    assert (inside["request_id"], inside["actor"], inside["event_id"]) == ("r-1", "user:7", "e-1")
    assert "event_id" not in between
    assert between["request_id"] == "r-1"
    assert not {"request_id", "actor", "event_id"} & outside.keys()


def test_what_was_bound_ends_with_an_exception(lines: Lines) -> None:
    with pytest.raises(RuntimeError), bound(request_id="r-1"):
        raise RuntimeError
    log.info("after")
    assert "request_id" not in lines()[0]


def test_many_lines_in_a_message_are_one_line(lines: Lines) -> None:
    log.info("first\nsecond %s", "\r\n\u2028 third")
    (line,) = lines()
    assert line["message"] == "first\nsecond \r\n\u2028 third"


def test_ids_money_and_instants_are_written_as_text(lines: Lines) -> None:
    id_ = UUID("019cd0a1-7b00-7000-8000-000000000001")
    when = datetime(2027, 3, 1, tzinfo=UTC)
    log.info(
        "x",
        extra={"id": id_, "money": Money(316_750_012_345, "USD"), "when": when, "rates": {Decimal("1.5")}},
    )
    (line,) = lines()
    assert (line["id"], line["money"]) == (str(id_), "3,167,500,123.45 USD")
    assert (line["when"], line["rates"]) == ("2027-03-01 00:00:00+00:00", ["1.5"])


@pytest.mark.parametrize("canary", CANARIES)
def test_a_secret_is_masked_wherever_it_stands(lines: Lines, canary: str) -> None:
    class Refused(Exception):
        def __init__(self, detail: str) -> None:
            super().__init__(detail, {"given": detail})

    log.info(f"a message with {canary}.")  # noqa: G004
    log.info("an argument %s", canary)
    log.info("an object as argument %r", {"nested": [canary]})
    log.info("an extra", extra={"note": f"see {canary}", "nested": {"list": [{"deep": canary}]}, canary: 1})
    log.info("too many arguments", canary)
    log.info("a wrong %d", canary)
    try:
        try:
            raise ValueError(f"first {canary}")
        except ValueError as error:
            raise Refused(f"then {canary}") from error
    except Refused as error:
        log.exception("an exception")
        log.error("an exception as argument: %s", error)
        log.error("an exception as extra", extra={"error": error, "errors": (error,)})
    log.info("the stack", extra={"set": {canary}}, stack_info=True)
    written = lines()
    assert len(written) == 10
    assert canary not in json.dumps(written, ensure_ascii=False)
    assert all("[redacted]" in json.dumps(line) for line in written)
    assert "Refused" in written[6]["exception"]
    assert "ValueError" in written[6]["exception"]


@pytest.mark.parametrize("name", NAMED)
def test_what_stands_under_a_telling_name_is_masked_whatever_it_is(lines: Lines, name: str) -> None:
    for value in ("hunter2", 123, ["hunter2"], {"x": "hunter2"}, Opaque()):
        log.info("x", extra={name: value, "nested": [{name: value}]})
    for line in lines():
        assert line[name] == "[redacted]"
        assert line["nested"] == [{name: "[redacted]"}]


@pytest.mark.parametrize(
    "text",
    [
        "password=hunter2 rest",
        "password = 'hunter2' rest",
        '{"api_key": "hunter2"} rest',
        "?token=hunter2&rest",
        "postgres://commerce:hunter2@db:5432/commerce rest",
        "redis://:hunter2@cache/0 rest",
        "Authorization: Bearer hunter2 rest",
    ],
)
def test_a_secret_inside_a_sentence_goes_and_the_sentence_stays(text: str) -> None:
    masked = redact(text)
    assert "hunter2" not in masked
    assert "rest" in masked


@pytest.mark.parametrize(
    "text",
    [
        "019cd0a1-7b00-7000-8000-000000000001",
        "019cd0a17b0070008000000000000001",
        "api_key:019cd0a1-7b00-7000-8000-000000000001",
        "2027-03-01T00:00:00+00:00",
        "31,675.00 USD",
        "billing.Invoice INV-2027-0001 paid",
        "ck_test_0123abcd_… ends",
        "http://127.0.0.1:8000/webhooks/openmeter/",
        "12345678",
        "/api/v1/contracts/",
    ],
)
def test_what_operators_need_is_not_masked(text: str) -> None:
    assert redact(text) == text


def test_an_object_nobody_foresaw_is_masked_too(lines: Lines) -> None:
    log.info("x", extra={"thing": Opaque(), "things": [Opaque()], "keyed": {Opaque(): 1}})
    (line,) = lines()
    assert ACCOUNT not in json.dumps(line)
    assert line["thing"] == "<Opaque [redacted]>"


def test_the_request_id_comes_back_and_a_foolish_one_is_replaced(db: None) -> None:
    client = Client()
    assert client.get("/livez", headers={"X-Request-ID": "my-request-1"})["X-Request-ID"] == "my-request-1"
    for foolish in ("short", "x" * 65, "a b c d e f g", "line\u0085break-here", "<script>alert(1)"):
        answer = client.get("/livez", headers={"X-Request-ID": foolish})
        assert answer["X-Request-ID"] != foolish
        assert len(answer["X-Request-ID"]) == 32


def test_the_actor_of_a_request_is_on_its_lines_and_not_on_those_of_the_next(
    db: None, django_user_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    respond = ContentSecurityPolicyMiddleware.__call__

    def look(self: Any, request: Any) -> Any:
        response = respond(self, request)
        seen.append(actor.get())
        return response

    monkeypatch.setattr(ContentSecurityPolicyMiddleware, "__call__", look)
    organization = Organization.objects.create(name="Acme", slug="acme", roles=["buyer"])
    key, plain = issue_key(
        organization=organization,
        scopes=["contracts:read"],
        label="key",
        actor=Actor.system("test"),
        at=datetime(2027, 3, 1, tzinfo=UTC),
    )
    user = django_user_model.objects.create_superuser("root")
    browser = Client()
    browser.force_login(user)
    Client().get("/api/v1/products/", headers={"Authorization": f"Bearer {plain}"})
    browser.get("/admin/")
    Client().get("/api/v1/products/")
    Client().get("/admin/")
    assert seen == [f"api_key:{key.pk}", f"user:{user.pk}", "", ""]
    assert actor.get() == ""
