"""The relay against a plain-Python model: any sequence of appends, claims, deaths, failures and decisions
delivers each event in order, once in the database and at least once outside, and publishes it last.

One connection plays all workers: a claim, its read and its work are steps of their own, between which
others come. A second one holds a transaction that began earlier than what others commit meanwhile.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import DatabaseError, connection, connections, transaction
from django.db.models.functions import Now
from django.utils import timezone
from hypothesis import Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from commerce.actor import Actor
from commerce.errors import Busy, Rejected
from commerce.outbox import append, claims, drain, events, on, registry, relay, services
from commerce.outbox.claims import Claimed
from commerce.outbox.invariants import published_before_its_effects, sleeping_streams
from commerce.outbox.models import OutboxEvent, OutboxFailure, OutboxStream
from commerce.outbox.relay import DrainReport
from tests.planted import Bug

AT = datetime(2027, 3, 1, tzinfo=UTC)
OPERATOR = Actor.system("test")
LANE = {"books": "local", "mail": "local", "sums": "batch", "bank": "openmeter"}
GROUPS = {
    "opened": ("bank", "books", "sums"),
    "moved": ("bank", "books", "mail", "sums"),
    "closed": ("mail",),
}
AGGREGATES = ("a", "b")
PATIENCE = 3
EXAMPLES, STEPS = 30, 40

Stream = tuple[str, str]
OK, LATER, POISON, DIE = "ok", "later", "poison", "die"
_examples = count(1)
POINTS = (
    "outbox.before_local_commit",
    "outbox.before_batch_commit",
    "outbox.after_remote_effect",
    "outbox.after_commit",
)


class Died(BaseException):
    """What kill -9 leaves to its survivors: a transaction rolled back, a lease that nobody ends."""


@dataclass
class Cursor:
    """One group's place on one aggregate, and who may go on: nobody, anyone, a holder, time or a person."""

    at: int = 0
    state: str = "idle"
    holder: UUID | None = None
    expired: bool = False
    attempts: int = 0

    def rest(self, state: str) -> None:
        self.state, self.holder, self.expired = state, None, False

    @property
    def claimable(self) -> bool:
        return self.state == "due" or (self.state == "held" and self.expired)


@dataclass
class Worker:
    token: UUID
    streams: list[Claimed]
    has_read: bool = False


@dataclass
class Plan:
    """What the next effects come to, one after the other, and where in the relay the process dies."""

    outcomes: list[str] = field(default_factory=list)
    dies_at: str = ""

    def next(self) -> str:
        return self.outcomes.pop(0) if self.outcomes else OK

    def point(self, name: str) -> None:
        if name == self.dies_at:
            raise Died


