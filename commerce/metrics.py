"""`/metrics` in Prometheus' text format, for who shows the token; answered before sessions and hosts.

Its price does not grow with the backlog: ages are read from the end of an index, and no more than
`COUNTED` rows of a kind are counted, per lane. An answer is given again for ten seconds.
"""

import hmac
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse

from commerce.celery import waiting
from commerce.models import HandlerTiming
from commerce.outbox import registry, timings
from commerce.outbox.claims import WAITS_SINCE, lease
from commerce.outbox.services import PARKED
from commerce.webhooks import delivery

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
COUNTED = 10_000
KEPT_SECONDS = 10.0

_LANES = f"""
SELECT lane, due.oldest, due.count,
  COALESCE(extract(epoch FROM now() - c.opened_at), 0)::float AS opened, c.paused_at IS NOT NULL AS paused
FROM unnest(%(lanes)s::text[]) l (lane) LEFT JOIN outbox_circuit c USING (lane) CROSS JOIN LATERAL (
  SELECT GREATEST(0, extract(epoch FROM now() - min({WAITS_SINCE})))::float AS oldest, count(*) FROM (
    SELECT due_at, pending_since, last_tried_at, attempts FROM outbox_outboxstream
    WHERE lane = l.lane AND due_at <= now() ORDER BY due_at LIMIT %(most)s
  ) first
) due ORDER BY lane
"""  # noqa: S608 - a constant
_AHEAD = f"""
SELECT l.lane, ahead.working, ahead.attempts,
  GREATEST(0, extract(epoch FROM now() - min({WAITS_SINCE})))::float, count(*)
FROM unnest(%(lanes)s::text[]) l (lane) CROSS JOIN LATERAL (
  (SELECT true AS working, due_at, pending_since, last_tried_at, attempts
   FROM outbox_outboxstream WHERE lane = l.lane AND due_at > now() AND due_at <= now() + %(lease)s
   AND lease_token IS NOT NULL ORDER BY due_at LIMIT %(most)s)
  UNION ALL
  (SELECT false, due_at, pending_since, last_tried_at, attempts FROM outbox_outboxstream
   WHERE lane = l.lane AND due_at > now() AND lease_token IS NULL ORDER BY due_at LIMIT %(most)s)
) ahead GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""  # noqa: S608 - a constant
_AGES = """
SELECT
  COALESCE(extract(epoch FROM now() - (
    SELECT recorded_at FROM outbox_outboxevent WHERE published_at IS NULL ORDER BY id LIMIT 1)), 0)::float,
  (SELECT count(*) FROM (SELECT FROM outbox_outboxevent WHERE published_at IS NULL LIMIT %(most)s) left_over),
  extract(epoch FROM now() - (SELECT beaten_at FROM commerce_heartbeat WHERE name = 'beat'))::float
"""


@dataclass
class Metric:
    """One family: its samples carry a suffix only where it is a histogram."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, dict[str, str], float]] = field(default_factory=list)

    def add(self, value: float, suffix: str = "", **labels: str) -> None:
        self.samples.append((suffix, labels, value))

    def __str__(self) -> str:
        lines = [f"# HELP {self.name} {_escaped(self.help)}", f"# TYPE {self.name} {self.kind}"]
        for suffix, labels, value in self.samples:
            pairs = ",".join(f'{name}="{_escaped(text, quote=True)}"' for name, text in labels.items())
            lines.append(
                f"{self.name}{suffix}{{{pairs}}} {value}" if pairs else f"{self.name}{suffix} {value}"
            )
        return "\n".join(lines) + "\n"


