"""Faults strike as asked, and an effect whose answer was lost is an effect."""

import httpx
import pytest

from tests.sandbox.conftest import PLAN


def fault(sandbox, **rule):
    answer = sandbox.control.post("/faults", json=rule)
    assert answer.status_code == 201, answer.text


def party(sandbox, key="k"):
    return sandbox.mt.post("/counterparties", json={"name": "N"}, headers={"Idempotency-Key": key})


def parties(sandbox):
    return len(sandbox.effects()["modern_treasury"]["counterparty"])


def test_timeout_after_effect_keeps_the_effect_and_the_retry_finds_it(sandbox):
    fault(
        sandbox, provider="modern_treasury", method="POST", path="counterparties", kind="timeout_after_effect"
    )
    with pytest.raises(httpx.TransportError):
        party(sandbox)
    assert parties(sandbox) == 1
    assert party(sandbox).status_code == 201
    assert parties(sandbox) == 1


def test_timeout_before_has_no_effect(sandbox):
    fault(sandbox, kind="timeout_before")
    with pytest.raises(httpx.TransportError):
        party(sandbox)
    assert parties(sandbox) == 0


def test_an_error_comes_before_the_effect_and_as_often_as_asked(sandbox):
    fault(sandbox, provider="modern_treasury", kind="error", status=503, count=2)
    assert [party(sandbox).status_code for _ in range(3)] == [503, 503, 201]
    assert parties(sandbox) == 1
    assert sandbox.om.get("/customers").status_code == 200


def test_an_error_after_the_effect_leaves_the_effect_and_the_retry_finds_it(sandbox):
    fault(sandbox, provider="modern_treasury", method="POST", kind="error_after_effect", status=500)
    assert (party(sandbox).status_code, parties(sandbox)) == (500, 1)
    assert (party(sandbox).status_code, parties(sandbox)) == (201, 1)


def test_a_rule_with_a_rate_strikes_that_share_of_the_calls(sandbox):
    fault(sandbox, provider="modern_treasury", kind="error", status=503, count=0, rate=0.5)
    codes = [party(sandbox, key=str(number)).status_code for number in range(100)]
    assert 20 < codes.count(503) < 80
    assert codes.count(503) + codes.count(201) == 100
    assert parties(sandbox) == codes.count(201)
    for wrong in (0, 1.5, "often"):
        assert sandbox.control.post("/faults", json={"kind": "error", "rate": wrong}).status_code == 422


def test_a_rule_strikes_only_what_it_names(sandbox):
    fault(
        sandbox, provider="openmeter", method="POST", path=r"/customers$", kind="error", status=500, count=0
    )
    assert party(sandbox).status_code == 201
    assert sandbox.om.get("/customers").status_code == 200
    for _ in range(3):
        answer = sandbox.om.post("/customers", json={"name": "A", "key": "a"})
        assert (answer.status_code, answer.json()["detail"]) == (500, "")
    assert sandbox.control.get("/faults").json()[0]["hits"] == 3
    sandbox.control.delete("/faults")
    assert sandbox.om.post("/customers", json={"name": "A", "key": "a"}).status_code == 201


def test_each_calls_answer_is_lost_once_and_its_effect_happens_once(sandbox, billed):
    fault(sandbox, kind="answer_lost_once_each")
    body = {"customerKey": "acme", "timing": "immediate", "customPlan": PLAN}
    with pytest.raises(httpx.TransportError):
        sandbox.om.post("/subscriptions", json=body)
    assert sandbox.om.post("/subscriptions", json=body).status_code == 409
    for key in ("a", "b"):
        with pytest.raises(httpx.TransportError):
            party(sandbox, key)
        assert party(sandbox, key).status_code == 201
    assert sandbox.effects()["counts"]["openmeter.subscription"] == {"C-1": 1}
    assert parties(sandbox) == 2
    assert sandbox.mt.get("/counterparties").status_code == 200


def test_a_lost_answer_survives_a_restart_and_is_not_lost_twice(sandbox):
    fault(sandbox, kind="answer_lost_once_each")
    with pytest.raises(httpx.TransportError):
        party(sandbox)
    sandbox.restart()
    assert party(sandbox).status_code == 201
    assert parties(sandbox) == 1


def test_requests_are_on_record_with_what_struck_them(sandbox):
    fault(sandbox, kind="timeout_before")
    with pytest.raises(httpx.TransportError):
        party(sandbox)
    party(sandbox)
    rows = sandbox.control.get("/requests").json()
    assert [(row["path"], row["status"], row["fault"]) for row in rows] == [
        ("/api/counterparties", None, "timeout_before"),
        ("/api/counterparties", 201, ""),
    ]


def test_a_wrong_rule_is_refused(sandbox):
    for rule in ({"kind": "earthquake"}, {"kind": "error", "path": "("}):
        assert sandbox.control.post("/faults", json=rule).status_code == 422
    assert sandbox.control.get("/faults").json() == []
