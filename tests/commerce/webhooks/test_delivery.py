"""Sending: at least once under one id, on a schedule, fenced, and nobody waits for another's receiver."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from commerce.console.models import ReviewItem
from commerce.models import TransitionLog
from commerce.webhooks import delivery, sending, services
from commerce.webhooks.delivery import AT_ONCE, JITTER, PER_ENDPOINT, PER_ORGANIZATION, SCHEDULE, deliver_due
from commerce.webhooks.fan_out import fan_out
from commerce.webhooks.invariants import lost_messages
from commerce.webhooks.models import WebhookEndpoint, WebhookHealth, WebhookMessage
from commerce.webhooks.tasks import keep
from tests.commerce.webhooks.conftest import AT, SYSTEM, Receiver, endpoint, happens, make_due, organization
from tests.concurrency.outbox.sides import Side, stop_before

pytestmark = pytest.mark.django_db


def failing_for(endpoint_id: Any, since: timedelta) -> None:
    WebhookHealth.objects.filter(pk=endpoint_id).update(failing_since=timezone.now() - since)


def test_a_2xx_is_delivered_once_and_logged(told: Any, receiver: Receiver) -> None:
    message = told()
    assert deliver_due(at=AT).delivered == 1
    assert deliver_due(at=AT).sent == 0
    (request,) = receiver.requests
    assert request.id == message.webhook_id
    assert request.headers["content-type"] == "application/json"
    assert request.body == bytes(WebhookMessage.objects.get(pk=message.pk).body)
    message.refresh_from_db()
    assert (message.status, message.attempts, message.due_at) == ("delivered", 1, None)
    attempt = message.log.get()
    assert (attempt.status_code, attempt.number, attempt.error, attempt.answer) == (200, 1, "", "thank you")
    assert message.endpoint.health.last_success_at is not None
    assert not list(lost_messages())


@pytest.mark.parametrize("status", [300, 302, 307, 400, 401, 404, 429, 500, 503])
def test_what_is_not_2xx_is_tried_again_later(told: Any, receiver: Receiver, status: int) -> None:
    message = told()
    receiver.status, receiver.headers = status, {"Location": f"{receiver.url}/elsewhere"}
    before = timezone.now()
    assert deliver_due(at=AT).failed == 1
    message.refresh_from_db()
    assert message.status == "pending"
    assert message.lease_token is None
    wait = message.due_at - before
    assert SCHEDULE[0] * (1 - JITTER) <= wait <= SCHEDULE[0] * (1 + JITTER) + timedelta(seconds=2)
    assert deliver_due(at=AT).sent == 0, "it is not due yet"
    assert [request.path for request in receiver.requests] == ["/hook"], "a redirect is not followed"


def test_the_attempts_last_over_three_days_under_one_id_and_then_it_has_failed(
    told: Any, receiver: Receiver
) -> None:
    assert timedelta(days=3) < sum(SCHEDULE, timedelta()) < timedelta(days=3.5)
    message = told()
    receiver.status = 500
    for attempt in range(1, len(SCHEDULE) + 2):
        make_due(message)
        before = timezone.now()
        assert deliver_due(at=AT).failed == 1
        message.refresh_from_db()
        assert message.attempts == attempt
        if attempt <= len(SCHEDULE):
            planned = SCHEDULE[attempt - 1]
            assert planned * 0.9 <= message.due_at - before <= planned * 1.1 + timedelta(seconds=2)
    assert message.status == "failed"
    assert message.due_at is None
    assert {request.id for request in receiver.requests} == {message.webhook_id}
    assert len(receiver.requests) == message.log.count() == len(SCHEDULE) + 1
    assert deliver_due(at=AT).sent == 0
    assert message.endpoint.health.failing_since is not None


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("120", 120, 122),
        ("0", 4, 7),
        ("999999999", 86_400, 86_402),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 4, 7),
        ("soon", 4, 7),
        ("-5", 4, 7),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", 4, 7),
        ("Wed, 21 Oct 2100 07:28:00 +99999999999999999999", 4, 7),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 4, 7),
    ],
)
def test_retry_after_is_honoured_up_to_a_day(
    told: Any, receiver: Receiver, header: str, least: int, most: int
) -> None:
    message = told()
    receiver.status, receiver.headers = 503, {"Retry-After": header}
    before = timezone.now()
    deliver_due(at=AT)
    message.refresh_from_db()
    assert timedelta(seconds=least) <= message.due_at - before <= timedelta(seconds=most)


def test_an_exchange_that_breaks_in_a_way_nobody_foresaw_is_a_failed_attempt_and_the_others_are_settled(
    told: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def broken(host: str, *rest: Any, **more: Any) -> Any:
        if host == "broken.example":
            raise RecursionError("hunter2")
        return real(host, *rest, **more)

    bad, good = told("/bad"), [told(f"/good{n}") for n in range(5)]
    WebhookEndpoint.objects.filter(pk=bad.endpoint_id).update(url="http://broken.example:1025/")
    monkeypatch.setattr(socket, "getaddrinfo", broken)
    report = deliver_due(at=AT)
    assert (report.delivered, report.failed) == (5, 1)
    assert {WebhookMessage.objects.get(pk=one.pk).status for one in good} == {"delivered"}
    bad.refresh_from_db()
    assert (bad.status, bad.lease_token, bad.log.get().error) == ("pending", None, "RecursionError")


def test_who_answers_and_then_drips_keeps_no_hand(told: Any, settings: Any) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = ["127.0.0.0/8"]

    def drip(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(1000):
                connection.sendall(b"x")
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: drip(server.accept()[0]), daemon=True)
        thread.start()
        begin = time.monotonic()
        outcome = sending.post(f"http://127.0.0.1:{server.getsockname()[1]}/", b"{}", {})
    assert outcome.delivered, outcome
    assert set(outcome.answer) == {"x"}
    assert time.monotonic() - begin < sending.REST_SECONDS + 1


def test_nobody_listening_is_a_failed_attempt(seller: Any, settings: Any) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    to, _ = endpoint(seller, "http://127.0.0.1:1025/")
    message = services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    assert deliver_due(at=AT).failed == 1
    attempt = message.log.get()
    assert attempt.status_code is None
    assert "ConnectError" in attempt.error


def test_an_answer_that_drips_ends_at_the_deadline(
    told: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "WHOLE_SECONDS", 0.4)
    receiver.delay = 2.0
    message = told()
    begin = time.monotonic()
    assert deliver_due(at=AT).failed == 1
    assert time.monotonic() - begin < 1.5
    assert message.log.get().error == "No answer in time."


def test_a_name_server_that_is_silent_holds_a_hand_no_longer_than_an_exchange_may_take(
    told: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a lease would end before the exchange, and another worker would send beside it."""
    assert timedelta(seconds=2 * sending.WHOLE_SECONDS) < delivery.LEASE
    answered, real = threading.Event(), socket.getaddrinfo

    def silent(host: str, *rest: Any, **more: Any) -> Any:
        if host == "silent.example":
            answered.wait(20)
        return real(host, *rest, **more)

    message, good = told("/silent"), told("/good")
    WebhookEndpoint.objects.filter(pk=message.endpoint_id).update(url="http://silent.example:1025/")
    monkeypatch.setattr(socket, "getaddrinfo", silent)
    monkeypatch.setattr(sending, "WHOLE_SECONDS", 0.4)
    begin = time.monotonic()
    report = deliver_due(at=AT)
    assert time.monotonic() - begin < 3
    answered.set()
    assert (report.delivered, report.failed) == (1, 1)
    assert message.log.get().error == "No answer in time."
    assert [request.id for request in receiver.requests] == [good.webhook_id]


