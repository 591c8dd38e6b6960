"""`/metrics`: Prometheus' text format to the letter, for the token only, at a price that does not grow."""

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from commerce import metrics
from commerce.celery import app
from commerce.errors import InvalidInput, Retryable
from commerce.models import HandlerTiming
from commerce.outbox import append, claims, drain, on, registry, timings
from commerce.outbox.models import Circuit, OutboxStream
from commerce.outbox.services import status
from commerce.tasks import heartbeat
from commerce.webhooks import services
from commerce.webhooks.models import WebhookHealth, WebhookMessage
from tests.commerce.webhooks.conftest import SYSTEM, endpoint, organization

AT = datetime(2027, 3, 1, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\n|\\")*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{((?:{LABEL},?)*)\}})? (-?[0-9.]+(?:e[+-]?[0-9]+)?|\+Inf|NaN)")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Samples:
    """What a scraper would read, or an AssertionError about the first line that breaks the format."""
    assert text.endswith("\n")
    kinds: dict[str, str] = {}
    samples: Samples = {}
    family = ""
    for line in text.splitlines():
        if match := re.fullmatch(rf"# HELP ({NAME}) (.+)", line):
            family = match[1]
            assert family not in kinds, f"{family} comes twice"
        elif match := re.fullmatch(rf"# TYPE ({NAME}) (counter|gauge|histogram)", line):
            assert match[1] == family, "TYPE follows HELP"
            kinds[family] = match[2]
        else:
            match = SAMPLE.fullmatch(line)
            assert match, f"not a sample: {line!r}"
            name, labels, value = match.groups()
            suffixes = ("_bucket", "_sum", "_count") if kinds[family] == "histogram" else ("",)
            assert name in {family + suffix for suffix in suffixes}, f"{name} in the family {family}"
            assert kinds[family] != "counter" or name.endswith("_total")
            key = (name, frozenset(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or "")))
            assert key not in samples, f"{line} comes twice"
            samples[key] = float(value)
    _histograms_add_up(samples, [name for name, kind in kinds.items() if kind == "histogram"])
    return samples


def _histograms_add_up(samples: Samples, names: list[str]) -> None:
    for name in names:
        bars: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = defaultdict(list)
        for (sample, labels), value in samples.items():
            if sample == f"{name}_bucket":
                (bound,) = (text for label, text in labels if label == "le")
                bars[frozenset(pair for pair in labels if pair[0] != "le")].append((float(bound), value))
        for labels, bounds in bars.items():
            counts = [count for _, count in sorted(bounds)]
            assert counts == sorted(counts), "a bound holds what is below it"
            assert max(bounds)[0] == float("inf")
            assert counts[-1] == samples[f"{name}_count", labels]
            assert (f"{name}_sum", labels) in samples


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"commerce_{name}", frozenset(labels.items())))


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[None]:
    monkeypatch.setattr(registry, "_handlers", {})
    monkeypatch.setattr(metrics, "KEPT_SECONDS", -1.0)
    monkeypatch.setattr(timings, "_flushed_at", float("-inf"))
    settings.METRICS_TOKEN = "scrape-me"
    timings._counts.clear()
    timings._seconds.clear()
    yield
    registry._handlers.clear()


def scrape(token: str = "scrape-me") -> Any:
    return Client().get("/metrics", headers={"Authorization": f"Bearer {token}", "Host": "anything"})


def read() -> Samples:
    answer = scrape()
    assert answer.status_code == 200
    return parse(answer.content.decode())


def write(type_: str, id_: str = "1") -> None:
    with transaction.atomic():
        append("thing", id_, type_, {}, at=AT)


def test_a_line_that_breaks_the_format_is_seen_by_the_parser() -> None:
    for wrong in ("a 1", "# HELP a b\n# TYPE a gauge\nb 1\n", "# HELP a b\n# TYPE a gauge\na{x=1} 1\n",
                  "# HELP a b\n# TYPE a gauge\na 1\na 1\n", "# HELP a b\n# TYPE a counter\na 1\n",
                  '# HELP a b\n# TYPE a gauge\na{x="\n"} 1\n'):  # fmt: skip
        with pytest.raises((AssertionError, KeyError)):
            parse(wrong)


