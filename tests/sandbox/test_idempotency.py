"""Modern Treasury's keys: a success is answered again, a failure is tried again, a race is a 409."""

import threading

import pytest


def create(sandbox, key, name="Northwind", path="/counterparties", **body):
    return sandbox.mt.post(path, json={"name": name, **body}, headers={"Idempotency-Key": key})


def parties(sandbox):
    return sandbox.effects()["modern_treasury"]["counterparty"]


def test_the_same_key_is_the_same_counterparty(sandbox):
    first, second = create(sandbox, "k1"), create(sandbox, "k1")
    assert (first.status_code, first.content) == (second.status_code, second.content)
    assert len(parties(sandbox)) == 1


def test_a_key_is_not_scoped_to_the_route_or_the_body(sandbox):
    first = create(sandbox, "k1")
    assert create(sandbox, "k1", name="Other").json() == first.json()
    assert create(sandbox, "k1", path="/virtual_accounts").json() == first.json()
    assert len(parties(sandbox)) == 1


def test_a_failure_is_not_remembered(sandbox):
    assert create(sandbox, "k1", metadata={"n": 1}).status_code == 422
    assert create(sandbox, "k1").status_code == 201


def test_a_key_is_forgotten_after_24_hours(sandbox):
    create(sandbox, "k1")
    sandbox.at("2027-03-01T23:59:59Z")
    create(sandbox, "k1")
    assert len(parties(sandbox)) == 1
    sandbox.at("2027-03-02T00:00:00Z")
    create(sandbox, "k1")
    assert len(parties(sandbox)) == 2


def test_a_key_survives_kill_9(sandbox):
    first = create(sandbox, "k1")
    sandbox.restart()
    assert create(sandbox, "k1").json() == first.json()
    assert len(parties(sandbox)) == 1


@pytest.mark.parametrize("calls", [2, 4])
def test_of_concurrent_calls_one_acts_and_the_others_conflict(sandbox, calls):
    sandbox.control.post("/faults", json={"kind": "slow", "delay_ms": 400, "method": "POST"})
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(create(sandbox, "k1"))) for _ in range(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * (calls - 1)
    assert len(parties(sandbox)) == 1


def test_a_running_call_makes_the_second_a_409(sandbox):
    sandbox.control.post("/faults", json={"kind": "slow", "delay_ms": 600})
    slow = threading.Thread(target=create, args=(sandbox, "k1"))
    slow.start()
    while not sandbox.control.get("/faults").json()[0]["hits"]:
        pass
    second = create(sandbox, "k1")
    slow.join()
    assert (second.status_code, second.json()["errors"]["code"]) == (409, "conflict")
    assert create(sandbox, "k1").status_code == 201
    assert len(parties(sandbox)) == 1
