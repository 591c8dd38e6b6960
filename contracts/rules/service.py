"""Service status: what units of a line are doing, folded from reports of machines and of the contract.

Reports come late, twice and out of order, and may be corrected; they are sorted by the instant they
speak of, so that any order of arrival gives one status. The fold is total: a transition that nobody
declared is followed and flagged, for a machine knows better than a table what it does. Only the
contract opens a unit's service, blocks it and ends it; no report undoes what it says.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby, pairwise
from typing import Literal, cast
from uuid import UUID

from contracts.rules.fold import Instant
from contracts.rules.schema import instant

State = Literal[
    "down", "access_blocked", "degraded", "maintenance", "provisioning", "in_service", "not_started",
    "deprovisioning", "released",
]  # fmt: skip
WORST_FIRST: tuple[State, ...] = (
    "down", "access_blocked", "degraded", "maintenance", "provisioning", "in_service", "not_started",
    "deprovisioning", "released",
)  # fmt: skip
# What a report may say besides a state: access is given back; the report it corrects does not count.
RESTORED, VOID = "access_restored", "void"
REPORTED = (*WORST_FIRST, RESTORED, VOID)

CONTRACT = "contract"
LIVE = frozenset({"in_service", "degraded", "down", "maintenance"})
DELIVERING = frozenset({"in_service", "degraded"})
ENDED = frozenset({"deprovisioning", "released"})
COVERED = frozenset({"pending_activation", "active", "suspended"})

DEBOUNCE = timedelta(minutes=5)
NOTICE = timedelta(hours=72)

TRANSITIONS: Mapping[str, frozenset[str]] = {
    "not_started": frozenset({"provisioning"}),
    "provisioning": frozenset({"in_service", "released"}),
    "in_service": frozenset({"degraded", "down", "maintenance", "deprovisioning"}),
    "degraded": frozenset({"in_service", "down", "deprovisioning"}),
    "down": frozenset({"in_service", "deprovisioning"}),
    "maintenance": frozenset({"in_service", "deprovisioning"}),
    "deprovisioning": frozenset({"released"}),
    "released": frozenset(),
}


@dataclass(frozen=True)
class Report:
    """One service event of a unit: `at` in business time, `received_at` when we were told, in the same.

    With `corrects` it says what another report should have said; VOID: that it does not count. The
    latest known correction of a report wins; a correction is not itself corrected. `reporter` is the
    organization that it is from; None: we, or the contract.
    """

    id: UUID
    unit_id: str
    line_id: UUID
    at: datetime
    state: str
    source: str
    received_at: datetime
    recorded_at: datetime
    corrects: UUID | None = None
    reporter: UUID | None = None

    @property
    def by(self) -> tuple[str, UUID | None]:
        """Who said it: a source's name is its reporter's own, and means nothing to another."""
        return self.source, self.reporter


@dataclass(frozen=True)
class Span:
    """A unit was in `state` over [start, end); `end` None: until something else is reported.

    `excused`: maintenance that was announced 72 hours before it began; any other counts as down.
    """

    start: datetime
    end: datetime | None
    state: State
    excused: bool = False


@dataclass(frozen=True)
class Status:
    """A unit at one instant. `since` None: nothing counts yet. `due_at`: when the clock alone changes it.

    `first_at` is the first report that counts at any time; `irregular` are those up to then that no
    declared transition leads to. `serving`: it has begun its service and not ended it, and is billed where
    service is what is billed.
    """

    state: State
    since: datetime | None
    first_at: datetime | None
    due_at: datetime | None
    irregular: tuple[UUID, ...]
    serving: bool


@dataclass(frozen=True)
class InService:
    """So many units had begun their service, and not ended it, over [start, end)."""

    start: datetime
    end: datetime
    quantity: int


@dataclass(frozen=True)
class Fact:
    """What a contract says of a unit at an instant; `key` is the same however often it is derived."""

    unit_id: str
    line_id: UUID
    at: datetime
    state: str

    def key(self, contract_id: UUID) -> str:
        return f"{self.state}:{contract_id}:{self.line_id}:{instant(self.at)}"


@dataclass(frozen=True)
class _Condition:
    """What has been said of a unit so far: of the device itself, and by whom its access is blocked."""

    device: State = "not_started"
    ended: bool = False
    excused: bool = False
    blocked_by: frozenset[tuple[str, UUID | None]] = frozenset()

    @property
    def state(self) -> State:
        return "access_blocked" if self.blocked_by and self.device in LIVE else self.device


def counting(reports: Iterable[Report], known_at: datetime | None = None) -> list[Report]:
    """What the reports known at `known_at` say after their corrections, in the order of their instants.

    At one instant the contract speaks first, then ties go by order of recording; a corrected report
    keeps the place that it was recorded at.
    """
    known = [report for report in reports if known_at is None or report.recorded_at <= known_at]
    known.sort(key=lambda report: (report.recorded_at, report.id))
    corrections = {report.corrects: report for report in known if report.corrects}
    found = []
    for report in known:
        if report.corrects:
            continue
        if correction := corrections.get(report.id):
            if correction.state == VOID:
                continue
            report = replace(
                report, at=correction.at, state=correction.state, received_at=correction.received_at
            )
        found.append(report)
    return sorted(found, key=lambda report: (report.at, report.source != CONTRACT))


def spans(reports: Iterable[Report], *, until: datetime, known_at: datetime | None = None) -> list[Span]:
    """One unit's states up to `until`, without gaps.

    Degraded for less than five minutes, up to `until`, reads as in service.
    """
    return _spans(_walk(counting(reports, known_at), until), until)


def served(reports: Iterable[Report], *, until: datetime, known_at: datetime | None = None) -> list[Span]:
    """One unit's `spans` from its first delivery until it is deprovisioned, without what lies outside."""
    walked = list(_walk(counting(reports, known_at), until))
    found = _spans(walked, until)
    return [
        replace(span, start=max(span.start, begin), end=min(span.end or until, finish or until))
        for begin, finish in _service(walked)
        for span in found
        if span.start < (finish or until) and (span.end or until) > begin
    ]