@pytest.mark.parametrize("token", ["", "scrape-m", "scrape-me2"])
def test_whoever_shows_no_token_learns_nothing(token: str) -> None:
    """No database mark: a query would fail it."""
    answer = scrape(token)
    assert (answer.status_code, answer.content) == (401, b"")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.django_db
def test_without_a_token_set_there_are_no_metrics(settings: Any) -> None:
    settings.METRICS_TOKEN = ""
    settings.ALLOWED_HOSTS = ["anything"]
    assert scrape("").status_code == 404


@pytest.mark.django_db
def test_the_answer_is_prometheus_text_and_makes_no_session() -> None:
    heartbeat()
    answer = scrape()
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert not answer.cookies
    samples = parse(answer.content.decode())
    assert value(samples, "broker_up") == 1
    assert value(samples, "beat_heartbeat_age_seconds") < 10  # type: ignore[operator]
    assert value(samples, "outbox_unpublished_oldest_seconds") == 0
    assert {name for name, _ in samples if name == "commerce_queue_messages"}


@pytest.mark.django_db(transaction=True)
def test_each_lane_says_what_is_due_at_work_waiting_and_parked() -> None:
    on("thing.done", group="local.one")(lambda event: None)
    on("thing.sent", group="remote.one", provider="openmeter")(lambda event: None)
    for n in range(4):
        write("thing.done", str(n))
    write("thing.sent")
    rows = OutboxStream.objects.filter(group="local.one")
    ago, ahead = timezone.now() - timedelta(seconds=90), timezone.now() + timedelta(hours=1)
    rows.filter(aggregate_id="0").update(due_at=ago, pending_since=ago)
    leased = timezone.now() + claims.lease() - timedelta(seconds=1)
    rows.filter(aggregate_id="1").update(due_at=leased, lease_token="00000000-0000-4000-8000-000000000001")
    rows.filter(aggregate_id="2").update(due_at=ahead, attempts=3)
    rows.filter(aggregate_id="3").update(due_at=None, parked_at=ago, parked_reason="wrong")
    Circuit.objects.create(lane="openmeter", opened_at=ago, open_until=ahead, paused_at=ago)
    samples = read()
    of = {state: value(samples, "outbox_streams", lane="local", state=state)
          for state in ("due", "working", "waiting", "parked")}  # fmt: skip
    assert of == {"due": 1, "working": 1, "waiting": 1, "parked": 1}
    assert value(samples, "outbox_streams", lane="openmeter", state="due") == 1
    assert value(samples, "outbox_streams", lane="openmeter", state="parked") == 0
    assert value(samples, "outbox_waiting_streams", lane="local", attempts="3") == 1
    assert 90 <= value(samples, "outbox_oldest_due_seconds", lane="local") < 120  # type: ignore[operator]
    assert value(samples, "outbox_oldest_due_seconds", lane="batch") == 0
    assert 90 <= value(samples, "outbox_circuit_open_seconds", lane="openmeter") < 120  # type: ignore[operator]
    assert value(samples, "outbox_circuit_open_seconds", lane="local") == 0
    assert value(samples, "outbox_lane_paused", lane="openmeter") == 1
    assert value(samples, "outbox_unpublished_events") == 5


def late(samples: Samples) -> float:
    """The age of the lane `local`, which the status says as the metrics do."""
    found = value(samples, "outbox_oldest_due_seconds", lane="local") or 0.0
    (said,) = (lane.oldest_due_seconds for lane in status().lanes if lane.lane == "local")
    assert abs(said - found) < 5
    return found


