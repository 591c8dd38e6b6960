"""Replay: copies of past events at the end of their streams, for all or some of their subscribers.

A plan counts first: per type and subscriber events, streams and money, under a digest. Applying it
appends in short transactions, one stream each, and goes on where it stopped: a copy names its
replay and its original, and no replay copies an original twice. Copies are no originals.
"""

import hashlib
import json
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from itertools import groupby, islice
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from commerce.actor import Actor
from commerce.errors import Conflict, InvalidInput, StateConflict
from commerce.money import Money
from commerce.outbox import catalog, payloads, registry
from commerce.outbox.events import append
from commerce.outbox.models import OutboxEvent, OutboxStream
from commerce.outbox.retention import find_event, horizon
from commerce.outbox.services import PERMISSION

BATCH = 200
# Who collects its events by itself, and can be told again all the same.
WEBHOOKS = "webhooks"
# How long a provider recognises a key that was sent again; later nothing but a look-up does.
KEYS_KEPT = {"modern_treasury": timedelta(hours=24)}


@dataclass(frozen=True)
class Selection:
    """Which events, and for which subscribers; nothing said is no limit, for subscribers as for the rest."""

    events: tuple[UUID, ...] = ()
    types: tuple[str, ...] = ()
    aggregate_type: str = ""
    aggregate_id: str = ""
    since: datetime | None = None
    until: datetime | None = None
    recorded_since: datetime | None = None
    recorded_until: datetime | None = None
    groups: tuple[str, ...] = ()
    last_id: int = 0

    def as_planned(self, digest: str) -> "Selection":
        """The same as when a plan of it was made, whatever has been written since."""
        last_id = digest.partition("-")[0]
        if not last_id.isdecimal():
            raise InvalidInput(f"{digest!r} is no plan.", pointer="/plan", code="no_plan")
        return replace(self, last_id=int(last_id))

    def listeners(self, type_: str) -> list[str]:
        """Webhooks are no group of the relay: they are told again only where they are named."""
        if not self.groups:
            return registry.groups_of(type_)
        known = [*registry.groups_of(type_), *([WEBHOOKS] if catalog.event_type(type_) else [])]
        return [group for group in known if group in self.groups]

    def receivers(self, event: OutboxEvent) -> list[str]:
        """Who gets a copy: of those that the event itself is for."""
        return [
            group
            for group in self.listeners(event.type)
            if group == WEBHOOKS or registry.handler_of(event, group)
        ]

    def chosen(self) -> Iterator[OutboxEvent]:
        """The originals that can be copied, one after the other, as they are at this instant."""
        return (event for event in self.heard() if not catalog.is_newer(event))

    def heard(self) -> Iterator[OutboxEvent]:
        """The originals that reach somebody, those of a release to come as well."""
        return (event for event in self.originals().iterator(chunk_size=1000) if self.receivers(event))

    def originals(self) -> QuerySet[OutboxEvent]:
        """In order within each stream. InvalidInput for a type or a subscriber that does not exist."""
        _known("types", self.types, registry.known_types())
        _known("groups", self.groups, {*registry.group_lanes(), WEBHOOKS})
        heard = [type_ for type_ in self.types or registry.known_types() if self.listeners(type_)]
        limits: dict[str, Any] = {
            "event_id__in": self.events,
            "aggregate_type": self.aggregate_type,
            "aggregate_id": self.aggregate_id,
            "occurred_at__gte": self.since,
            "occurred_at__lt": self.until,
            "recorded_at__gte": self.recorded_since,
            "recorded_at__lt": self.recorded_until,
            "id__lte": self.last_id,
        }
        found = OutboxEvent.objects.filter(
            type__in=heard, **{name: value for name, value in limits.items() if value}
        )
        if not self.events:
            found = found.exclude(headers__has_key="replay")
        return found.order_by("aggregate_type", "aggregate_id", "sequence")


@dataclass
class Line:
    """What one subscriber gets of one type: money in minor units per currency."""

    type: str
    group: str
    lane: str
    events: int = 0
    streams: int = 0
    money: dict[str, int] = field(default_factory=dict)
    keys_forgotten: int = 0