def status(reports: Iterable[Report], *, at: datetime, known_at: datetime | None = None) -> Status:
    """One unit at `at`, as known at `known_at`."""
    ordered = counting(reports, known_at)
    walked = list(_walk(ordered, at))
    found = _spans(walked, at)
    upcoming = [report.at for report in ordered if report.at > at][:1]
    raw = _merged(_raw(walked))
    if raw and raw[-1].state == "degraded" and at - raw[-1].start < DEBOUNCE:
        upcoming.append(raw[-1].start + DEBOUNCE)
    return Status(
        state=found[-1].state if found else "not_started",
        since=found[-1].start if found else None,
        first_at=ordered[0].at if ordered else None,
        due_at=min(upcoming, default=None),
        irregular=tuple(report.id for report, _, irregular in walked if irregular),
        serving=any(finish is None for _, finish in _service(walked)),
    )


def roll_up(counts: Mapping[str, int]) -> State | None:
    """The worst state that any unit is in; None where there are none."""
    return next((state for state in WORST_FIRST if counts.get(state)), None)


def in_service_intervals(
    reports: Iterable[Report], line_id: UUID, start: datetime, end: datetime, known_at: datetime | None = None
) -> list[InService]:
    """How many units of a line are in service over [start, end), from which a line is billed that bills so.

    A unit counts from the first instant at which it delivers until it is deprovisioned or released: what
    fails in between is credited, not unbilled.
    """
    changes: Counter[datetime] = Counter()
    for unit in by_unit(report for report in reports if report.line_id == line_id).values():
        for begin, finish in _service(_walk(counting(unit, known_at), end)):
            if begin < end and (finish is None or finish > start):
                changes[max(begin, start)] += 1
                changes[min(finish or end, end)] -= 1
    found: list[InService] = []
    quantity = 0
    instants = sorted(moment for moment, change in changes.items() if change)
    for begin, finish in pairwise(instants):
        quantity += changes[begin]
        if quantity:
            found.append(InService(begin, finish, quantity))
    return found


def by_unit(reports: Iterable[Report]) -> dict[str, list[Report]]:
    found: dict[str, list[Report]] = {}
    for report in reports:
        found.setdefault(report.unit_id, []).append(report)
    return found