@pytest.mark.django_db(transaction=True)
def test_work_that_is_given_back_again_and_again_grows_old() -> None:
    on("thing.done", group="local.one")(lambda event: None)
    write("thing.done")
    rows = OutboxStream.objects.filter(group="local.one")
    rows.update(pending_since=timezone.now() - timedelta(minutes=10))
    token = uuid4()
    for _ in range(3):
        streams = claims.claim(token=token, lane="local", limit=1)
        assert 590 < late(read()) < 620, "what is in hand waits as well"
        claims.let_go(streams, token)
        assert 590 < late(read()) < 620
    drain()
    assert late(read()) == 0


@pytest.mark.django_db(transaction=True)
def test_what_was_handled_a_moment_ago_and_has_more_is_not_late() -> None:
    on("thing.done", group="local.one")(lambda event: None)
    write("thing.done")
    long_ago = timezone.now() - timedelta(hours=1)
    OutboxStream.objects.filter(group="local.one").update(pending_since=long_ago, last_tried_at=Now())
    assert late(read()) < 30


@pytest.mark.django_db(transaction=True)
def test_what_has_failed_is_late_from_its_next_attempt_on() -> None:
    on("thing.done", group="local.one")(lambda event: None)
    write("thing.done")
    now = timezone.now()
    failed = {"attempts": 3, "pending_since": now - timedelta(hours=2)}
    rows = OutboxStream.objects.filter(group="local.one")
    rows.update(**failed, due_at=now - timedelta(seconds=90))
    assert 80 < late(read()) < 120
    rows.update(due_at=now + timedelta(minutes=5))
    assert late(read()) == 0


@pytest.mark.django_db(transaction=True)
def test_handlers_are_timed_by_group_and_type_and_their_errors_counted_by_class() -> None:
    def fail(event: Any) -> None:
        raise Retryable("away")

    def refuse(event: Any) -> None:
        raise InvalidInput("never")

    on("thing.done", group="local.one")(lambda event: None)
    on("thing.done", group="batch.one", batch=True)(lambda events: None)
    on("thing.sent", group="remote.one", provider="openmeter")(fail)
    on("thing.wrong", group="local.one")(refuse)
    for n in range(3):
        write("thing.done", str(n))
    write("thing.sent")
    write("thing.wrong", "9")
    drain()
    timings.flush(every=0)
    samples = read()
    count = "outbox_handler_seconds_count"
    assert value(samples, count, group="local.one", type="thing.done") == 3
    assert value(samples, count, group="batch.one", type="thing.done") == 3
    assert value(samples, count, group="remote.one", type="thing.sent") == 1
    failures = "outbox_handler_failures_total"
    assert value(samples, failures, group="remote.one", error="Retryable") == 1
    assert value(samples, failures, group="local.one", error="InvalidInput") == 1
    assert value(samples, failures, group="batch.one", error="InvalidInput") is None
    write("thing.done", "4")
    drain()
    timings.flush(every=0)
    assert value(read(), count, group="local.one", type="thing.done") == 4


@pytest.mark.django_db(transaction=True)
def test_timings_of_one_drain_are_one_statement_and_of_many_in_a_row_too() -> None:
    on("thing.done", group="local.one")(lambda event: None)
    for n in range(5):
        write("thing.done", str(n))
        with CaptureQueriesContext(connection) as asked:
            drain(lanes=["local"])
        written = [query for query in asked.captured_queries if "handlertiming" in query["sql"]]
        assert len(written) == (1 if n == 0 else 0)
    timings.flush(every=0)
    assert sum(HandlerTiming.objects.values_list("count", flat=True)) == 5


@pytest.mark.django_db
def test_a_quotation_mark_a_backslash_and_a_line_end_are_escaped() -> None:
    HandlerTiming.objects.create(group='a"b\\c\nd', type="t", error="", up_to=1, count=2, seconds=1.5)
    samples = read()
    assert value(samples, "outbox_handler_seconds_sum", group=r"a\"b\\c\nd", type="t") == 1.5


