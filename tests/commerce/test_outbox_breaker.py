"""The circuit breaker: an outage stops what goes to one provider, parks nothing, and ends by itself."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from django.db import transaction
from django.utils import timezone

from commerce.errors import Rejected, Retryable, Unknown
from commerce.outbox import append, breaker, drain, on, registry, relay
from commerce.outbox.models import Circuit, OutboxEvent, OutboxFailure, OutboxStream
from commerce.providers.http import http_client

AT = datetime(2027, 3, 1, tzinfo=UTC)

pytestmark = pytest.mark.django_db(transaction=True)


class Provider:
    """What it does when it is asked: raise, or answer."""

    def __init__(self, name: str = "elsewhere") -> None:
        self.error: Exception | None = Retryable("down")
        self.away = False
        self.asked: list[tuple[str, int]] = []
        on("thing.done", group=f"at.{name}", provider=name)(self)

    def __call__(self, event: OutboxEvent) -> None:
        self.asked.append((event.aggregate_id, event.sequence))
        if self.away:
            breaker.miss()
        if self.error:
            raise self.error
        breaker.hear()


@pytest.fixture(autouse=True)
def _own_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_handlers", {})
    monkeypatch.setattr(relay, "backoff", lambda attempt: timedelta(hours=1))  # what waits is made due here


def write(*ids: str) -> None:
    for id_ in ids:
        with transaction.atomic():
            append("thing", id_, "thing.done", {}, at=AT)


def make_due() -> None:
    OutboxStream.objects.filter(due_at__isnull=False).update(due_at=timezone.now())


def ask_again() -> None:
    """The pause is over."""
    Circuit.objects.filter(open_until__isnull=False).update(open_until=timezone.now())
    make_due()


def open_circuit() -> Circuit:
    write("1", "2", "3")
    for _ in range(2):
        drain()
        make_due()
    return Circuit.objects.get()


def test_five_failures_in_a_row_on_three_streams_open_the_circuit() -> None:
    provider = Provider()
    circuit = open_circuit()
    assert circuit.open_until is not None
    assert (circuit.failures, circuit.trips, circuit.last_error) == (5, 1, "Retryable: down")
    asked = len(provider.asked)
    drain()
    assert len(provider.asked) == asked == 5, "asked although the circuit is open"


def test_one_bad_request_opens_nothing_and_is_parked_in_the_end() -> None:
    Provider()
    write("1")
    for _ in range(relay.ATTEMPTS_BEFORE_PARKING):
        make_due()
        drain()
    assert OutboxStream.objects.get(group="at.elsewhere").parked_at
    assert Circuit.objects.get().open_until is None


def test_a_provider_that_is_away_parks_not_even_a_stream_alone() -> None:
    provider = Provider()
    provider.away = True
    write("1")
    for _ in range(breaker.FAILURES):
        make_due()
        drain()
    circuit = Circuit.objects.get()
    assert (circuit.failures, len(circuit.streams)) == (breaker.FAILURES, 1)
    assert circuit.open_until is not None
    for _ in range(40):
        ask_again()
        drain()
    stream = OutboxStream.objects.get(group="at.elsewhere")
    assert (stream.parked_at, stream.attempts) == (None, breaker.FAILURES - 1)
    assert len(provider.asked) == breaker.FAILURES + 40, "each pause ends with one probe"
    provider.error = None
    ask_again()
    assert drain().handled == 1
    assert Circuit.objects.get().open_until is None


def look_first(provider: Provider) -> None:
    """A handler whose look is answered before it sends."""

    def look_then_send(event: OutboxEvent) -> None:
        breaker.hear()
        provider(event)

    registry._handlers.clear()
    on("thing.done", group="at.elsewhere", provider="elsewhere")(look_then_send)


def test_who_looks_and_is_then_not_let_in_has_met_an_outage() -> None:
    provider = Provider()
    provider.away = True
    look_first(provider)
    write("1")
    for _ in range(2 * relay.ATTEMPTS_BEFORE_PARKING):
        ask_again()
        drain()
    stream = OutboxStream.objects.get(group="at.elsewhere")
    assert (stream.parked_at, stream.attempts) == (None, breaker.FAILURES - 1)
    assert Circuit.objects.get().open_until is not None
    provider.error, provider.away = None, False
    ask_again()
    assert drain().handled == 1
    assert Circuit.objects.get().open_until is None


def test_who_looks_and_then_gets_no_answer_is_held_up_alone() -> None:
    """What a provider cannot bear of one stream is that stream's trouble."""
    look_first(Provider())
    write("1")
    for _ in range(relay.ATTEMPTS_BEFORE_PARKING):
        make_due()
        drain()
    assert OutboxStream.objects.get(group="at.elsewhere").parked_at
    assert not Circuit.objects.exclude(open_until=None).exists()