def facts(
    instants: Sequence[Instant], *, until: datetime, loose: Mapping[UUID, Collection[str]]
) -> list[Fact]:
    """What a contract's timeline says of its units up to `until`: begun, blocked, restored, ended.

    A unit belongs to a line from signature until the line or the contract ends. `loose` are units by
    line that were reported there and that the contract has never named.
    """
    found: list[Fact] = []
    before: dict[tuple[UUID, str], bool] = {}
    for step in instants:
        if step.at > until:
            break
        covered = step.state.status in COVERED
        after = {
            (line.line_id, unit): any(
                h.access == "block" and h.covers(line.line_id) for h in step.state.holds
            )
            for line in step.state.lines.values()
            if covered and line.live
            for unit in dict.fromkeys((*line.unit_ids, *loose.get(line.line_id, ())))
        }
        for (line_id, unit), blocked in {**before, **after}.items():
            was, now = before.get((line_id, unit)), after.get((line_id, unit))
            if now is None:
                found.append(Fact(unit, line_id, step.at, "deprovisioning"))
                continue
            if was is None:
                found.append(Fact(unit, line_id, step.at, "not_started"))
            if blocked != bool(was):
                found.append(Fact(unit, line_id, step.at, "access_blocked" if blocked else RESTORED))
        before = after
    return found


def _walk(ordered: Iterable[Report], until: datetime) -> Iterator[tuple[Report, _Condition, bool]]:
    """Each report up to `until`, the condition after it, and whether no declared transition leads there."""
    condition = _Condition()
    for report in ordered:
        if report.at > until:
            return
        condition, regular = _step(condition, report)
        yield report, condition, not regular


def _step(before: _Condition, report: Report) -> tuple[_Condition, bool]:
    source, said = report.source, report.state
    if said == "access_blocked":
        blocked = replace(before, blocked_by=before.blocked_by | {report.by})
        return blocked, source == CONTRACT or before.device in LIVE
    lifted = replace(before, blocked_by=before.blocked_by - {report.by})
    if said == RESTORED:
        return lifted, source == CONTRACT or report.by in before.blocked_by
    if source == CONTRACT:
        if said == "not_started":
            return _Condition(), True
        device: State = "released" if before.device == "released" else "deprovisioning"
        return _Condition(device, ended=True), True
    if said == before.device:
        return lifted, True
    if before.ended:
        released = said == "released"
        return (replace(before, device="released") if released else before), released
    excused = said == "maintenance" and report.at - report.received_at >= NOTICE
    regular = said in TRANSITIONS[before.device]
    return replace(lifted, device=cast(State, said), excused=excused), regular


def _spans(walked: Iterable[tuple[Report, _Condition, bool]], until: datetime) -> list[Span]:
    merged = _merged(_raw(walked))
    return _merged(
        replace(span, state="in_service")
        if span.state == "degraded" and (span.end or until) - span.start < DEBOUNCE
        else span
        for span in merged
    )


def _raw(walked: Iterable[tuple[Report, _Condition, bool]]) -> list[Span]:
    """A span for each instant at which something was reported; the last word at an instant counts."""
    last = {report.at: condition for report, condition, _ in walked}
    starts = list(last)
    return [
        Span(begin, finish, last[begin].state, last[begin].state == "maintenance" and last[begin].excused)
        for begin, finish in zip(starts, [*starts[1:], None], strict=False)
    ]


def _merged(found: Iterable[Span]) -> list[Span]:
    """Neighbours that say the same as one span."""
    merged = []
    for _, same in groupby(found, key=lambda span: (span.state, span.excused)):
        first, *rest = same
        merged.append(replace(first, end=rest[-1].end) if rest else first)
    return merged


def _service(walked: Iterable[tuple[Report, _Condition, bool]]) -> Iterator[tuple[datetime, datetime | None]]:
    """One unit's stretches from its first delivery to the end of its service; None: it goes on."""
    begun: datetime | None = None
    for report, condition, _ in walked:
        if begun is None and condition.device in DELIVERING:
            begun = report.at
        elif begun is not None and condition.device in (*ENDED, "not_started"):
            yield begun, report.at
            begun = None
    if begun is not None:
        yield begun, None
