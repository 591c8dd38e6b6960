"""The relay's pages over many streams: they count so far and no further, and let go on so many at once."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from commerce import metrics
from commerce.console import outbox_admin
from commerce.models import TransitionLog
from commerce.outbox import services
from commerce.outbox.models import OutboxStream
from tests.commerce.console.conftest import fingerprint_on

ERROR = "Rejected: 401"
STREAMS = """
INSERT INTO outbox_outboxstream (aggregate_type, aggregate_id, "group", lane, cursor, attempts, last_error,
                                 parked_reason, pending_since, due_at, parked_at, lease_token)
SELECT 'thing', %(lane)s || %(state)s || i, 'g', %(lane)s, 0, 0, %(error)s, %(reason)s, now(),
       CASE %(state)s WHEN 'due' THEN now() WHEN 'waiting' THEN now() + interval '1 day'
                      WHEN 'working' THEN now() + interval '1 minute' END,
       CASE %(state)s WHEN 'parked' THEN now() END,
       CASE %(state)s WHEN 'working' THEN gen_random_uuid() END
  FROM generate_series(1, %(count)s) i
"""

pytestmark = pytest.mark.django_db


def streams(count: int, state: str, lane: str = "local") -> None:
    error = ERROR if state == "parked" else ""
    with connection.cursor() as cursor:
        facts = {
            "count": count,
            "state": state,
            "lane": lane,
            "error": error,
            "reason": error and f"x: {error}",
        }
        cursor.execute(STREAMS, facts)


def test_status_counts_as_far_as_it_is_asked_to_and_all_of_it_otherwise() -> None:
    streams(7, "due")
    streams(3, "waiting")
    streams(6, "parked")
    streams(4, "due", lane="of an older release")
    whole, part = services.status(), services.status(most=5)
    assert (whole.due, whole.waiting, whole.parked, whole.oldest_due_seconds) == (11, 3, 6, 0.0)
    lanes = {lane.lane: lane for lane in whole.lanes}
    assert (lanes["local"].due, lanes["local"].waiting, lanes["local"].working) == (7, 3, 0)
    assert lanes["of an older release"].due == 4
    assert {lane.lane: (lane.due, lane.waiting) for lane in part.lanes if lane.due} == {
        "local": (5, 3), "of an older release": (4, 0),
    }  # fmt: skip
    assert part.parked == 5


def test_no_kind_of_streams_and_no_lane_hides_how_many_another_has(monkeypatch: pytest.MonkeyPatch) -> None:
    streams(7, "parked")
    streams(2, "parked", lane="openmeter")
    streams(4, "working", lane="openmeter")
    streams(3, "waiting", lane="openmeter")
    part = services.status(most=5)
    assert {lane.lane: lane.parked for lane in part.lanes if lane.parked} == {"local": 5, "openmeter": 2}
    assert {lane.lane: (lane.working, lane.waiting) for lane in part.lanes if lane.working} == {
        "openmeter": (4, 3)
    }
    monkeypatch.setattr(metrics, "COUNTED", 5)
    (shown,) = [metric for metric in metrics.collect() if metric.name == "commerce_outbox_streams"]
    counts = {(labels["lane"], labels["state"]): value for _, labels, value in shown.samples}
    assert (counts["local", "parked"], counts["openmeter", "parked"]) == (5, 2)
    assert (counts["openmeter", "working"], counts["openmeter", "waiting"]) == (4, 3)


def test_the_home_page_counts_to_ten_thousand_and_says_that_there_are_more(
    browser: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    streams(9, "due")
    operator = browser("operator")
    assert '<span class="c-num">9</span>' in operator.get("/admin/").content.decode()
    monkeypatch.setattr(outbox_admin, "COUNTED", 8)
    assert '<span class="c-num">8+</span>' in operator.get("/admin/").content.decode()


def test_many_parked_alike_go_on_as_far_as_one_request_goes_and_the_page_says_how_many_are_left(
    browser: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_admin, "RESUMED_AT_ONCE", 4)
    streams(6, "parked")
    operator = browser("operator")

    def page(stream: OutboxStream) -> str:
        return f"/admin/outbox/outboxstream/{stream.pk}/do/resume-alike/"

    def press(expected: int) -> Any:
        pressed = OutboxStream.objects.filter(parked_at__isnull=False).latest("pk")
        url = page(pressed)
        shown = operator.get(url)
        fields = {"reason": "x", "expected": expected, "fingerprint": fingerprint_on(shown)}
        answer = operator.post(url, fields, follow=True)
        pressed.refresh_from_db()
        assert (pressed.parked_at is None) == (answer.status_code == 200), "the one on whose page it was"
        return answer.status_code, re.sub(r"\s+", " ", answer.content.decode()), shown.content.decode()

    assert press(expected=4)[0] == 409, "they are six, however many go on at once"
    assert services.status().parked == 6
    status, said, shown = press(expected=6)
    assert "6 streams of g, this one among them" in shown
    assert "4 of them go on from where they stopped" in shown
    assert status == 200
    assert "4 streams go on. 2 are still parked for it: press again on one of them." in said
    assert services.status().parked == 2
    assert TransitionLog.objects.filter(name="resume").count() == 4
    assert "2 streams go on." in press(expected=2)[1]
    assert services.status().parked == 0
    assert TransitionLog.objects.filter(name="resume").count() == 6
