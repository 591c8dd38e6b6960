"""Recording what units do: reports of machines and operators, what their contract says, and the clock.

Every write goes one way: the service of the contracts is locked, events are inserted in one statement, the
units concerned are folded anew, and where that changes the worst state of a line or a contract, an event
says so. A report is never refused for being surprising: a transition that nobody declared is kept,
followed and flagged (`rules.service`), for the machine is there and we are not. Refused is what cannot be
placed: an unknown unit, another party's line, an instant that makes no sense.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from celery.exceptions import SoftTimeLimitExceeded
from django.db import connection, transaction
from django.db.models import Count

from commerce.actor import Actor
from commerce.errors import FieldError, InvalidInput
from commerce.outbox import append
from contracts.models import Contract, ServiceEvent, UnitStatus
from contracts.rules import fold
from contracts.rules import service as rules
from contracts.rules.schema import instant, invalid
from contracts.rules.service import CONTRACT, VOID, Fact, Report
from contracts.services import projection
from contracts.services.service_placing import (
    MOST_EVENTS,
    Key,
    Placed,
    ServiceReport,
    Track,
    place,
    reporter_of,
    track_of,
)

log = logging.getLogger(__name__)

CLOCK = Actor.system("contracts.service")

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('service:' || id, 0)) FROM unnest(%s::text[]) id"
_FOLDED = ("state", "since", "first_at", "irregular", "serving", "next_due_at")
_SHOWN = (*_FOLDED, "projected_at")

Counts = dict[UUID, dict[UUID, dict[str, int]]]
"""By contract, line and state: how many units."""


@dataclass(frozen=True)
class Recorded:
    """`events` are the new ones. By position in what was sent: `duplicates` were recorded before;
    to `flagged` no declared transition leads, as far as is known now."""

    events: list[ServiceEvent]
    duplicates: list[int]
    flagged: list[int]


@transaction.atomic
def record_service_events(*, events: Sequence[ServiceReport], actor: Actor, at: datetime) -> Recorded:
    """Record up to 1,000 reports, all or none; those that are known already are counted and change nothing.

    They may come late and out of order. More than five minutes ahead of `at` a report can only plan
    maintenance or its end. InvalidInput names every report that cannot be placed, by pointer.
    """
    actor.require("contracts.record_serviceevent")
    if not 1 <= len(events) <= MOST_EVENTS:
        raise InvalidInput(f"Send 1 to {MOST_EVENTS} events.", pointer="/events", code="limit_exceeded")
    placed = place(events, actor=actor, at=at)
    lock_service(one.track[0] for one in placed)
    rows = _rows(events, placed, actor=actor, at=at)
    stored = _insert(list(rows.values()), reporter_of(actor))
    _refuse_reused_ids(events, placed, stored)
    new = [row for key, row in rows.items() if stored[key].pk == row.pk]
    tracks = {track_of(row) for row in new}
    opened = tracks - {unit.track for unit in _units(tracks)}
    for contract_id in sorted({track[0] for track in opened}):
        tracks |= _record_facts(contract_id, opened, actor=actor, at=at)
    irregular = _refresh(tracks, actor=actor, at=at)
    first = {event.key: i for i, event in reversed(list(enumerate(events)))}
    recorded = {first[_key(row)]: row for row in new}
    return Recorded(
        events=new,
        duplicates=[i for i in range(len(events)) if i not in recorded],
        flagged=sorted(i for i, row in recorded.items() if (row.corrects_id or row.pk) in irregular),
    )


@transaction.atomic
def follow_contract(*, contract_id: UUID | str, actor: Actor, at: datetime) -> None:
    """Make the reports of source "contract" what the contract's log says up to `at`.

    A fact is recorded once. One that the log does not say any more, because it was corrected, is voided,
    and reinstated when the log says it again.
    """
    contract_id = UUID(str(contract_id))
    lock_service([contract_id])
    _refresh(_record_facts(contract_id, (), actor=actor, at=at), actor=actor, at=at)


def follow_clock(*, at: datetime, limit: int = 500) -> int:
    """Fold the units anew that the clock has overtaken, each contract in its own transaction; how many."""
    count = 0
    due = UnitStatus.objects.due(at).values_list("contract_id", flat=True)[:limit]
    for contract_id in dict.fromkeys(due):
        try:
            with transaction.atomic():
                lock_service([contract_id])
                tracks = {unit.track for unit in UnitStatus.objects.due(at).filter(contract_id=contract_id)}
                _refresh(tracks, actor=CLOCK, at=at)
                count += len(tracks)
        except SoftTimeLimitExceeded:  # the next one would be killed with its worker
            raise
        except Exception:  # the tick's edge: one broken contract must not hold up the others
            log.exception("units could not be folded", extra={"contract_id": str(contract_id)})
    return count


@transaction.atomic
def rebuild_service(*, contract_id: UUID, actor: Actor, at: datetime, dry_run: bool = False) -> list[str]:
    """Fold a contract's units again; names those whose rows differed from their events, or were missing.

    With `dry_run` nothing is written. The events themselves are never touched.
    """
    lock_service([contract_id])
    shown = {unit.track: unit for unit in UnitStatus.objects.filter(contract_id=contract_id)}
    pairs = ServiceEvent.objects.filter(contract_id=contract_id).order_by().values_list("line_id", "unit_id")
    reported = {(contract_id, line_id, unit_id) for line_id, unit_id in pairs.distinct()}
    wrong = {unit.track for unit in differing(list(shown.values()))} | (reported - set(shown))
    if wrong and not dry_run:
        _refresh(wrong, actor=actor, at=at)
        log.warning("service rebuilt", extra={"contract_id": str(contract_id), "units": len(wrong)})
    return sorted(unit_id for _, _, unit_id in wrong)


def differing(units: Sequence[UnitStatus]) -> list[UnitStatus]:
    """Those of the rows that are not the fold of their events at the instant they show."""
    folded = _fold({unit.track: unit.projected_at for unit in units})[0]
    return [
        unit
        for unit in units
        if any(getattr(unit, name) != getattr(folded[unit.track], name) for name in _FOLDED)
    ]


def lock_service(contract_ids: Iterable[UUID]) -> None:
    """Until the end of the transaction nobody else writes the service of these contracts.

    Not their rows: edits of a contract do not wait for what its machines report.
    """
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, [sorted({str(contract_id) for contract_id in contract_ids})])


def _rows(
    events: Sequence[ServiceReport], placed: Sequence[Placed], *, actor: Actor, at: datetime
) -> dict[Key, ServiceEvent]:
    """What to insert, each key once: reports as they were sent, then corrections, which may be of these."""
    recorded_at, reporter_id = _database_time(), reporter_of(actor)
    targets = [
        event.target
        for event, one in zip(events, placed, strict=True)
        if event.corrects and one.corrects is None
    ]
    stored = _stored(targets, reporter_id)

    def target_of(event: ServiceReport, one: Placed) -> UUID | None:
        if one.corrects or not event.corrects:
            return one.corrects
        return (stored.get(event.target) or rows[event.target]).pk

    rows: dict[Key, ServiceEvent] = {}
    for event, one in sorted(zip(events, placed, strict=True), key=lambda pair: bool(pair[0].corrects)):
        if event.key in rows:
            continue
        contract_id, line_id, unit_id = one.track
        rows[event.key] = ServiceEvent(
            contract_id=contract_id,
            line_id=line_id,
            unit_id=unit_id,
            at=event.at,
            received_at=at,
            recorded_at=recorded_at,
            state=event.state,
            source=event.source,
            source_event_id=event.source_event_id,
            corrects_id=target_of(event, one),
            detail=event.detail,
            actor=str(actor),
            reporter_id=reporter_id,
        )
    return rows


def _database_time() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cursor.fetchone()[0]


def _insert(rows: Sequence[ServiceEvent], reporter_id: UUID | None = None) -> dict[Key, ServiceEvent]:
    """Insert what is new of one reporter, in one statement; what is stored now under each key.

    In the order of the keys, so that two who send the same wait for each other and never both.
    """
    ServiceEvent.objects.bulk_create(sorted(rows, key=_key), ignore_conflicts=True)
    return _stored([_key(row) for row in rows], reporter_id)


def _stored(keys: Sequence[Key], reporter_id: UUID | None) -> dict[Key, ServiceEvent]:
    if not keys:
        return {}
    units, sources, ids = (set(names) for names in zip(*keys, strict=True))
    found = ServiceEvent.objects.filter(
        unit_id__in=units, source__in=sources, source_event_id__in=ids, reporter_id=reporter_id
    )
    return {_key(row): row for row in found}


def _refuse_reused_ids(
    events: Sequence[ServiceReport], placed: Sequence[Placed], stored: Mapping[Key, ServiceEvent]
) -> None:
    def same(event: ServiceReport, one: Placed, row: ServiceEvent) -> bool:
        target = stored.get(event.target) if event.corrects else None
        return (
            (row.at, row.state, row.detail) == (event.at, event.state, event.detail)
            and row.corrects_id == (one.corrects or (target.pk if target else None))
            and (event.line_id is None or track_of(row) == one.track)
        )

    faults = [
        FieldError(f"/events/{i}/id", "event_id_reused", "This id was recorded with other content.")
        for i, (event, one) in enumerate(zip(events, placed, strict=True))
        if not same(event, one, stored[event.key])
    ]
    if faults:
        raise invalid(faults)


def _record_facts(contract_id: UUID, opened: Collection[Track], *, actor: Actor, at: datetime) -> set[Track]:
    """Write what the contract says and nobody recorded, void what it does not say; the units concerned."""
    instants = fold.timeline(projection.load_edits(contract_id))
    units = set(UnitStatus.objects.filter(contract_id=contract_id).values_list("line_id", "unit_id"))
    units |= {(line_id, unit_id) for contract, line_id, unit_id in opened if contract == contract_id}
    named = {
        (line.line_id, unit)
        for step in instants
        for line in step.state.lines.values()
        for unit in line.unit_ids
    }
    loose: dict[UUID, list[str]] = defaultdict(list)
    for line_id, unit_id in sorted(units - named):
        loose[line_id].append(unit_id)
    wanted = {
        (fact.unit_id, fact.key(contract_id)): fact for fact in rules.facts(instants, until=at, loose=loose)
    }
    corrections: dict[UUID, list[ServiceEvent]] = defaultdict(list)
    facts: dict[tuple[str, str], ServiceEvent] = {}
    for row in ServiceEvent.objects.filter(contract_id=contract_id, source=CONTRACT).order_by(
        "recorded_at", "id"
    ):
        if row.corrects_id:
            corrections[row.corrects_id].append(row)
        else:
            facts[row.unit_id, row.source_event_id] = row
    recorded_at = _database_time()
    rows: list[ServiceEvent] = []

    def write(fact: Fact | ServiceEvent, state: str, key: str, corrects: UUID | None = None) -> None:
        rows.append(
            ServiceEvent(
                contract_id=contract_id,
                line_id=fact.line_id,
                unit_id=fact.unit_id,
                at=fact.at,
                received_at=at,
                recorded_at=recorded_at,
                state=state,
                source=CONTRACT,
                source_event_id=key,
                corrects_id=corrects,
                actor=str(actor),
            )
        )

    for key, fact in wanted.items():
        if key not in facts:
            write(fact, fact.state, key[1])
    for key, row in facts.items():
        earlier = corrections[row.pk]
        counts = not earlier or earlier[-1].state != VOID
        if counts != (key in wanted) and row.at <= at:
            state = VOID if counts else row.state
            write(row, state, f"{state}:{row.pk}:{len(earlier)}", row.pk)
    _insert(rows)
    return {track_of(row) for row in rows}


def _refresh(tracks: Collection[Track], *, actor: Actor, at: datetime) -> set[UUID]:
    """Fold these units at `at` and tell of lines whose worst state, or number of serving units, is another.

    Returns the events of these units to which no declared transition leads.
    """
    if not tracks:
        return set()
    contract_ids = {contract_id for contract_id, _, _ in tracks}
    before, served = unit_counts(contract_ids), _serving(contract_ids)
    shown = {unit.track: unit.projected_at for unit in _units(tracks)}
    folded, irregular = _fold({track: max(at, shown.get(track, at)) for track in tracks})
    UnitStatus.objects.bulk_create(
        folded.values(),
        update_conflicts=True,
        unique_fields=["contract", "line_id", "unit_id"],
        update_fields=_SHOWN,
    )
    _announce(before, unit_counts(contract_ids), served, _serving(contract_ids), actor=actor, at=at)
    return irregular


def _fold(instants: Mapping[Track, datetime]) -> tuple[dict[Track, UnitStatus], set[UUID]]:
    """The row of each unit at its instant, not saved; and the irregular events of them all."""
    reports = load_reports(instants)
    irregular: set[UUID] = set()
    rows = {}
    for track, at in instants.items():
        contract_id, line_id, unit_id = track
        found = rules.status(reports.get(track, ()), at=at)
        irregular.update(found.irregular)
        rows[track] = UnitStatus(
            contract_id=contract_id,
            line_id=line_id,
            unit_id=unit_id,
            state=found.state,
            since=found.since,
            first_at=found.first_at,
            irregular=len(found.irregular),
            serving=found.serving,
            projected_at=at,
            next_due_at=found.due_at,
        )
    return rows, irregular


def load_reports(tracks: Collection[Track]) -> dict[Track, list[Report]]:
    """The events of these units as the rules read them."""
    if not tracks:
        return {}
    contract_ids, line_ids, unit_ids = (set(ids) for ids in zip(*tracks, strict=True))
    rows = ServiceEvent.objects.filter(
        contract_id__in=contract_ids, line_id__in=line_ids, unit_id__in=unit_ids
    )
    found: dict[Track, list[Report]] = {}
    for contract_id, report in reports_of(rows):
        track = contract_id, report.line_id, report.unit_id
        if track in tracks:
            found.setdefault(track, []).append(report)
    return found


def reports_of(rows: Any) -> Iterable[tuple[UUID, Report]]:
    """A queryset of events as reports, each with its contract."""
    columns = (
        "contract_id", "id", "unit_id", "line_id", "at", "state", "source", "received_at", "recorded_at",
        "corrects_id", "reporter_id",
    )  # fmt: skip
    for contract_id, *values in rows.order_by().values_list(*columns):
        yield contract_id, Report(*values)


def unit_counts(contract_ids: Collection[UUID]) -> Counts:
    """How many units of each line are in which state, as the rows have it."""
    found: Counts = {}
    rows = UnitStatus.objects.filter(contract_id__in=contract_ids).order_by()
    for contract_id, line_id, state, count in rows.values_list("contract_id", "line_id", "state").annotate(
        count=Count("id")
    ):
        found.setdefault(contract_id, {}).setdefault(line_id, {})[state] = count
    return found


def _serving(contract_ids: Collection[UUID]) -> Counter[tuple[UUID, UUID]]:
    """By contract and line: how many units have begun their service and not ended it."""
    rows = UnitStatus.objects.filter(contract_id__in=contract_ids, serving=True).order_by()
    counted = rows.values_list("contract_id", "line_id").annotate(count=Count("id"))
    return Counter({(contract_id, line_id): count for contract_id, line_id, count in counted})


def total(lines: Mapping[UUID, Mapping[str, int]]) -> dict[str, int]:
    """Units of a contract by state: the sum over its lines."""
    found: dict[str, int] = defaultdict(int)
    for counts in lines.values():
        for state, count in counts.items():
            found[state] += count
    return dict(found)


def _announce(
    before: Counts,
    after: Counts,
    served: Counter[tuple[UUID, UUID]],
    serving: Counter[tuple[UUID, UUID]],
    *,
    actor: Actor,
    at: datetime,
) -> None:
    """Tell of lines whose worst state, or number of units that serve, is another one: an event a contract."""
    changed = {
        contract_id: moved
        for contract_id, lines in after.items()
        if (
            moved := [
                line_id
                for line_id, counts in lines.items()
                if served[contract_id, line_id] != serving[contract_id, line_id]
                or rules.roll_up(before.get(contract_id, {}).get(line_id, {})) != rules.roll_up(counts)
            ]
        )
    }
    contracts = Contract.objects.only("number", "buyer_id").in_bulk(changed)
    for contract_id in sorted(changed):
        old, new = before.get(contract_id, {}), after[contract_id]
        append(
            "service",
            contract_id,
            "service.status_changed",
            {
                "contract_id": str(contract_id),
                "number": contracts[contract_id].number,
                "buyer_id": str(contracts[contract_id].buyer_id),
                "at": instant(at),
                "status": {"before": rules.roll_up(total(old)), "after": rules.roll_up(total(new))},
                "units": total(new),
                "lines": [
                    {
                        "line_id": str(line_id),
                        "before": rules.roll_up(old.get(line_id, {})),
                        "after": rules.roll_up(new[line_id]),
                        "serving": serving[contract_id, line_id],
                        "units": new[line_id],
                    }
                    for line_id in sorted(changed[contract_id])
                ],
            },
            at=at,
            actor=actor,
        )


def _units(tracks: Collection[Track]) -> list[UnitStatus]:
    """The rows that there are of these units."""
    rows = UnitStatus.objects.filter(
        contract_id__in={track[0] for track in tracks}, unit_id__in={track[2] for track in tracks}
    )
    return [unit for unit in rows if unit.track in tracks]


def _key(row: ServiceEvent) -> Key:
    return row.unit_id, row.source, row.source_event_id
