"""Whose unit a report is about: its contract and line, as far as the reporter may speak of them.

A seller reports on its own lines, the platform on all. What cannot be placed is named by pointer, and a
line of somebody else's is answered like one that does not exist.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from commerce.actor import Actor
from commerce.errors import FieldError
from commerce.parties.models import Organization
from contracts.models import Contract, ServiceEvent, UnitStatus
from contracts.rules import fold
from contracts.rules.schema import invalid
from contracts.rules.service import CONTRACT, COVERED, REPORTED, VOID
from contracts.services import projection

MOST_EVENTS = 1000
MOST_DETAIL = 4000
AHEAD = timedelta(minutes=5)
PLANNED = timedelta(days=366)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
CONSOLE = "console"

_TEXT = re.compile(r"[^\x00-\x1f]+")
_SIZES = {"unit_id": 120, "source": 120, "source_event_id": 200}
_POINTERS = {"source_event_id": "id"}
_OVER = frozenset({"expired", "terminated"})

Key = tuple[str, str, str]
"""Unit, source and the source's id: what identifies an event."""
Track = tuple[UUID, UUID, str]
"""Contract, line and unit: what one fold is of."""


@dataclass(frozen=True)
class ServiceReport:
    """One event as a door has read it. Contract and line may be left out where the unit is known.

    `corrects` is the source's id of another report on the unit, of `corrects_source` if not of its own.
    """

    unit_id: str
    state: str
    at: datetime
    source: str
    source_event_id: str
    contract_id: UUID | None = None
    line_id: UUID | None = None
    corrects: str = ""
    corrects_source: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.unit_id, self.source, self.source_event_id

    @property
    def target(self) -> Key:
        return self.unit_id, self.corrects_source or self.source, self.corrects


@dataclass(frozen=True)
class Placed:
    """`corrects` is the stored event that a correction is of; None when that comes in the same batch."""

    track: Track
    corrects: UUID | None = None


@dataclass(frozen=True)
class _Line:
    seller_id: UUID
    units: frozenset[str]


class _Fault(Exception):
    """Why one report cannot be placed: name of the field, code, sentence."""


def place(events: Sequence[ServiceReport], *, actor: Actor, at: datetime) -> list[Placed]:
    """Where each event belongs. InvalidInput names every one that is malformed or cannot be placed."""
    faults = [
        FieldError(f"/events/{i}/{name}", code, detail)
        for i, event in enumerate(events)
        for name, code, detail in _malformed(event, actor, at)
    ]
    if faults:
        raise invalid(faults)
    places = _Places(events, actor)
    found: dict[int, Placed] = {}
    originals: dict[Key, Placed] = {}
    # What says where a unit is comes before what leaves that out, and reports before their corrections.
    for i, event in sorted(enumerate(events), key=lambda pair: (pair[1].corrects != "", not pair[1].line_id)):
        try:
            found[i] = places.correction(event, originals) if event.corrects else places.report(event)
        except _Fault as fault:
            name, code, detail = fault.args
            faults.append(FieldError(f"/events/{i}/{name}", code, detail))
        else:
            if not event.corrects:
                originals.setdefault(event.key, found[i])
    if faults:
        raise invalid(sorted(faults, key=lambda fault: int(fault.pointer.split("/")[2])))
    return [found[i] for i in range(len(events))]