def test_of_a_long_answer_the_first_kilobyte_is_kept_without_secrets(told: Any, receiver: Receiver) -> None:
    receiver.body = b"password=hunter2 \x00" + b"x" * 100_000
    message = told()
    assert deliver_due(at=AT).delivered == 1
    answer = message.log.get().answer
    assert len(answer) <= 1024
    assert "hunter2" not in answer


def test_a_success_ends_the_time_of_failing(told: Any, receiver: Receiver) -> None:
    message = told()
    receiver.statuses = [500]
    deliver_due(at=AT)
    health = message.endpoint.health
    health.refresh_from_db()
    assert health.failing_since is not None
    make_due(message)
    deliver_due(at=AT)
    health.refresh_from_db()
    assert health.failing_since is None
    assert health.last_success_at is not None


def test_an_endpoint_that_fails_for_five_days_is_disabled_for_a_person_to_see_and_loses_nothing(
    seller: Any, receiver: Receiver
) -> None:
    to, _ = endpoint(seller, receiver.url)
    events = [happens(seller) for _ in range(3)]
    fan_out(at=AT)
    receiver.status = 500
    deliver_due(at=AT)
    failing_for(to.pk, timedelta(days=4, hours=23))
    make_due(*to.messages.all())
    deliver_due(at=AT)
    to.refresh_from_db()
    assert to.status == "enabled"

    failing_for(to.pk, timedelta(days=5))
    make_due(*to.messages.all())
    deliver_due(at=AT)
    to.refresh_from_db()
    assert (to.status, to.disabled_because) == ("disabled", "failing")
    log = TransitionLog.objects.get(object_id=str(to.pk))
    assert (log.source, log.target, log.actor) == ("enabled", "disabled", "system:webhooks")
    review = ReviewItem.objects.get(kind="webhook_endpoint_failing")
    assert (review.subject_type, review.subject_id) == ("webhooks.webhookendpoint", str(to.pk))

    events.append(happens(seller))
    fan_out(at=AT)
    sent = len(receiver.requests)
    make_due(*to.messages.all())
    assert deliver_due(at=AT).sent == 0
    assert len(receiver.requests) == sent
    assert {m.status for m in to.messages.all()} == {"pending"}

    receiver.status = 200
    services.enable_endpoint(endpoint=to, actor=SYSTEM, at=AT)
    assert deliver_due(at=AT).delivered == 4
    delivered = {r.json["data"]["id"] for r in receiver.requests[sent:]}
    assert delivered == {str(event.event_id) for event in events}
    review.refresh_from_db()
    assert review.status == "resolved"