class OutboxMachine(RuleBasedStateMachine):
    """The model: for each aggregate its events' types, for each stream a cursor, and what was delivered."""

    reached: Counter[str] = Counter()
    plan = Plan()

    @initialize()
    def start(self):
        self.prefix = next(_examples)
        left = OutboxStream.objects.filter(due_at__isnull=False)  # by an example that failed
        left.update(due_at=None, lease_token=None, parked_at=Now())
        type(self).plan = Plan()
        self.events: dict[str, list[tuple[str, ...]]] = {f"{self.prefix}{name}": [] for name in AGGREGATES}
        self.cursors: dict[Stream, Cursor] = {}
        self.workers: list[Worker] = []
        self.done: dict[Stream, list[int]] = {}
        self.asked: list[tuple[Stream, int, str]] = []
        self.early: Any = None
        registry._handlers.clear()
        for group, lane in LANE.items():
            types = [f"thing.{type_}" for type_, groups in GROUPS.items() if group in groups]
            provider = "" if lane in ("local", "batch") else lane
            effect = self.ask if provider else self.work_on_batch if lane == "batch" else self.work_on
            on(*types, group=group, provider=provider, batch=lane == "batch")(effect)

    # effects: what they note in the database is noted when it commits

    def work_on(self, event):
        key = (event.aggregate_id, event.group)
        transaction.on_commit(lambda: self.done.setdefault(key, []).append(event.sequence))
        self.outcome()

    def work_on_batch(self, events):
        for event in events:
            self.work_on(event)

    def ask(self, event):
        assert not connection.in_atomic_block
        self.asked.append(((event.aggregate_id, event.group), event.sequence, event.key))
        self.outcome()

    def outcome(self):
        match self.plan.next():
            case "later":
                raise Busy("later")
            case "poison":
                raise Rejected("never")
            case "die":
                raise Died

    # the model's own arithmetic

    def appended(self, aggregate, type_, groups):
        self.events[aggregate].append(groups)
        head = len(self.events[aggregate])
        for group in groups:
            cursor = self.cursors.setdefault((aggregate, group), Cursor(at=head - 1))
            if cursor.state == "idle":
                cursor.rest("due")

    def wanted(self, stream, *, upto):
        """Sequences of the events that a stream's group is to be given, as far as `upto`."""
        aggregate, group = stream
        return [n for n, groups in enumerate(self.events[aggregate], 1) if group in groups and n <= upto]

    def learn(self, streams):
        """What a worker's outcome was is read from its rows; whether it may be so is for the invariants."""
        for row in OutboxStream.objects.filter(pk__in=[stream.id for stream in streams]):
            cursor = self.cursors[row.aggregate_id, row.group]
            assert row.cursor >= cursor.at, "a cursor went back"
            cursor.at, cursor.attempts = row.cursor, row.attempts
            over = row.due_at is not None and row.due_at <= timezone.now()
            if row.lease_token:
                cursor.state, cursor.holder, cursor.expired = "held", row.lease_token, over
            elif row.parked_at or row.due_at is None:
                cursor.rest("parked" if row.parked_at else "idle")
            else:
                cursor.rest("due" if over else "waiting")

    # appends

    types = st.sampled_from(sorted(GROUPS))
    aggregates = st.sampled_from(AGGREGATES)

    @rule(
        some=st.lists(st.tuples(aggregates, types), min_size=1, max_size=4),
        commits=st.sampled_from([1, 1, 0]),
    )
    def append(self, some, commits):
        some = [(f"{self.prefix}{name}", type_) for name, type_ in some]
        with transaction.atomic():
            for aggregate, type_ in some:
                append("thing", aggregate, f"thing.{type_}", {}, at=AT)
            transaction.set_rollback(not commits)
        for aggregate, type_ in some if commits else ():
            self.appended(aggregate, type_, GROUPS[type_])
        self.reached["rolled back"] += not commits

    @precondition(lambda self: any(self.events.values()))
    @rule(data=st.data())
    def replay(self, data):
        """A copy at the end of its stream, for some of the groups that had it."""
        aggregate = data.draw(st.sampled_from([name for name, events in self.events.items() if events]))
        sequence = data.draw(st.integers(1, len(self.events[aggregate])))
        event = OutboxEvent.objects.get(aggregate_id=aggregate, sequence=sequence)
        type_ = event.type.removeprefix("thing.")
        only = data.draw(st.sets(st.sampled_from(GROUPS[type_]), min_size=1))
        with transaction.atomic():
            append("thing", aggregate, event.type, {}, at=AT, causation_id=event.event_id, only=only)
        self.appended(aggregate, type_, tuple(sorted(only)))
        self.reached["replayed for some"] += len(only) < len(GROUPS[type_])

    @precondition(lambda self: self.early is None)
    @rule()
    def begin_early(self):
        self.early = connections.create_connection("default")
        self.early.set_autocommit(False)
        with self.early.cursor() as cursor:
            cursor.execute("SELECT now()")

    @precondition(lambda self: self.early is not None)
    @rule(aggregate=aggregates, type_=types)
    def append_late(self, aggregate, type_):
        """What the transaction that began early has to say is recorded before what is already there."""
        aggregate = f"{self.prefix}{aggregate}"
        with as_default(self.early), transaction.atomic():
            append("thing", aggregate, f"thing.{type_}", {}, at=AT)
        self.early.commit()
        self.close_early()
        self.appended(aggregate, type_, GROUPS[type_])
        self.reached["recorded earlier than its predecessor"] += 1

    def close_early(self):
        if self.early is not None:
            self.early.close()
            self.early = None

    # workers

    @precondition(lambda self: any(c.claimable for c in self.cursors.values()))
    @rule(data=st.data(), limit=st.integers(1, 4), reads=st.booleans())
    def claim(self, data, limit, reads):
        self.claim_some(data, limit, reads)

    def claim_some(self, data, limit, reads):
        lanes = sorted({LANE[group] for (_, group), c in self.cursors.items() if c.claimable})
        self.lease(data.draw(st.sampled_from(lanes)), limit, reads)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), reads=st.booleans())
    def overtake(self, data, reads):
        """A worker stands still beyond its leases, and another takes what it holds."""
        worker = data.draw(st.sampled_from(self.workers))
        OutboxStream.objects.filter(lease_token=worker.token).update(due_at=Now())
        for cursor in self.cursors.values():
            cursor.expired |= cursor.holder == worker.token
        self.lease(worker.streams[0].lane, 10, reads)

    def lease(self, lane, limit, reads):
        able = {key for key, c in self.cursors.items() if LANE[key[1]] == lane and c.claimable}
        token = uuid4()
        self.break_ties()
        streams = claims.claim(token=token, lane=lane, limit=limit)
        streams.sort(key=lambda stream: (stream.aggregate_id, stream.group))
        keys = [(stream.aggregate_id, stream.group) for stream in streams]
        assert len(keys) == len(set(keys)) == min(limit, len(able))
        assert set(keys) <= able, "what another holds was claimed"
        for key in keys:
            self.reached["taken over"] += self.cursors[key].expired
            self.cursors[key].rest("held")
            self.cursors[key].holder = token
        if streams:
            self.workers.append(Worker(token, streams))
            if reads:
                self.read(self.workers[-1])

    def break_ties(self):
        """Streams of one instant come in the order of their rows on disk, which a replay does not repeat."""
        due = OutboxStream.objects.filter(aggregate_id__in=self.events, due_at__lte=Now())
        for place, row in enumerate(due.order_by("-due_at", "aggregate_id", "group")):
            OutboxStream.objects.filter(pk=row.pk).update(due_at=row.due_at - timedelta(microseconds=place))

    def read(self, worker):
        if not worker.has_read:
            claims.read(worker.streams)
            worker.has_read = True

    outcomes = st.lists(st.sampled_from([LATER, OK, DIE, OK, POISON]), max_size=4)
    deaths = st.sampled_from([*POINTS, "", ""])

    @precondition(lambda self: any(c.claimable for c in self.cursors.values()))
    @rule(data=st.data(), limit=st.integers(1, 4), outcomes=outcomes, dies_at=deaths, together=st.booleans())
    def deliver(self, data, limit, outcomes, dies_at, together):
        """Claim and work in one go."""
        self.claim_some(data, limit, reads=True)
        self.go_on(self.workers.pop(), outcomes, dies_at, together)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), outcomes=outcomes, dies_at=deaths, together=st.booleans())
    def work(self, data, outcomes, dies_at, together):
        """A worker goes on where it stood; whether its leases are still its own, it has to find out."""
        worker = self.workers.pop(data.draw(st.integers(0, len(self.workers) - 1)))
        self.go_on(worker, outcomes, dies_at, together)

    def go_on(self, worker, outcomes, dies_at, together):
        self.read(worker)
        mine = [self.cursors[s.aggregate_id, s.group].holder == worker.token for s in worker.streams]
        self.reached["overtaken"] += not all(mine)
        batch = worker.streams[0].lane == "batch"
        with self.playing(outcomes, dies_at):
            report = DrainReport()
            alone = worker.streams
            if batch and together:
                alone = relay._together(worker.streams, worker.token, report)
            relay._one_by_one(alone, worker.token, report, float("inf"), probe=False)
            claims.let_go([stream for stream in worker.streams if not stream.finished], worker.token)
            claims.publish(worker.streams)
        self.learn(worker.streams)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def abandon(self, data):
        """Killed between its claim and its work."""
        self.workers.pop(data.draw(st.integers(0, len(self.workers) - 1)))

    @contextmanager
    def playing(self, outcomes, dies_at) -> Iterator[None]:
        """A process that dies publishes nothing and gives nothing back."""
        type(self).plan = Plan(list(outcomes), dies_at)
        failures = OutboxFailure.objects.count()
        try:
            yield
        except Died:
            self.reached[f"died {self.plan.dies_at}".strip()] += 1
        finally:
            type(self).plan = Plan()
        self.reached["failed"] += OutboxFailure.objects.count() > failures

    # time and people

    @precondition(lambda self: any(c.state in ("held", "waiting") for c in self.cursors.values()))
    @rule(data=st.data())
    def time_passes(self, data):
        """For one stream: its lease or its back-off is over."""
        able = sorted(key for key, c in self.cursors.items() if c.state in ("held", "waiting"))
        aggregate, group = data.draw(st.sampled_from(able))
        OutboxStream.objects.filter(aggregate_id=aggregate, group=group).update(due_at=Now())
        cursor = self.cursors[aggregate, group]
        if cursor.state == "held":
            cursor.expired = True
        else:
            cursor.rest("due")

    @precondition(lambda self: any(c.state != "parked" for c in self.cursors.values()))
    @rule(data=st.data())
    def park(self, data):
        key = data.draw(st.sampled_from(sorted(k for k, c in self.cursors.items() if c.state != "parked")))
        services.park_stream(stream=self.row(key), actor=OPERATOR, at=AT, reason="why")
        self.reached["parked while held"] += self.cursors[key].state == "held"
        self.cursors[key].rest("parked")

    @precondition(lambda self: any(c.state == "parked" for c in self.cursors.values()))
    @rule(data=st.data())
    def resume(self, data):
        key = data.draw(st.sampled_from(sorted(k for k, c in self.cursors.items() if c.state == "parked")))
        self.let_go_on(key)

    def let_go_on(self, key):
        services.resume_stream(stream=self.row(key), actor=OPERATOR, at=AT)
        self.learn([self.row(key)])
        self.cursors[key].attempts = 0

    def rows(self):
        return OutboxStream.objects.filter(aggregate_id__in=self.events).exclude(group="")

    def written(self):
        return OutboxEvent.objects.filter(aggregate_id__in=self.events)

    def published(self):
        return set(self.written().exclude(published_at=None).values_list("aggregate_id", "sequence"))

    def row(self, key):
        return OutboxStream.objects.get(aggregate_id=key[0], group=key[1])

    @rule()
    def tick(self):
        """After the tick, what every group has dealt with is published, and nothing else is."""
        claims.publish_left()
        assert self.published() == self.settled()

    def settled(self):
        return {
            (aggregate, n)
            for aggregate, events in self.events.items()
            for n, groups in enumerate(events, 1)
            if all(self.cursors[aggregate, group].at >= n for group in groups)
        }

    # what must hold after every step

    def started(self):
        return hasattr(self, "early")

    @invariant()
    def sequences_have_no_gap_and_are_the_models(self):
        if not self.started():
            return
        written: dict[str, list[int]] = {name: [] for name in self.events}
        for aggregate, sequence in self.written().order_by("id").values_list("aggregate_id", "sequence"):
            written[aggregate].append(sequence)
        assert written == {name: list(range(1, len(events) + 1)) for name, events in self.events.items()}

    @invariant()
    def nothing_is_lost(self):
        """Whatever a group has not been given, its stream is due, held, waiting or parked."""
        if not self.started():
            return
        rows = {(row.aggregate_id, row.group): row for row in self.rows()}
        assert rows.keys() == self.cursors.keys()
        for key, row in rows.items():
            cursor = self.cursors[key]
            assert row.cursor == cursor.at
            assert row.lease_token == cursor.holder
            assert (row.parked_at is not None) == (cursor.state == "parked")
            assert (row.due_at is not None) == (cursor.state in ("due", "held", "waiting"))
            if cursor.state == "idle":
                assert self.wanted(key, upto=len(self.events[key[0]])) == self.wanted(key, upto=cursor.at)

    @invariant()
    def effects_come_in_order_and_in_the_database_once(self):
        if not self.started():
            return
        for key, cursor in self.cursors.items():
            passed = self.wanted(key, upto=cursor.at)
            if LANE[key[1]] != "openmeter":
                assert self.done.get(key, []) == passed
                continue
            asked = [n for stream, n, _ in self.asked if stream == key]
            assert asked == sorted(asked), "a provider heard of an event after a later one"
            assert [n for n in dict.fromkeys(asked) if n <= cursor.at] == passed
            assert len({n for n in asked if n > cursor.at}) <= 1, "sent ahead of its turn"
        keys = {(stream, n): key for stream, n, key in self.asked}
        assert all(keys[stream, n] == key for stream, n, key in self.asked), "a second key for one event"

    @invariant()
    def nothing_is_published_before_its_last_effect(self):
        if self.started():
            assert self.published() <= self.settled()

    def teardown(self):
        """People let everything go on, time passes, and what is left is delivered."""
        if not self.started():
            return
        self.close_early()
        for _ in range(2):  # the first drain parks what workers have died of too often
            for key, cursor in self.cursors.items():
                if cursor.state == "parked":
                    self.let_go_on(key)
            OutboxStream.objects.filter(due_at__isnull=False).update(due_at=Now())
            drain()
            self.learn(self.rows())
        for key, cursor in self.cursors.items():
            assert cursor.state == "idle", f"{key} is still {cursor.state}"
            assert self.wanted(key, upto=cursor.at) == self.wanted(key, upto=len(self.events[key[0]]))
        self.effects_come_in_order_and_in_the_database_once()
        self.tick()
        assert [*published_before_its_effects(), *sleeping_streams()] == []
        assert not self.written().filter(published_at=None).exists()