class _Places:
    """What is known of the units, contracts and targets that a batch names: a query each."""

    def __init__(self, events: Sequence[ServiceReport], actor: Actor) -> None:
        self.organization_id = reporter_of(actor)
        self.tracks: dict[str, list[UnitStatus]] = {}
        for unit in UnitStatus.objects.filter(unit_id__in={event.unit_id for event in events}):
            self.tracks.setdefault(unit.unit_id, []).append(unit)
        targets = {event.target for event in events if event.corrects}
        self.targets: dict[Key, list[ServiceEvent]] = {}
        for row in ServiceEvent.objects.filter(
            unit_id__in={unit for unit, _, _ in targets}, source_event_id__in={id_ for _, _, id_ in targets}
        ).order_by("id"):
            self.targets.setdefault((row.unit_id, row.source, row.source_event_id), []).append(row)
        ids = {event.contract_id for event in events if event.contract_id}
        ids |= {unit.contract_id for units in self.tracks.values() for unit in units}
        ids |= {row.contract_id for rows in self.targets.values() for row in rows}
        self.contracts = Contract.objects.only("status", "state").in_bulk(ids)
        self.opened: dict[str, Track] = {}
        self._timelines: dict[UUID, dict[UUID, _Line]] = {}

    def report(self, event: ServiceReport) -> Placed:
        if event.contract_id and event.line_id:
            self.opened[event.unit_id] = self._named(event, event.contract_id, event.line_id)
            return Placed(self.opened[event.unit_id])
        own = [unit for unit in self.tracks.get(event.unit_id, ()) if self._may_speak_of(unit.track)]
        if not own and event.unit_id in self.opened:
            return Placed(self.opened[event.unit_id])
        if not own:
            raise _Fault("unit_id", "unit_unknown", "No line has this unit; name its contract and line.")
        begun = [unit for unit in own if unit.first_at and unit.first_at <= event.at]
        return Placed((max(begun, key=_beginning) if begun else min(own, key=_beginning)).track)

    def correction(self, event: ServiceReport, originals: dict[Key, Placed]) -> Placed:
        named = [row for row in self.targets.get(event.target, ()) if self._may_speak_of(track_of(row))]
        own = [row for row in named if row.reporter_id == self.organization_id]
        if event.target in originals and not own:
            return Placed(originals[event.target].track)
        if not named:
            raise _Fault("corrects", "corrected_not_found", "This unit has no such report.")
        of_line = [
            row for row in named if (row.contract_id, row.line_id) == (event.contract_id, event.line_id)
        ]
        target, *others = own or of_line or named
        if others:
            raise _Fault(
                "corrects", "corrected_ambiguous", "Several have reported under this id; say of which line."
            )
        track = track_of(target)
        if target.source == CONTRACT:
            raise _Fault("corrects", "said_by_the_contract", "What the contract says is corrected there.")
        if target.corrects_id:
            raise _Fault("corrects", "corrected_is_correction", "Correct the report, not its correction.")
        if self.organization_id and target.reporter_id != self.organization_id:
            raise _Fault("corrects", "not_the_reporter", "Only who reported it corrects it.")
        if event.line_id and (event.contract_id, event.line_id) != track[:2]:
            raise _Fault("line_id", "line_mismatch", "The report that it corrects is of another line.")
        return Placed(track, corrects=target.pk)

    def _named(self, event: ServiceReport, contract_id: UUID, line_id: UUID) -> Track:
        track = contract_id, line_id, event.unit_id
        if not self._has_a_part_in(contract_id):
            raise _Fault("contract_id", "contract_not_found", "There is no such contract.")
        if not self._may_speak_of(track):
            raise _Fault("line_id", "line_not_found", "The contract has no such line.")
        if any(unit.track == track for unit in self.tracks.get(event.unit_id, ())):
            return track
        if self.contracts[contract_id].status not in COVERED | _OVER:
            raise _Fault("contract_id", "contract_not_signed", "Service begins when every party has signed.")
        named = self._timeline(contract_id)[line_id].units
        if named and event.unit_id not in named:
            raise _Fault("unit_id", "unit_not_in_line", "The contract names other units for this line.")
        return track

    def _has_a_part_in(self, contract_id: UUID) -> bool:
        if contract_id not in self.contracts:
            return False
        sellers = {line.seller_id for line in self._timeline(contract_id).values()}
        return self.organization_id is None or self.organization_id in sellers

    def _may_speak_of(self, track: Track) -> bool:
        seller_id = self._seller(track[0], track[1])
        return seller_id is not None and self.organization_id in (None, seller_id)

    def _seller(self, contract_id: UUID, line_id: UUID) -> UUID | None:
        shown = self.contracts[contract_id].state["lines"].get(str(line_id))
        if shown:
            return UUID(shown["seller_id"])
        line = self._timeline(contract_id).get(line_id)
        return line.seller_id if line else None

    def _timeline(self, contract_id: UUID) -> dict[UUID, _Line]:
        """Every line that the contract ever has, planned ones too, and the units named for it at any time."""
        if contract_id not in self._timelines:
            lines: dict[UUID, _Line] = {}
            for step in fold.timeline(projection.load_edits(contract_id)):
                for line in step.state.lines.values():
                    earlier = lines[line.line_id].units if line.line_id in lines else frozenset()
                    lines[line.line_id] = _Line(line.seller_id, earlier.union(line.unit_ids))
            self._timelines[contract_id] = lines
        return self._timelines[contract_id]


def reporter_of(actor: Actor) -> UUID | None:
    """Whose key reports; None when we do."""
    organization_id = actor.organization_id
    return None if organization_id == Organization.objects.platform().pk else organization_id


def track_of(row: ServiceEvent) -> Track:
    return row.contract_id, row.line_id, row.unit_id


def _beginning(unit: UnitStatus) -> datetime:
    return unit.first_at or datetime.max.replace(tzinfo=UTC)


def _malformed(event: ServiceReport, actor: Actor, at: datetime) -> Iterator[tuple[str, str, str]]:
    """Field, code and sentence of what is wrong with a report whatever it is about."""
    for name, most in _SIZES.items():
        value = getattr(event, name)
        if not (_TEXT.fullmatch(value) and len(value) <= most):
            yield _POINTERS.get(name, name), "invalid_format", f"Must be 1 to {most} characters of text."
    if event.source == CONTRACT or (event.source == CONSOLE and actor.type == "api_key"):
        yield "source", "source_reserved", f"{event.source!r} is what we call ourselves; take another name."
    if event.state not in REPORTED:
        yield "state", "invalid_choice", f"Must be one of: {', '.join(REPORTED)}."
    if event.state == VOID and not event.corrects:
        yield "corrects", "required", "Name the report that does not count."
    if (event.contract_id is None) != (event.line_id is None):
        missing = "line_id" if event.contract_id else "contract_id"
        yield missing, "required", "Contract and line are named together, or neither."
    if event.at.tzinfo is None:
        yield "at", "invalid_instant", "The instant needs an offset, e.g. 2027-03-01T00:00:00Z."
    else:
        ahead = PLANNED if event.state in ("maintenance", "in_service", VOID) else AHEAD
        if not EARLIEST <= event.at <= at + ahead:
            yield "at", "at_out_of_range", "A report is of the past; maintenance is planned a year at most."
    if len(json.dumps(event.detail)) > MOST_DETAIL:
        yield "detail", "detail_too_large", f"At most {MOST_DETAIL} characters of JSON."
