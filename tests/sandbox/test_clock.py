"""One forward-only clock for two processes; what is due fires in its order, at its instant."""

import time

import pytest

from commerce.sandbox.clock import parse
from tests.sandbox.conftest import START


def test_the_clock_moves_the_shared_file_forward_only(sandbox):
    sandbox.at("2027-03-02T00:00:00Z")
    assert parse(sandbox.clock_file.read_text()) == parse("2027-03-02T00:00:00Z")
    back = sandbox.control.post("/clock", json={"now": START})
    assert (back.status_code, back.json()["errors"]["code"]) == (409, "clock_backwards")
    assert sandbox.control.get("/clock").json() == {"now": "2027-03-02T00:00:00Z"}


@pytest.mark.parametrize("wrong", ["2027-03-02T00:00:00", "tomorrow", "", None, 5])
def test_an_instant_without_an_offset_is_refused(sandbox, wrong):
    assert sandbox.control.post("/clock", json={"now": wrong}).status_code == 422
    assert sandbox.control.get("/clock").json() == {"now": START}


def test_due_work_fires_in_order_of_due_time_and_the_clock_stops_at_each(sandbox, billed, pay, invoices):
    billed()
    sandbox.at("2027-03-30T12:00:00Z")
    pay("10002")
    fired = sandbox.at("2027-04-02T00:00:00Z")
    jobs = [(row["at"], row["kind"]) for row in fired if row["kind"] != "mt.progress"]
    assert jobs == [
        ("2027-04-01T00:00:00Z", "om.gather"),
        ("2027-04-01T01:00:00Z", "om.advance"),
        ("2027-04-01T12:00:00Z", "mt.return"),
    ]
    [invoice] = invoices()
    assert invoice["createdAt"].startswith("2027-04-01T00:00:00")
    assert invoice["issuedAt"] == "2027-04-01T01:00:00Z"
    [returned] = sandbox.mt.get("/returns").json()
    assert returned["created_at"] == "2027-04-01T12:00:00Z"


def test_a_clock_moved_by_somebody_else_fires_what_is_due(sandbox, billed, invoices):
    billed()
    sandbox.settle()
    sandbox.clock_file.write_text("2027-04-01T01:00:00Z")
    deadline = time.monotonic() + 5
    while not invoices() or invoices()[0]["status"] != "issuing":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert invoices()[0]["collectionAt"] == "2027-04-01T01:00:00Z"


def test_moving_again_fires_nothing_twice(sandbox, billed, invoices):
    billed()
    sandbox.at("2027-04-01T01:00:00Z")
    assert sandbox.at("2027-04-01T01:00:00Z") == []
    assert len(invoices()) == 1


def test_webhooks_of_each_step_can_be_delivered_before_the_next(sandbox, inbox, billed):
    sandbox.control.post("/webhooks", json={"openmeter_url": inbox.url})
    billed()
    fired = sandbox.at("2027-05-01T01:00:00Z", deliver=True)
    assert [row["kind"] for row in fired if row["kind"] == "om.advance"] == ["om.advance"] * 2
    assert len(inbox.received) == 10
    assert sandbox.control.get("/webhooks").json()["pending"] == 0
    periods = [body["data"]["period"]["from"] for body in inbox.bodies()]
    assert periods == ["2027-03-01T00:00:00Z"] * 5 + ["2027-04-01T00:00:00Z"] * 5
