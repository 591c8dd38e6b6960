"""The windows over which each commitment of a contract is measured, from its timeline.

A commitment runs while the contract does, out of trial. Its windows are those of its billing periods, of
quarters, or of the contract's terms; they are cut where it begins and ends, where another buyer takes over,
and shortened by what a seller's fault suspended. They are settled one by one, or each owner's of a term
together when it, or his ownership, ends.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, pairwise

from contracts.rules.commitments import Window, window
from contracts.rules.fold import Instant, at_instant
from contracts.rules.operations.base import RUNNING
from contracts.rules.periods import periods_between
from contracts.rules.segments import ALWAYS, Stretch, periods_of, stretches
from contracts.rules.state import Commitment, ContractState


@dataclass(frozen=True)
class Committed:
    """A commitment over one stretch of time, its windows in order, and which are settled together, when."""

    commitment: Commitment
    windows: tuple[Window, ...]
    settled: tuple[tuple[datetime, tuple[Window, ...]], ...]

    def at(self, moment: datetime) -> int | None:
        """The position of the window that contains `moment`."""
        return next((i for i, w in enumerate(self.windows) if w.start <= moment < w.end), None)


@dataclass(frozen=True)
class _Term:
    """A term of the contract: until `end`, None when it has none."""

    no: int
    start: datetime
    end: datetime | None


def committed_of(instants: Sequence[Instant], until: datetime) -> list[Committed]:
    """Every commitment that a contract had, with the windows that begin before `until`."""
    found = []
    for stretch in stretches(instants, ALWAYS, _running):
        windows = tuple(_windows(instants, stretch, until))
        found.append(Committed(stretch.value, windows, tuple(_settled(instants, stretch, windows))))
    return found


def _windows(instants: Sequence[Instant], stretch: Stretch[Commitment], until: datetime) -> Iterator[Window]:
    commitment, ending = stretch.value, instants[-1].state.ending
    owners = _owners(instants)
    pauses = stretches(instants, ALWAYS, lambda state: _paused(state, commitment))
    for start, end, full in _full_windows(instants, stretch, until):
        begin, finish = max(start, stretch.start), min(end, stretch.end)
        cuts = [owner.start for owner in owners if begin < owner.start < finish]
        for since, to in pairwise([begin, *cuts, finish]):
            uncut, waived = to, False
            if ending is not None and to == ending.at:
                how = ending.commitment or (commitment.on_termination if _is_early(instants, to) else "")
                uncut, waived = (end if how == "full" else to), how == "waive"
            paused = _overlap(pauses, since, to)
            share = window(since, uncut, full, paused).share
            yield Window(since, to, share, waived)


def _full_windows(
    instants: Sequence[Instant], stretch: Stretch[Commitment], until: datetime
) -> Iterator[tuple[datetime, datetime, timedelta]]:
    """(start, end, length of the whole) of the windows that meet the stretch and begin before `until`."""
    last = min(stretch.end, until)
    if stretch.value.window == "period":
        for period in periods_of(instants, stretch.start, last):
            yield period.start, period.end, period.full
    elif stretch.value.window == "quarter":
        anchor_day = at_instant(instants, stretch.start).billing.anchor_day
        for period in periods_between(anchor_day, stretch.start, last, "P3M"):
            yield period.start, period.end, period.full
    else:
        for term in _terms(instants):
            end = term.end or stretch.end
            if term.start < last and end > stretch.start:
                start = term.start if term.end else stretch.start
                yield start, end, end - start


def _settled(
    instants: Sequence[Instant], stretch: Stretch[Commitment], windows: Iterable[Window]
) -> Iterator[tuple[datetime, tuple[Window, ...]]]:
    """When which windows are settled: each at its end, or an owner's of a term when the first of both ends.

    What is waived of those that are settled together is all of them.
    """
    if stretch.value.true_up == "window":
        yield from ((one.end, (one,)) for one in windows if not one.waived)
    elif stretch.value.true_up == "term_end":
        terms, owners = _terms(instants), _owners(instants)

        def belongs_to(one: Window) -> tuple[_Term, Stretch[int]]:
            term = max((term for term in terms if term.start <= one.start), key=lambda term: term.no)
            return term, next(owner for owner in owners if owner.start <= one.start < owner.end)

        for (term, owner), same in groupby(windows, key=belongs_to):
            together = tuple(same)
            last = together[-1]
            if last.end == min(term.end or stretch.end, owner.end, stretch.end) and not last.waived:
                yield last.end, together


def _owners(instants: Sequence[Instant]) -> list[Stretch[int]]:
    return stretches(instants, ALWAYS, lambda state: [("", state.owner_epoch)])


def _is_early(instants: Sequence[Instant], ended_at: datetime) -> bool:
    """Whether a contract that was ended had agreed to run for longer, or without end."""
    agreed = _terms(instants)[-1].end
    return agreed is None or ended_at < agreed


def _terms(instants: Sequence[Instant]) -> list[_Term]:
    """The terms of the contract as they were last agreed before they ended."""
    terms: dict[int, _Term] = {}
    for instant in instants:
        state = instant.state
        start = state.term_start_at or state.start_at
        if state.status in RUNNING and start is not None:
            terms[state.term_no] = _Term(state.term_no, start, state.end_at)
    return list(terms.values())


def _running(state: ContractState) -> Iterable[tuple[Hashable, Commitment]]:
    return state.commitments.items() if state.status in RUNNING and state.trial is None else ()


def _paused(state: ContractState, commitment: Commitment) -> Iterator[tuple[Hashable, bool]]:
    """Whether a seller's fault keeps every line that the commitment is for from being billed."""
    lines = [line.line_id for line in state.live_lines if commitment.covers(line.line_id)]
    holds = [hold for hold in state.holds if hold.reason == "seller_fault" and hold.billing == "stop"]
    if lines and all(any(hold.covers(line_id) for hold in holds) for line_id in lines):
        yield "", True


def _overlap(pauses: Iterable[Stretch[bool]], start: datetime, end: datetime) -> timedelta:
    return sum((max(min(one.end, end) - max(one.start, start), timedelta()) for one in pauses), timedelta())