def test_an_endpoint_that_failed_and_was_sent_nothing_since_is_disabled_after_five_days_too(
    told: Any, receiver: Receiver
) -> None:
    """Its last message failed for good after three days: no attempt will ever tell of it."""
    quiet, recent, _ = (told(f"/{name}") for name in ("quiet", "recent", "well"))
    WebhookMessage.objects.update(due_at=None, failed_at=timezone.now(), attempts=len(SCHEDULE) + 1)
    failing_for(quiet.endpoint_id, timedelta(days=33))
    failing_for(recent.endpoint_id, timedelta(days=4, hours=23))
    assert delivery.status()["failing_seconds"] > 5 * 86_400
    assert keep() == 1
    assert keep() == 0
    by_path = {to.url.rpartition("/")[2]: to for to in WebhookEndpoint.objects.all()}
    to = by_path.pop("quiet")
    assert (to.status, to.disabled_because) == ("disabled", "failing")
    assert {other.status for other in by_path.values()} == {"enabled"}
    assert TransitionLog.objects.get(object_id=str(to.pk)).actor == "system:webhooks"
    review = ReviewItem.objects.get(kind="webhook_endpoint_failing")
    assert review.subject_id == str(to.pk)
    assert delivery.status()["failing_seconds"] < 5 * 86_400
    assert receiver.requests == []

    services.enable_endpoint(endpoint=to, actor=SYSTEM, at=AT)
    receiver.status = 500
    told(to=to)
    deliver_due(at=AT)
    assert keep() == 0
    to.refresh_from_db()
    assert to.status == "enabled", "its five days begin anew"