class MetricsMiddleware:
    """Answers the scraper itself: nobody else learns that there is something."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path != "/metrics" or not settings.METRICS_TOKEN:
            return self.get_response(request)
        shown = request.headers.get("Authorization", "")
        if not hmac.compare_digest(shown.encode(), f"Bearer {settings.METRICS_TOKEN}".encode()):
            return HttpResponse(status=401, headers={"WWW-Authenticate": "Bearer"})
        try:
            return HttpResponse(_recent(), content_type=CONTENT_TYPE)
        except DatabaseError:
            return HttpResponse("no database\n", status=503, content_type="text/plain")


_lock = threading.Lock()
_answer = ""
_answered_at = float("-inf")


def _recent() -> str:
    global _answer, _answered_at
    with _lock:
        if time.monotonic() >= _answered_at + KEPT_SECONDS:
            _answer = "".join(map(str, collect()))
            _answered_at = time.monotonic()
        return _answer


def collect() -> list[Metric]:
    return [*_relay(), *_handlers(), *_webhooks(), *_broker()]


def _relay() -> Iterator[Metric]:
    lanes = registry.lanes()
    arguments: dict[str, Any] = {"lanes": lanes, "most": COUNTED, "lease": lease()}
    oldest = Metric(
        "commerce_outbox_oldest_due_seconds", "gauge", "Longest wait of what is due or in hand in a lane."
    )
    streams = Metric(
        "commerce_outbox_streams", "gauge", f"Streams of a lane in a state, counted up to {COUNTED}."
    )
    opened = Metric("commerce_outbox_circuit_open_seconds", "gauge", "Since when a circuit is open, or 0.")
    paused = Metric("commerce_outbox_lane_paused", "gauge", "Whether a person stopped the lane.")
    attempts = Metric("commerce_outbox_waiting_streams", "gauge", "Waiting streams by failures in a row.")
    ahead = {(lane, state): 0 for lane in lanes for state in ("working", "waiting", "parked")}
    in_hand: defaultdict[str, float] = defaultdict(float)
    for lane, working, failures, age, count in _rows(_AHEAD, arguments):
        ahead[lane, "working" if working else "waiting"] += count
        if working:
            in_hand[lane] = max(in_hand[lane], age)
        else:
            attempts.add(count, lane=lane, attempts=str(failures))
    for lane, count in _rows(PARKED, arguments):
        ahead[lane, "parked"] = count
    for lane, age, due, open_for, is_paused in _rows(_LANES, arguments):
        oldest.add(max(age, in_hand[lane]), lane=lane)
        streams.add(due, lane=lane, state="due")
        opened.add(open_for, lane=lane)
        paused.add(int(is_paused), lane=lane)
    for (lane, state), count in ahead.items():
        streams.add(count, lane=lane, state=state)
    yield from (oldest, streams, attempts, opened, paused)
    ((age, count, beat),) = _rows(_AGES, arguments)
    yield _one(
        "commerce_outbox_unpublished_oldest_seconds", "Age of the oldest event not handled by all.", age
    )
    yield _one("commerce_outbox_unpublished_events", f"Such events, counted up to {COUNTED}.", count)
    if beat is not None:
        yield _one("commerce_beat_heartbeat_age_seconds", "Since when a tick of beat was last run.", beat)


def _handlers() -> Iterator[Metric]:
    """A histogram says how many calls took up to a bound, those below it included."""
    times = Metric("commerce_outbox_handler_seconds", "histogram", "Duration of a handler's calls.")
    failures = Metric("commerce_outbox_handler_failures_total", "counter", "Calls that failed, by error.")
    bars: defaultdict[tuple[str, str], list[HandlerTiming]] = defaultdict(list)
    failed: defaultdict[tuple[str, str], int] = defaultdict(int)
    for bar in HandlerTiming.objects.order_by("group", "type", "up_to"):
        bars[bar.group, bar.type].append(bar)
        if bar.error:
            failed[bar.group, bar.error] += bar.count
    for (group, type_), rows in bars.items():
        for bound in timings.BOUNDS:
            below = sum(bar.count for bar in rows if bar.up_to <= bound)
            text = "+Inf" if bound == float("inf") else f"{bound:g}"
            times.add(below, "_bucket", group=group, type=type_, le=text)
        times.add(sum(bar.seconds for bar in rows), "_sum", group=group, type=type_)
        times.add(sum(bar.count for bar in rows), "_count", group=group, type=type_)
    for (group, error), count in failed.items():
        failures.add(count, group=group, error=error)
    yield from (times, failures)


def _webhooks() -> Iterator[Metric]:
    now = delivery.status()
    for name, told in (
        ("endpoints_enabled", "Endpoints that are sent to."),
        ("endpoints_disabled", "Endpoints that were disabled because nothing reached them."),
        ("endpoints_failing", "Endpoints whose last delivery failed."),
        ("failing_seconds", "For how long the longest failing endpoint has been failing."),
        ("oldest_due_seconds", "Age of what has been due the longest to an endpoint that does not fail."),
        ("events_oldest_due_seconds", "Age of the event that has waited longest to become messages."),
    ):
        yield _one(f"commerce_webhook_{name}", told, now[name])


def _broker() -> Iterator[Metric]:
    messages = Metric("commerce_queue_messages", "gauge", "Messages that no worker has taken.")
    with suppress(Exception):  # a broker that is away is an answer, not an error
        for name, count in waiting().items():
            messages.add(count, queue=name)
    yield _one("commerce_broker_up", "Whether the broker of wake-ups answers.", int(bool(messages.samples)))
    yield messages


def _one(name: str, told: str, value: float) -> Metric:
    metric = Metric(name, "gauge", told)
    metric.add(value)
    return metric


def _rows(statement: str, arguments: dict[str, Any]) -> Iterable[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, arguments or None)
        return cursor.fetchall()


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quote else text