@contextmanager
def as_default(other: Any) -> Iterator[None]:
    mine = connections["default"]
    connections["default"] = other
    try:
        yield
    finally:
        connections["default"] = mine


@pytest.fixture(autouse=True)
def _time_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-offs end when the machine says so, processes die where its plan says, and no broker wakes any."""
    monkeypatch.setattr(registry, "_handlers", {})
    monkeypatch.setattr(events, "_quiet_until", float("inf"))
    monkeypatch.setattr(relay, "backoff", lambda attempt: timedelta(hours=1))
    monkeypatch.setattr(relay, "ATTEMPTS_BEFORE_PARKING", PATIENCE)
    monkeypatch.setattr(relay, "crash_point", lambda name: OutboxMachine.plan.point(name))


@pytest.mark.django_db(transaction=True)
def test_any_sequence_of_steps_delivers_in_order_and_loses_nothing():
    OutboxMachine.reached.clear()
    run_state_machine_as_test(
        OutboxMachine, settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS)
    )
    # Or the agreement would say nothing about it.
    assert len(+OutboxMachine.reached) == 12, OutboxMachine.reached


TOO_EARLY = "claims.advance(stream, event.sequence, token)"
BUGS = [
    Bug(
        "a cursor moves before the effect in the database",
        relay,
        "_deliver",
        (("    with transaction.atomic():\n", f"    {TOO_EARLY}\n    with transaction.atomic():\n"),),
    ),
    Bug("a claim takes what another holds", claims, "_CLAIM", (("due_at <= now()", "due_at IS NOT NULL"),)),
    Bug("an append wakes nobody", events, "_APPEND", (("COALESCE(s.due_at, now())", "s.due_at"),)),
    Bug(
        "the oldest event waits from the newest on",
        events,
        "_APPEND",
        (("LEAST(s.pending_since, now())", "now()"),),
    ),
    Bug(
        "an event is published by its first group",
        claims,
        "_PUBLISH_HANDLED",
        (("s.cursor < e.sequence", "false"),),
    ),
    Bug(
        "an event is published although one group stands before it",
        claims,
        "_PUBLISH_LEFT",
        (("s.cursor < e.sequence", "s.cursor < e.sequence - 1"),),
    ),
]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_the_machine_catches_a_planted_bug(bug, monkeypatch):
    bug.plant(monkeypatch)
    quick = settings(
        max_examples=2 * EXAMPLES,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
    )
    try:
        run_state_machine_as_test(OutboxMachine, settings=settings(quick, stateful_step_count=STEPS))
    except (AssertionError, DatabaseError):
        return
    pytest.fail("not caught")