@pytest.mark.django_db(transaction=True)
def test_an_endpoint_that_somebody_works_on_is_not_waited_for(told: Any) -> None:
    busy, other = (told(f"/{n}").endpoint for n in range(2))
    for one in (busy, other):
        failing_for(one.pk, timedelta(days=6))
    WebhookMessage.objects.update(due_at=None, failed_at=timezone.now())
    done: list[int] = []

    def work() -> None:
        done.append(delivery.disable_failing(at=AT))
        connection.close()

    with transaction.atomic():
        WebhookEndpoint.objects.select_for_update(no_key=True).get(pk=busy.pk)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10)
        assert done == [1]
    assert delivery.disable_failing(at=AT) == 1
    assert set(WebhookEndpoint.objects.values_list("status", flat=True)) == {"disabled"}


def test_an_endpoint_is_not_disabled_for_what_our_own_workers_left_undone(
    told: Any, receiver: Receiver
) -> None:
    """It failed once; then nothing was sent for five days, to anybody."""
    message = told()
    receiver.status = 500
    deliver_due(at=AT)
    failing_for(message.endpoint_id, timedelta(days=6))
    make_due(message)
    assert delivery.disable_failing(at=AT) == 0
    receiver.status = 200
    assert deliver_due(at=AT).delivered == 1
    assert delivery.disable_failing(at=AT) == 0
    message.endpoint.refresh_from_db()
    assert (message.endpoint.status, message.endpoint.health.failing_since) == ("enabled", None)
    assert not ReviewItem.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "change",
    [
        lambda to: services.update_endpoint(endpoint=to, url=f"{to.url}/2", actor=SYSTEM, at=AT),
        lambda to: services.resend_failed(endpoint=to, since=AT, actor=SYSTEM, at=AT),
    ],
    ids=["another-url", "resend-failed"],
)
def test_a_delivery_and_a_person_who_changes_the_endpoint_do_not_block_each_other(
    told: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, change: Callable[[WebhookEndpoint], Any]
) -> None:
    """The delivery has noted the endpoint's health and is about to disable it."""
    message = told()
    receiver.status = 410
    point = stop_before(monkeypatch, delivery, "_disable")
    sending = Side(lambda: deliver_due(at=AT))
    point.reached()
    person = Side(lambda: change(message.endpoint))
    person.waits_for_a_lock()
    point.go()
    assert sending.answer().failed == 1
    person.answer()
    message.refresh_from_db()
    assert (message.log.count(), message.lease_token) == (1, None), "the attempt is not recorded"
    assert WebhookEndpoint.objects.get().status == "disabled"


def test_410_gone_disables_at_once(told: Any, receiver: Receiver) -> None:
    message = told()
    other = told(to=message.endpoint)
    receiver.status = 410
    deliver_due(at=AT)
    message.endpoint.refresh_from_db()
    assert (message.endpoint.status, message.endpoint.disabled_because) == ("disabled", "gone")
    assert ReviewItem.objects.filter(kind="webhook_endpoint_failing").count() == 1
    for one in (message, other):
        one.refresh_from_db()
        assert one.status == "pending"


def test_a_lease_that_ended_is_sent_again_under_the_same_id(told: Any, receiver: Receiver) -> None:
    """The receiver has answered, and the worker died before it could say so."""
    message = told()
    (claimed,) = delivery._claim(uuid4(), 5, 0)
    assert delivery._send(claimed).delivered
    assert deliver_due(at=AT).sent == 0, "it is leased"
    make_due(message)
    assert deliver_due(at=AT).delivered == 1
    assert [request.id for request in receiver.requests] == [message.webhook_id] * 2
    message.refresh_from_db()
    assert (message.status, message.attempts) == ("delivered", 2)


