"""Usage events: what is taken, what is counted, and what is only listed with the reason."""

import json

import pytest

EVENT = {"specversion": "1.0", "id": "e1", "source": "commerce", "type": "burst_hour", "subject": "acme"}
BATCH = "application/cloudevents-batch+json"


def send(sandbox, body, kind="application/cloudevents+json"):
    return sandbox.om.post("/events", content=json.dumps(body), headers={"Content-Type": kind})


def event(identity, hours="1", **more):
    return {**EVENT, "id": identity, "data": {"hours": hours, "line": "L2"}, **more}


def test_an_event_counts_once_whatever_is_sent_again(sandbox, billed):
    for _ in range(3):
        assert send(sandbox, [event("a", "2"), event("b", "3")], BATCH).status_code == 204
    assert send(sandbox, event("a", "99")).status_code == 204
    assert send(sandbox, event("a", "5", source="elsewhere")).status_code == 204
    [row] = sandbox.om.get("/meters/hours/query").json()["data"]
    assert row["value"] == 10
    assert sandbox.effects()["counts"]["openmeter.usage_event"] == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (event("x"), "application/json; charset=utf-8"),
        (event("x"), "text/plain"),
        ([event("x")], "application/cloudevents+json"),
        (event("x"), BATCH),
        (event("x", subject=""), "application/json"),
        (event("x", data=[1]), "application/json"),
        (event("x", time="2027-03-01T00:00:00"), "application/json"),
        (event("x", id=7), "application/json"),
        ([event("fine"), {"id": "x"}], "application/json"),
    ],
)
def test_a_bad_request_stores_nothing(sandbox, billed, body, kind):
    assert send(sandbox, body, kind).status_code == 400
    assert sandbox.effects()["openmeter"]["usage_event"] == []


def test_accepted_does_not_mean_counted(sandbox, billed):
    send(
        sandbox, [event("type", type="other"), event("value", "many"), event("who", subject="nobody")], BATCH
    )
    listed = {row["event"]["id"]: row["validationError"] for row in sandbox.om.get("/events").json()}
    assert "no meter found" in listed["type"]
    assert "not a number" in listed["value"]
    assert "no customer found" in listed["who"]


def test_events_can_be_looked_up_and_paged(sandbox, billed):
    send(sandbox, [event(f"e{number}") for number in range(5)], BATCH)
    url = f"{sandbox.url}/openmeter/api/v2/events"
    found = sandbox.om.get(url, params={"filter": '{"id": {"$eq": "e3"}}'}).json()
    assert [row["event"]["id"] for row in found["items"]] == ["e3"]
    seen, cursor = [], ""
    while True:
        page = sandbox.om.get(url, params={"limit": 2, "cursor": cursor}).json()
        seen += [row["event"]["id"] for row in page["items"]]
        if not (cursor := page.get("nextCursor", "")):
            break
    assert seen == ["e4", "e3", "e2", "e1", "e0"]


def test_a_meter_answers_by_window_group_and_subject(sandbox, billed):
    times = ["2027-03-01T00:30:00Z", "2027-03-01T01:30:00Z", "2027-03-02T00:00:00Z"]
    send(sandbox, [event(f"t{n}", "1", time=at) for n, at in enumerate(times)], BATCH)
    send(sandbox, {**event("other", "5", time=times[0]), "data": {"hours": "5", "line": "L9"}})
    query = {"windowSize": "DAY", "filterGroupBy[line]": "L2"}
    days = sandbox.om.get("/meters/hours/query", params=query).json()["data"]
    assert [row["value"] for row in days] == [2, 1]
    grouped = sandbox.om.get("/meters/hours/query", params={"groupBy": "line"}).json()["data"]
    assert {row["groupBy"]["line"]: row["value"] for row in grouped} == {"L2": 3, "L9": 5}
    window = {"from": "2027-03-01T00:30:00Z", "to": "2027-03-01T01:30:00Z", "subject": "acme"}
    assert sandbox.om.get("/meters/hours/query", params=window).json()["data"][0]["value"] == 6