@dataclass
class Plan:
    """What a replay would do, and a hash of which events. `digest` begins with the last one looked at, so
    that a plan can be made again; it stands for all but what time alone changes. `newer` events match too
    and are left out: a newer release wrote them."""

    selection: Selection
    lines: list[Line] = field(default_factory=list)
    events: int = 0
    streams: int = 0
    newer: int = 0
    money: dict[str, int] = field(default_factory=dict)
    last_id: int = 0
    events_sha256: str = ""
    archived: datetime | None = None

    @property
    def digest(self) -> str:
        lines = [{**asdict(line), "keys_forgotten": None} for line in self.lines]
        said = [asdict(replace(self.selection, last_id=self.last_id)), lines, self.events_sha256]
        digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
        return f"{self.last_id}-{digest[:16]}"

    def in_words(self) -> list[str]:
        newer = [
            f"{self.newer} events of a newer version, left out: deploy the release that wrote them first."
        ]
        if not self.events:
            return newer if self.newer else ["Nothing that somebody here listens to matches."]
        words = [
            f"{self.events} events of {self.streams} streams{_of(self.money)} are appended once more:",
            *(
                f"  {line.type} → {line.group} ({line.lane}): {line.events} events of {line.streams} "
                f"streams{_of(line.money)}"
                for line in self.lines
            ),
        ]
        for lane, kept in KEYS_KEPT.items():
            if old := sum(line.keys_forgotten for line in self.lines if line.lane == lane):
                words.append(
                    f"{old} deliveries to {lane} are of events older than {kept // timedelta(hours=1)} h: it "
                    "may have forgotten their keys, so the handlers look up our reference before they send."
                )
        if self.newer:
            words += newer
        if self.archived:
            words.append(
                f"What was recorded before {self.archived:%Y-%m-%d} is in files: it is not replayed."
            )
        return [*words, f"Plan {self.digest}."]


def plan(selection: Selection) -> Plan:
    """Count what a replay would append. Reads one event after the other, in bounded memory."""
    made, now, ids = Plan(selection), timezone.now(), hashlib.sha256()
    lines: dict[tuple[str, str], Line] = {}
    stream, seen = None, set[tuple[str, str]]()
    for event in selection.heard():
        if catalog.is_newer(event):
            made.newer += 1
            continue
        ids.update(b"%d " % event.id)
        if stream != (stream := (event.aggregate_type, event.aggregate_id)):
            made.streams, seen = made.streams + 1, set()
        made.events, made.last_id = made.events + 1, max(made.last_id, event.id)
        value = value_of(event)
        if value:
            _add(made.money, value)
        for group in selection.receivers(event):
            key = event.type, group
            if key not in lines:
                lines[key] = Line(event.type, group, registry.group_lanes().get(group, group))
            line = lines[key]
            line.events, line.streams = line.events + 1, line.streams + (key not in seen)
            line.keys_forgotten += now - event.recorded_at > KEYS_KEPT.get(line.lane, timedelta.max)
            if value:
                _add(line.money, value)
            seen.add(key)
    made.archived, made.events_sha256 = horizon(), ids.hexdigest()
    made.lines = [lines[key] for key in sorted(lines)]
    return made


def value_of(event: OutboxEvent) -> Money | None:
    """What is at stake: the first amount of its payload, as the catalogue describes it, if it does."""
    known = None if catalog.is_newer(event) else catalog.event_type(event.type)
    name = known and next((f.name for f in payloads.fields(known.payload) if f.name.endswith("_minor")), None)
    if not name:
        return None
    payload = catalog.current(event).payload
    return Money(payload[name], payload["currency"]) if payload.get("currency") else None


def apply(
    made: Plan,
    *,
    actor: Actor,
    at: datetime,
    reason: str,
    again: str = "",
    progress: Callable[[int], None] = lambda copied: None,
) -> int:
    """Append the copies that this replay lacks; returns how many. Each batch commits by itself.

    The same plan again is the same replay and appends nothing; `again` names a further one. Conflict, and
    no copy, when the events are not those that were counted: a transaction that was older has committed.
    """
    actor.require(PERMISSION)
    if not reason.strip():
        raise InvalidInput("Say why.", pointer="/reason", code="required")
    name = f"{made.digest}:{again}" if again else made.digest
    if not made.events:  # without a last event there is no bound
        return 0
    selection, copied = replace(made.selection, last_id=made.last_id), 0
    planned = _planned(selection, made.events_sha256)
    counted = (event for event in selection.chosen() if _holds(planned, event.id))
    for events in _batches(counted):
        copied += _copy(events, selection, name, actor=actor, at=at, reason=reason)
        progress(copied)
    return copied