def test_who_lost_the_lease_changes_nothing_but_the_log(told: Any, receiver: Receiver) -> None:
    message = told()
    token = uuid4()
    (claimed,) = delivery._claim(token, 5, 0)
    make_due(message)
    assert deliver_due(at=AT).delivered == 1
    late = sending.Outcome(500, "Answered 500.", 60_000)
    report = delivery.Report()
    delivery._settle([(claimed, late)], token, report, AT)
    assert (report.lost, report.failed) == (1, 0)
    message.refresh_from_db()
    assert message.status == "delivered"
    assert sorted(message.log.values_list("status_code", flat=True)) == [200, 500]
    assert message.endpoint.health.failing_since is None


def test_an_endpoint_has_a_few_in_flight_and_a_failing_one_a_single_one(told: Any) -> None:
    well, failing = told("/well"), told("/failing")
    for _ in range(9):
        told(to=well.endpoint)
        told(to=failing.endpoint)
    failing_for(failing.endpoint.pk, timedelta(minutes=1))
    found = delivery._claim(uuid4(), AT_ONCE, 0) + delivery._claim(uuid4(), AT_ONCE, 0)
    by_path = [claimed.message.endpoint.url.rpartition("/")[2] for claimed in found]
    assert by_path.count("well") == PER_ENDPOINT
    assert by_path.count("failing") == 1


def test_an_organization_with_many_slow_endpoints_does_not_hold_back_another(
    seller: Any, receiver: Receiver
) -> None:
    """Slow, and yet they answer 2xx: no failure ever tells on them."""
    other = organization("seller")
    for n in range(20):
        to, _ = endpoint(other, f"{receiver.url}/slow{n}")
        receiver.slow[f"/slow{n}"] = 1.0
        for _ in range(2):
            services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    good = [
        services.send_test_event(endpoint=endpoint(seller, f"{receiver.url}/good")[0], actor=SYSTEM, at=AT)
        for _ in range(5)
    ]
    deliver_due(at=AT, seconds=0.5)
    assert {WebhookMessage.objects.get(pk=one.pk).status for one in good} == {"delivered"}
    slow = [request for request in receiver.requests if request.path.startswith("/slow")]
    assert len(slow) == PER_ORGANIZATION


def test_each_endpoint_of_an_organization_gets_its_turn(seller: Any) -> None:
    owners = [endpoint(seller, f"https://hooks.example.com/{n}")[0] for n in range(5)]
    for to in owners:
        for _ in range(PER_ENDPOINT * 2):
            services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    heard = []
    for _ in owners:
        claimed = delivery._claim(uuid4(), PER_ENDPOINT, 0)
        heard += [one.message.endpoint_id for one in claimed]
        WebhookMessage.objects.filter(pk__in=[one.message.pk for one in claimed]).update(
            lease_token=None, due_at=timezone.now()
        )
    assert {heard.count(to.pk) for to in owners} == {PER_ENDPOINT}