@pytest.mark.django_db
def test_a_broker_that_is_away_is_a_metric_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.conf, "broker_write_url", "redis://127.0.0.1:1/0")
    samples = read()
    assert value(samples, "broker_up") == 0
    assert not any(name == "commerce_queue_messages" for name, _ in samples)


@pytest.mark.django_db
def test_an_answer_is_given_again_for_a_while_and_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with CaptureQueriesContext(connection) as asked:
        read()
    assert len(asked) == 6
    monkeypatch.setattr(metrics, "KEPT_SECONDS", 60.0)
    with CaptureQueriesContext(connection) as asked:
        read()
    assert len(asked) == 0


@pytest.mark.django_db
def test_a_database_that_does_not_answer_is_said_with_503() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE commerce_handlertiming")
    answer = scrape()
    assert (answer.status_code, answer.content) == (503, b"no database\n")


@pytest.mark.django_db
def test_every_metric_and_label_that_an_alert_names_is_there() -> None:
    heartbeat()
    HandlerTiming.objects.create(group="g", type="t", error="Boom", up_to=1, count=1, seconds=0.5)
    soon = timezone.now() + timedelta(hours=1)
    OutboxStream.objects.create(
        aggregate_type="thing",
        aggregate_id="1",
        group="g",
        lane="local",
        attempts=7,
        due_at=soon,
        pending_since=soon,
    )
    rules = [rule for group in yaml.safe_load((ROOT / "docs" / "alerts.yml").read_text())["groups"]
             for rule in group["rules"]]  # fmt: skip
    labels: dict[str, list[dict[str, str]]] = {}
    for metric in metrics.collect():
        labels[metric.name] = [given for _, given, _ in metric.samples]
    assert len(rules) >= 10
    for rule in rules:
        named = re.findall(r"\b(commerce_\w+?)(?:_bucket|_sum|_count)?\b(?:\{([^}]*)\})?", rule["expr"])
        assert named, rule["alert"]
        for name, selector in named:
            assert name in labels, rule["alert"]
            chosen = labels[name]
            for label, operator, wanted in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', selector):
                assert all(label in given for given in chosen), (rule["alert"], label)
                if operator in ("=", "=~"):
                    pattern = re.escape(wanted) if operator == "=" else wanted
                    chosen = [given for given in chosen if re.fullmatch(pattern, given[label])]
            assert chosen, f"{rule['alert']}: nothing of {name} is {selector}"
        known = set().union(*(given for name, _ in named for given in labels[name]))
        grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"])
        used = {label.strip() for group in grouped for label in group.split(",")}
        used |= set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert used <= known, rule["alert"]


@pytest.mark.django_db
def test_late_is_what_waits_for_an_endpoint_that_does_not_fail() -> None:
    """A receiver that is down shows as failing, and wakes nobody at night."""
    seller = organization("seller")
    for _ in range(2):
        to, _ = endpoint(seller, "https://hooks.example.com/in")
        services.send_test_event(endpoint=to, actor=SYSTEM, at=AT)
    WebhookMessage.objects.update(due_at=timezone.now() - timedelta(hours=1))
    WebhookHealth.objects.filter(pk=to.pk).update(failing_since=timezone.now() - timedelta(hours=2))
    samples = read()
    assert 3500 < (value(samples, "webhook_oldest_due_seconds") or 0) < 3700
    assert value(samples, "webhook_endpoints_failing") == 1
    assert value(samples, "webhook_endpoints_enabled") == 2
    WebhookHealth.objects.update(failing_since=timezone.now())
    assert value(read(), "webhook_oldest_due_seconds") == 0


@pytest.mark.django_db
def test_every_alert_has_a_section_for_who_is_called() -> None:
    rules = [rule for group in yaml.safe_load((ROOT / "docs" / "alerts.yml").read_text())["groups"]
             for rule in group["rules"]]  # fmt: skip
    runbook = (ROOT / "docs" / "operations.md").read_text()
    for rule in rules:
        assert rule.keys() >= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "runbook"}
        assert f"**{rule['alert']}**" in runbook