def confirm(made: Plan, *, expected: int | None = None, digest: str = "") -> None:
    """Conflict unless the plan is still the one that somebody has seen."""
    if digest and digest != made.digest:
        raise Conflict(f"The plan is {made.digest} now, not {digest}: look again.", code="plan_changed")
    if expected is not None and expected != made.events:
        raise Conflict(f"{made.events} events match, not {expected}: look again.", code="plan_changed")


@transaction.atomic
def replay_event(
    *, event: OutboxEvent, actor: Actor, at: datetime, reason: str, group: str = ""
) -> OutboxEvent:
    """Append a copy of one event, for one subscriber or for all, with the original as its cause."""
    actor.require(PERMISSION)
    selection = Selection(events=(event.event_id,), groups=(group,) if group else ())
    if group and not selection.listeners(event.type):
        raise InvalidInput(f"{group} does not listen to {event.type}.", pointer="/group", code="not_heard")
    if why := why_not_replay(event, selection):
        raise StateConflict(why)
    return _append_copy(event, selection, "single", actor=actor, at=at, reason=reason)


def why_not_replay(event: OutboxEvent, selection: Selection = Selection()) -> str:
    """ "" or why there can be no copy, or none that reaches somebody."""
    if catalog.is_newer(event):
        return f"A newer release wrote it, in version {event.version}: deploy that release first."
    if selection.receivers(event):
        return ""
    if not selection.listeners(event.type):
        return f"Nobody here listens to {event.type}: a copy would reach nobody."
    return f"The event is not for {' or '.join(selection.listeners(event.type))}: a copy would reach nobody."


def _planned(selection: Selection, sha256: str) -> "array[int]":
    """The numbers of the events that were counted, sorted: eight bytes for each."""
    found, ids = array("q"), hashlib.sha256()
    for event in selection.chosen():
        found.append(event.id)
        ids.update(b"%d " % event.id)
    if ids.hexdigest() != sha256:
        raise Conflict("Other events match than were counted: look again.", code="plan_changed")
    return array("q", sorted(found))


def _holds(numbers: "array[int]", number: int) -> bool:
    place = bisect_left(numbers, number)
    return place < len(numbers) and numbers[place] == number


def _batches(events: Iterable[OutboxEvent]) -> Iterator[list[OutboxEvent]]:
    """Consecutive events of one stream, a bounded number at a time: one transaction locks one head."""
    for _, of_stream in groupby(events, key=lambda event: (event.aggregate_type, event.aggregate_id)):
        while batch := list(islice(of_stream, BATCH)):
            yield batch


@transaction.atomic
def _copy(
    events: list[OutboxEvent], selection: Selection, name: str, *, actor: Actor, at: datetime, reason: str
) -> int:
    """The stream's head is locked before its copies are looked for: two runs of one replay never double.

    Copies are in the order of their originals, so that the last one says which have theirs.
    """
    stream = {"aggregate_type": events[0].aggregate_type, "aggregate_id": events[0].aggregate_id}
    OutboxStream.objects.select_for_update(no_key=True).filter(**stream, group="").first()
    copies = OutboxEvent.objects.filter(**stream, sequence__gt=events[0].sequence, headers__replay=name)
    last = copies.order_by("-sequence").first()
    done = find_event(UUID(last.headers["causation_id"])).sequence if last else 0
    missing = [event for event in events if event.sequence > done]
    for event in missing:
        _append_copy(event, selection, name, actor=actor, at=at, reason=reason)
    return len(missing)


def _append_copy(
    event: OutboxEvent, selection: Selection, name: str, *, actor: Actor, at: datetime, reason: str
) -> OutboxEvent:
    """Named after whom it is for: what listens later, or outside, is told of what happened only once."""
    return append(
        event.aggregate_type,
        event.aggregate_id,
        event.type,
        event.payload,
        at=event.occurred_at,
        actor=actor,
        version=event.version,
        causation_id=event.event_id,
        only=selection.receivers(event),
        headers={"replay": name, "reason": reason, "replayed_at": at.isoformat()},
    )


def _known(name: str, wanted: tuple[str, ...], known: Any) -> None:
    if strangers := sorted(set(wanted) - set(known)):
        raise InvalidInput(f"Unknown: {', '.join(strangers)}.", pointer=f"/{name}", code="unknown")


def _add(money: dict[str, int], value: Money) -> None:
    money[value.currency] = money.get(value.currency, 0) + value.minor


def _of(money: dict[str, int]) -> str:
    amounts = ", ".join(str(Money(minor, currency)) for currency, minor in sorted(money.items()))
    return f" worth {amounts}" if amounts else ""