def test_an_outage_of_any_length_parks_nothing_and_counts_no_attempt() -> None:
    provider = Provider()
    open_circuit()
    attempts = sum(OutboxStream.objects.values_list("attempts", flat=True))
    for _ in range(40):
        ask_again()
        drain()
    assert len(provider.asked) == 5 + 40, "each pause ends with one probe"
    assert not OutboxStream.objects.filter(parked_at__isnull=False).exists()
    assert sum(OutboxStream.objects.values_list("attempts", flat=True)) == attempts + 0
    assert OutboxFailure.objects.count() == 45


def test_a_probe_that_is_answered_lets_everything_go_on() -> None:
    provider = Provider()
    open_circuit()
    provider.error = None
    ask_again()
    assert drain().handled == 3
    circuit = Circuit.objects.get()
    assert (circuit.open_until, circuit.opened_at, circuit.failures, circuit.trips) == (None, None, 0, 0)


@pytest.mark.parametrize("said", [Rejected("no such account"), ValueError("bug")])
def test_a_provider_that_answers_no_is_a_provider_that_answers(said: Exception) -> None:
    provider = Provider()
    open_circuit()

    def answer(event: OutboxEvent) -> None:
        breaker.hear()
        raise said

    registry._handlers.clear()
    on("thing.done", group="at.elsewhere", provider="elsewhere")(answer)
    ask_again()
    assert drain().parked == 3
    assert Circuit.objects.get().open_until is None
    assert len(provider.asked) == 5


def test_a_probe_that_asked_nothing_leaves_the_question_open() -> None:
    provider = Provider()
    open_circuit()
    registry._handlers.clear()
    quiet: list[int] = []
    on("thing.done", group="at.elsewhere", provider="elsewhere")(lambda event: quiet.append(event.sequence))
    ask_again()
    drain()
    circuit = Circuit.objects.get()
    assert quiet
    assert circuit.open_until is not None, "closed although nobody has answered"
    assert circuit.open_until <= timezone.now(), "the next may ask at once"
    assert len(provider.asked) == 5


def test_an_outage_stops_only_what_goes_to_that_provider() -> None:
    provider, other = Provider(), Provider("other")
    other.error = None
    write("1", "2", "3")
    for _ in range(3):
        drain()
        make_due()
    assert Circuit.objects.get().lane == "elsewhere"
    assert sorted(other.asked) == [("1", 1), ("2", 1), ("3", 1)]
    assert len(provider.asked) == 5
    write("4")
    drain()
    assert ("4", 1) in other.asked
    assert ("4", 1) not in provider.asked


def test_an_unknown_outcome_counts_as_no_answer() -> None:
    Provider().error = Unknown("no answer")
    assert open_circuit().open_until is not None


def test_pauses_grow_up_to_five_minutes() -> None:
    Provider()
    open_circuit()
    pauses = []
    for _ in range(12):
        ask_again()
        drain()
        circuit = Circuit.objects.get()
        assert circuit.open_until
        pauses.append((circuit.open_until - timezone.now()).total_seconds())
    assert pauses[0] <= 2 * breaker.SHORTEST_PAUSE
    assert pauses[0] < pauses[-1]
    assert breaker.LONGEST_PAUSE / 2 - 5 <= pauses[-1] <= breaker.LONGEST_PAUSE


def test_what_a_person_has_stopped_only_a_person_starts() -> None:
    provider = Provider()
    provider.error = None
    Circuit.objects.create(lane="elsewhere", paused_at=timezone.now(), paused_reason="bank holiday")
    write("1")
    assert drain().handled == 0
    assert provider.asked == []
    Circuit.objects.update(paused_at=None)
    assert drain().handled == 1


@pytest.mark.parametrize(
    ("status", "heard"),
    [(200, True), (422, True), (404, True), (503, False), (429, False), (401, False), (403, False)],
)
def test_the_client_of_a_provider_tells_the_breaker_who_answers(status: int, heard: bool) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(status))
    with breaker.listening() as line, http_client("elsewhere", transport=transport) as client:
        client.get("https://provider.example/")
    assert line.heard is heard