def test_a_lease_is_counted_by_the_clock_of_the_database(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose own clock is ahead does not take what another is sending."""
    told()
    assert len(delivery._claim(uuid4(), 1, 0)) == 1
    ahead = timezone.now() + delivery.LEASE * 2
    monkeypatch.setattr(timezone, "now", lambda: ahead)
    assert delivery._claim(uuid4(), 1, 0) == []


def test_what_we_cannot_sign_costs_the_endpoint_nothing_and_a_person_is_told(
    told: Any, receiver: Receiver, settings: Any
) -> None:
    messages = [told(f"/{n}") for n in range(3)]
    settings.SECRET_KEY, kept = "another" * 10, settings.SECRET_KEY
    before = timezone.now()
    assert deliver_due(at=AT).sent == 0
    assert receiver.requests == []
    for message in messages:
        message.refresh_from_db()
        assert (message.status, message.attempts, message.lease_token) == ("pending", 0, None)
        assert message.due_at >= before + delivery.UNREADABLE_WAIT - timedelta(seconds=5)
        assert not message.log.exists()
        assert message.endpoint.health.failing_since is None
    review = ReviewItem.objects.get(kind=delivery.UNREADABLE)
    settings.SECRET_KEY = kept
    services.rotate_secret(endpoint=WebhookEndpoint.objects.get(pk=review.subject_id), actor=SYSTEM, at=AT)
    review.refresh_from_db()
    assert review.status == "resolved"
    make_due(*messages)
    assert deliver_due(at=AT).delivered == 3


def test_many_failing_endpoints_leave_half_of_the_hands_to_the_others(
    seller: Any, receiver: Receiver
) -> None:
    owners = [organization("seller") for _ in range(2)]
    failing = [endpoint(owner, receiver.url)[0] for owner in owners for _ in range(AT_ONCE // 2 + 2)]
    for one in failing:
        services.send_test_event(endpoint=one, actor=SYSTEM, at=AT)
        failing_for(one.pk, timedelta(minutes=1))
    assert len(delivery._claim(uuid4(), AT_ONCE, 0)) == AT_ONCE // 2
    assert delivery._claim(uuid4(), AT_ONCE, AT_ONCE // 2) == []


def test_a_slow_endpoint_does_not_hold_back_another(told: Any, receiver: Receiver) -> None:
    slow = told("/slow")
    for _ in range(AT_ONCE):
        told(to=slow.endpoint)
    quick = told("/quick")
    receiver.slow = {"/slow": 1.0}
    begin = time.monotonic()
    deliver_due(at=AT, seconds=0.5)
    assert time.monotonic() - begin < 4
    quick.refresh_from_db()
    assert quick.status == "delivered"
    first = [request.path for request in receiver.requests[: PER_ENDPOINT + 1]]
    assert first.count("/quick") == 1
    assert receiver.most_at_once <= PER_ENDPOINT + 1


def test_a_backlog_of_disabled_endpoints_is_not_looked_at(told: Any, receiver: Receiver) -> None:
    waiting = told("/waiting").endpoint
    services.disable_endpoint(endpoint=waiting, actor=SYSTEM, at=AT)
    other = told("/other")
    assert deliver_due(at=AT).delivered == 1
    assert [request.id for request in receiver.requests] == [other.webhook_id]
    assert waiting.messages.get().status == "pending"


def test_what_is_resent_keeps_its_id_and_begins_a_new_schedule(told: Any, receiver: Receiver) -> None:
    message = told()
    receiver.status = 500
    WebhookMessage.objects.filter(pk=message.pk).update(attempts=len(SCHEDULE))
    deliver_due(at=AT)
    message.refresh_from_db()
    assert message.status == "failed"
    receiver.status = 200
    services.resend_message(message=message, actor=SYSTEM, at=AT)
    deliver_due(at=AT)
    services.resend_message(message=message, actor=SYSTEM, at=AT)
    deliver_due(at=AT)
    assert [request.id for request in receiver.requests] == [message.webhook_id] * 3
    assert len({request.body for request in receiver.requests}) == 1
    message.refresh_from_db()
    assert (message.status, message.attempts) == ("delivered", 1)
    assert list(message.log.order_by("id").values_list("number", flat=True)) == [1, 2, 3]


def test_verify_finds_a_message_that_was_delivered_to_nobody(told: Any) -> None:
    message = told()
    assert not list(lost_messages())
    WebhookMessage.objects.filter(pk=message.pk).update(due_at=None, delivered_at=timezone.now())
    (finding,) = lost_messages()
    assert str(message.pk) in finding.subject


@pytest.mark.django_db(transaction=True)
def test_workers_beside_each_other_send_each_message_once(settings: Any, receiver: Receiver) -> None:
    owner = organization("seller")
    messages = [
        services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
        for to in (endpoint(owner, f"{receiver.url}/{n}")[0] for n in range(6))
        for _ in range(10)
    ]
    barrier = threading.Barrier(3)

    def work() -> None:
        try:
            barrier.wait()
            deliver_due(at=AT, seconds=20)
        finally:
            connection.close()

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(request.id for request in receiver.requests) == sorted(m.webhook_id for m in messages)
    assert not WebhookMessage.objects.filter(delivered_at__isnull=True).exists()
