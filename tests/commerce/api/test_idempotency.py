"""A request sent twice has one effect and one answer, however the two meet; a failure leaves no key."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from commerce.api.models import ApiKey, IdempotencyKey
from commerce.api.services import forget_old_answers
from commerce.console.models import ReviewItem
from commerce.outbox.models import OutboxEvent
from tests.commerce.api.conftest import THING, Api

THINGS = "/api/v1/things/"


def test_a_repeated_request_replays_the_first_answer(api: Api) -> None:
    first = api.post(THINGS, THING, **{"Idempotency-Key": "one"})
    again = api.post(THINGS, THING, **{"Idempotency-Key": '"one"'})
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert "Idempotent-Replay" not in first
    assert again["Idempotent-Replay"] == "true"
    assert again["ETag"] == first["ETag"]
    assert ReviewItem.objects.count() == 1
    assert OutboxEvent.objects.count() == 1


@pytest.mark.parametrize("change", [{"kind": "other"}, {"price": {"amount_minor": 101, "currency": "USD"}}])
def test_the_same_key_for_another_body_is_422(api: Api, change: dict[str, Any]) -> None:
    api.post(THINGS, THING, **{"Idempotency-Key": "one"})
    answer = api.post(THINGS, THING | change, **{"Idempotency-Key": "one"})
    assert answer.status_code == 422
    assert answer.json()["code"] == "idempotency_mismatch"
    assert ReviewItem.objects.count() == 1


def test_the_same_key_for_another_path_is_422(api: Api) -> None:
    api.post(THINGS, THING, **{"Idempotency-Key": "one"})
    assert api.post(f"{THINGS}approve/", THING, **{"Idempotency-Key": "one"}).status_code == 403
    assert api.post(f"{THINGS}deadlock/", THING, **{"Idempotency-Key": "one"}).status_code == 422


def test_keys_of_two_api_keys_do_not_meet(api: Api, platform_api: Api) -> None:
    for caller in (api, platform_api):
        answer = caller.post(THINGS, THING, **{"Idempotency-Key": "one"})
        assert answer.status_code == 201
        assert "Idempotent-Replay" not in answer
    assert ReviewItem.objects.count() == 2


@pytest.mark.parametrize("key", ["", " ", "a b", "ü", "x" * 256])
def test_an_unsafe_request_without_a_usable_key_is_400(api: Api, key: str) -> None:
    answer = api.client.post(
        THINGS, THING, "application/json", headers={**api._headers({}), "Idempotency-Key": key}
    )
    assert answer.status_code == 400
    assert answer.json()["code"].startswith("idempotency_key_")
    assert not ReviewItem.objects.exists()


def test_a_refusal_is_remembered_and_nothing_else_is_written(api: Api) -> None:
    first = api.post(THINGS, THING | {"kind": "poor"}, **{"Idempotency-Key": "one"})
    again = api.post(THINGS, THING | {"kind": "poor"}, **{"Idempotency-Key": "one"})
    assert first.status_code == again.status_code == 409
    assert again["Idempotent-Replay"] == "true"
    assert again["Content-Type"] == "application/problem+json"
    assert again.json()["balance_minor"] == 5
    assert not ReviewItem.objects.exists()
    assert not OutboxEvent.objects.exists()


@pytest.mark.parametrize(("kind", "status"), [("away", 503), ("bug", 500)])
def test_a_failure_leaves_neither_effect_nor_key(api: Api, kind: str, status: int) -> None:
    answer = api.post(THINGS, THING | {"kind": kind}, **{"Idempotency-Key": "one"})
    assert answer.status_code == status
    assert not IdempotencyKey.objects.exists()
    assert not ReviewItem.objects.exists()
    assert not OutboxEvent.objects.exists()
    assert api.post(THINGS, THING, **{"Idempotency-Key": "one"}).status_code == 201


def test_a_lost_race_is_run_again_once_and_nobody_notices(api: Api) -> None:
    answer = api.post(f"{THINGS}deadlock/", {"losses": 1})
    assert answer.status_code == 200
    assert answer.json() == {"attempts": 2}


def test_a_race_lost_twice_is_503_and_may_be_sent_again(api: Api) -> None:
    answer = api.post(f"{THINGS}deadlock/", {"losses": 2}, **{"Idempotency-Key": "one"})
    assert answer.status_code == 503
    assert answer.json()["retryable"] is True
    assert answer["Retry-After"] == "1"
    assert not IdempotencyKey.objects.exists()


def test_reading_needs_no_key_and_leaves_none(api: Api) -> None:
    assert api.get(THINGS).status_code == 200
    assert not IdempotencyKey.objects.exists()


def test_answers_are_forgotten_after_thirty_days(api: Api) -> None:
    api.post(THINGS, THING, **{"Idempotency-Key": "old"})
    api.post(THINGS, THING | {"kind": "b"}, **{"Idempotency-Key": "young"})
    IdempotencyKey.objects.filter(key="old").update(created_at=timezone.now() - timedelta(days=31))
    assert forget_old_answers() == 1
    assert [row.key for row in IdempotencyKey.objects.all()] == ["young"]


def in_parallel(*calls: Callable[[], Any]) -> list[Any]:
    answers: list[Any] = [None] * len(calls)

    def run(index: int) -> None:
        try:
            answers[index] = calls[index]()
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.mark.django_db(transaction=True)
def test_concurrent_twins_have_one_effect_and_the_same_answer(api: Api) -> None:
    body = THING | {"kind": "slow"}
    answers = in_parallel(*[lambda: api.post(THINGS, body, **{"Idempotency-Key": "twin"})] * 6)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("Idempotent-Replay" in answer for answer in answers) == 5
    assert ReviewItem.objects.count() == 1
    assert IdempotencyKey.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_twin_that_waits_too_long_gets_409_and_may_come_back(api: Api) -> None:
    held, done = threading.Event(), threading.Event()
    key = ApiKey.objects.get()

    def first() -> None:
        with transaction.atomic():
            IdempotencyKey.objects.create(
                api_key=key, key="held", method="POST", path=THINGS, request_sha256="x"
            )
            held.set()
            done.wait(10)
            transaction.set_rollback(True)

    def second() -> Any:
        held.wait(10)
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '200ms'")
        answer = api.post(THINGS, THING, **{"Idempotency-Key": "held"})
        done.set()
        return answer

    _, answer = in_parallel(first, second)
    assert answer.status_code == 409
    assert answer.json()["code"] == "idempotency_in_progress"
    assert answer.json()["retryable"] is True
    assert answer["Retry-After"]
    assert not ReviewItem.objects.exists()
    assert api.post(THINGS, THING, **{"Idempotency-Key": "held"}).status_code == 201
