"""What the wire may do to us, and what each accident is called: against a server that misbehaves."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from commerce.errors import CommerceError, Rejected, Retryable, Unknown
from commerce.logs import JsonFormatter
from commerce.money import Money
from commerce.outbox import breaker
from commerce.providers import modern_treasury, openmeter

Reply = Callable[[BaseHTTPRequestHandler], None]
CANARY = "987654321098"


class Misbehaving(ThreadingHTTPServer):
    """Gives every request the same `reply`, and counts them."""

    daemon_threads = True

    def __init__(self) -> None:
        self.reply: Reply = answer(200, b"{}")
        self.requests: list[str] = []

        class Door(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                self.rfile.read(length)
                self.server.requests.append(self.command)  # type: ignore[attr-defined]
                self.server.reply(self)  # type: ignore[attr-defined]

            do_GET = do_POST = do_PUT = do_PATCH = handle_any

            def log_message(self, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Door)


def answer(status: int, body: bytes, content_type: str = "application/json") -> Reply:
    def reply(door: BaseHTTPRequestHandler) -> None:
        door.send_response(status)
        door.send_header("Content-Type", content_type)
        door.send_header("Content-Length", str(len(body)))
        door.end_headers()
        door.wfile.write(body)

    return reply


def hang_up(door: BaseHTTPRequestHandler) -> None:
    door.close_connection = True
    door.connection.shutdown(socket.SHUT_RDWR)


def hang_up_midway(door: BaseHTTPRequestHandler) -> None:
    door.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\nContent-Type: application/json\r\n\r\n{"id"')
    hang_up(door)


def never(door: BaseHTTPRequestHandler) -> None:
    time.sleep(1)
    hang_up(door)


@pytest.fixture
def server(settings: Any) -> Iterator[Misbehaving]:
    server = Misbehaving()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    settings.MODERN_TREASURY_BASE_URL = settings.OPENMETER_BASE_URL = base
    settings.MODERN_TREASURY_ORGANIZATION_ID, settings.MODERN_TREASURY_API_KEY = "organization", "key"
    settings.PROVIDER_TIMEOUT_SECONDS = 0.3
    yield server
    server.shutdown()
    server.server_close()


def mt_get() -> Any:
    return modern_treasury.client().payment_order("po")


def mt_create() -> Any:
    return modern_treasury.client().create_payment_order(
        external_id="p", amount=Money(1, "USD"), receiving_account_id="a", key="k"
    )


def mt_update() -> Any:
    return modern_treasury.client().cancel_payment_order("po", key="k")


def om_get() -> Any:
    return openmeter.client().invoice("i")


def om_post() -> Any:
    return openmeter.client().cancel_subscription("s", timing="immediate")


def om_put() -> Any:
    return openmeter.client().assign_billing_profile(customer_id="c", billing_profile_id="b")


READS = [mt_get, om_get, om_put]
WRITES = [mt_create, mt_update, om_post]


@pytest.mark.parametrize("call", [*READS, *WRITES])
def test_a_closed_door_is_retryable_because_nothing_was_sent(call: Callable[[], Any], settings: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{unused.getsockname()[1]}"
    settings.MODERN_TREASURY_BASE_URL = settings.OPENMETER_BASE_URL = base
    settings.MODERN_TREASURY_ORGANIZATION_ID, settings.MODERN_TREASURY_API_KEY = "organization", "key"
    with breaker.listening() as line, pytest.raises(Retryable):
        call()
    assert (line.heard, line.missed) == (False, True)


@pytest.mark.parametrize("accident", [hang_up, hang_up_midway, never, answer(200, b"<html>", "text/html")])
@pytest.mark.parametrize("call", READS)
def test_a_read_without_answer_is_retryable(
    server: Misbehaving, call: Callable[[], Any], accident: Reply
) -> None:
    server.reply = accident
    with pytest.raises((Retryable, Rejected)) as failure:
        call()
    assert failure.type is Retryable or failure.value.code == "provider_malformed"
    assert len(server.requests) == 1


@pytest.mark.parametrize("accident", [hang_up, hang_up_midway, never, answer(201, b'{"id": ')])
@pytest.mark.parametrize("call", WRITES)
def test_a_write_without_answer_is_unknown_and_sent_once(
    server: Misbehaving, call: Callable[[], Any], accident: Reply
) -> None:
    server.reply = accident
    with pytest.raises(Unknown):
        call()
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (400, Rejected), (401, Retryable), (403, Rejected), (404, Rejected), (422, Rejected), (501, Rejected),
        (301, Rejected), (429, Retryable), (503, Retryable), (500, Unknown), (502, Unknown), (504, Unknown),
    ],
)  # fmt: skip
def test_statuses_of_a_write_that_the_provider_cannot_recognise(
    server: Misbehaving, status: int, failure: type[CommerceError]
) -> None:
    problem = b'{"title": "T", "detail": "no", "extensions": {"validationErrors": [{"code": "why"}]}}'
    server.reply = answer(status, problem, "application/problem+json")
    with pytest.raises(failure) as raised:
        om_post()
    assert raised.type is failure
    assert raised.value.extra["provider_code"] == "why"
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_statuses_of_a_write_under_a_key_are_retryable(server: Misbehaving, status: int) -> None:
    server.reply = answer(status, b'{"errors": {"code": "later"}}')
    with pytest.raises(Retryable) as raised:
        mt_create()
    assert raised.value.extra["provider_code"] == "later"


KEY_REFUSED = [(401, b"invalid_key"), (401, b""), (403, b"expired_key"), (403, b"invalid_ip")]


@pytest.mark.parametrize(("status", "code"), KEY_REFUSED)
def test_a_key_of_ours_that_is_refused_says_nothing_of_what_was_asked(
    server: Misbehaving, status: int, code: bytes
) -> None:
    server.reply = answer(status, b'{"errors": {"code": "%s", "message": "no"}}' % code)
    for call in (mt_get, mt_create):
        with breaker.listening() as line, pytest.raises(Retryable, match="set MODERN_TREASURY_API_KEY right"):
            call()
        assert (line.heard, line.missed) == (False, True)


def test_what_a_key_that_is_let_in_may_not_do_is_an_answer(server: Misbehaving) -> None:
    server.reply = answer(403, b'{"errors": {"code": "forbidden", "message": "no"}}')
    for call in (mt_create, om_post):
        with breaker.listening() as line, pytest.raises(Rejected):
            call()
        assert (line.heard, line.missed) == (True, False)


@pytest.mark.parametrize(("status", "missed"), [(503, True), (429, True), (500, False), (502, False)])
def test_a_provider_that_is_away_is_told_from_one_that_stumbles(
    server: Misbehaving, status: int, missed: bool
) -> None:
    server.reply = answer(status, b"{}")
    for call in (mt_get, mt_create, om_get, om_post):
        with breaker.listening() as line, pytest.raises((Retryable, Unknown)):
            call()
        assert (line.heard, line.missed) == (False, missed)


def test_a_conflict_under_a_key_is_unknown_because_its_twin_may_be_running(server: Misbehaving) -> None:
    server.reply = answer(409, b'{"errors": {"code": "conflict", "message": "in progress"}}')
    with pytest.raises(Unknown):
        mt_create()


@pytest.mark.parametrize("body", [b"", b"[]", b'"text"', b"null", b'{"errors": 5}', b"\xff\xfe", b"<html>"])
def test_an_error_without_sense_is_still_an_error(server: Misbehaving, body: bytes) -> None:
    server.reply = answer(422, body)
    for call in (mt_create, om_post):
        with pytest.raises(Rejected):
            call()


ORDER = (
    b'{"id": "po", "object": "payment_order", "live_mode": %s, "amount": %s, "currency": "USD",'
    b' "external_id": "p", "receiving_account_id": "a", "status": "%s"}'
)


@pytest.mark.parametrize("amount", [b'"1"', b"1.5", b"true", b"null", b"9007199254740992"])
def test_an_amount_that_is_no_whole_number_is_refused(server: Misbehaving, amount: bytes) -> None:
    server.reply = answer(200, ORDER % (b"false", amount, b"sent"))
    with pytest.raises(Rejected) as raised:
        mt_get()
    assert raised.value.code == "provider_malformed"


def test_an_object_of_another_kind_mode_or_amount_is_refused(server: Misbehaving) -> None:
    server.reply = answer(200, ORDER % (b"true", b"1", b"sent"))
    with pytest.raises(Rejected, match="live mode"):
        mt_get()
    server.reply = answer(200, b'{"id": "c", "object": "counterparty", "live_mode": false}')
    with pytest.raises(Rejected, match="counterparty"):
        mt_get()
    server.reply = answer(201, ORDER % (b"false", b"2", b"sent"))
    with pytest.raises(Rejected) as raised:
        mt_create()
    assert raised.value.code == "provider_mismatch"


def test_a_patch_that_changed_nothing_is_refused(server: Misbehaving) -> None:
    server.reply = answer(200, ORDER % (b"false", b"1", b"processing"))
    with pytest.raises(Rejected) as raised:
        mt_update()
    assert raised.value.code == "provider_ignored_update"


def test_unknown_fields_and_states_pass(server: Misbehaving) -> None:
    server.reply = answer(200, ORDER % (b"false", b"1", b"a_new_state"))
    assert mt_get().status == "a_new_state"


def test_a_list_goes_on_over_blank_pages_and_leaves_out_what_was_discarded(server: Misbehaving) -> None:
    row = '{"id": "%s", "object": "counterparty", "live_mode": false, "external_id": "e", "discarded_at": %s}'
    pages = {
        "": ("one", "[" + row % ("a", '"2027-03-01T00:00:00Z"') + "]"),
        "one": ("two", "[]"),
        "two": (None, "[" + row % ("b", "null") + "]"),
    }

    def reply(door: BaseHTTPRequestHandler) -> None:
        query = parse_qs(urlsplit(door.path).query)
        following, body = pages[query.get("after_cursor", [""])[0]]
        door.send_response(200)
        door.send_header("Content-Type", "application/json")
        door.send_header("Content-Length", str(len(body)))
        if following:
            door.send_header("X-After-Cursor", following)
            door.send_header("X-Per-Page", query["per_page"][0])
        door.end_headers()
        door.wfile.write(body.encode())

    server.reply = reply
    found = modern_treasury.client().find_counterparty("e")
    assert found
    assert found.id == "b"
    assert len(server.requests) == 3


def test_two_objects_with_our_reference_are_for_a_person(server: Misbehaving) -> None:
    row = b'{"id": "%s", "object": "counterparty", "live_mode": false, "external_id": "e"}'
    server.reply = answer(200, b"[" + row % b"a" + b"," + row % b"b" + b"]")
    with pytest.raises(Rejected) as raised:
        modern_treasury.client().find_counterparty("e")
    assert raised.value.code == "provider_duplicate"


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"id": 1, "statusDetails": 5}', b'{"id":"i","totals":{"total": 1.5},"statusDetails":{}}'],
)
def test_an_invoice_without_sense_is_refused(server: Misbehaving, body: bytes) -> None:
    server.reply = answer(200, body)
    with pytest.raises(Rejected) as raised:
        om_get()
    assert raised.value.code == "provider_malformed"


def test_account_numbers_reach_neither_logs_nor_errors(
    server: Misbehaving, caplog: pytest.LogCaptureFixture
) -> None:
    echo = b'{"errors": {"code": "parameter_invalid", "message": "account_number %s is no good"}}'
    server.reply = answer(422, echo % CANARY.encode())
    with caplog.at_level(logging.DEBUG), pytest.raises(Rejected) as raised:
        modern_treasury.client().create_external_account(
            external_id="e",
            counterparty_id="c",
            party_name="N",
            account_number=CANARY,
            routing_number="121141822",
            routing_number_type="aba",
            account_type="checking",
            metadata={},
            key="k",
        )
    assert CANARY not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    calls = [record for record in caplog.records if record.name.startswith("commerce")]
    lines = [JsonFormatter().format(record) for record in calls]
    assert any('"status": 422' in line for line in lines)
    assert not any(CANARY in line for line in lines)
