"""The fold: a contract's state at any valid instant, as known at any instant.

The log is resolved first: the latest known correction of an edit says whether it counts, and as what.
What counts is sorted by the instant it takes effect, ties by order of recording (a replaced edit keeps
its place); the clock adds what nobody records. Total and deterministic for any prefix of the log.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from commerce.errors import CommerceError
from contracts.rules.operations import REGISTRY, check_allowed
from contracts.rules.operations.base import RUNNING
from contracts.rules.state import ContractState, Ending, LineState, evolve
from contracts.rules.upcasting import load

FOLD_VERSION = 4
NOTHING = ContractState()


@dataclass(frozen=True)
class Edit:
    """One row of the log; `payload` is the operation's dataclass, already parsed.

    `agreed`: two people agreed to it, or a machine recorded it by what they had agreed.
    """

    seq: int
    operation: str
    payload: Any
    effective_at: datetime
    recorded_at: datetime
    reason: str = ""
    actor: str = ""
    id: UUID | None = None
    op_version: int = 1
    agreed: bool = False


@dataclass(frozen=True)
class Instant:
    """The state from `at` on, and the edits that brought it about (none when the clock did)."""

    at: datetime
    state: ContractState
    edits: tuple[Edit, ...]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.at, self.state))


def known(edits: Iterable[Edit], known_at: datetime | None) -> list[Edit]:
    """The edits recorded by `known_at` (all when absent)."""
    return [edit for edit in edits if known_at is None or edit.recorded_at <= known_at]


def resolve(edits: Iterable[Edit]) -> list[Edit]:
    """What the log says after its corrections, in the order in which it takes effect."""
    edits = list(edits)
    latest = {
        edit.payload.target_seq: edit.payload
        for edit in sorted(edits, key=lambda edit: edit.seq)
        if edit.operation == "correct"
    }
    counting = (
        corrected(edit, latest[edit.seq]) if edit.seq in latest else edit
        for edit in edits
        if edit.operation != "correct"
    )
    return sorted((edit for edit in counting if edit), key=lambda edit: (edit.effective_at, edit.seq))


def corrected(edit: Edit, correction: Any) -> Edit | None:
    """An edit as a correction makes it; None when it does not count any more."""
    if correction.mode == "void":
        return None
    if correction.mode == "reinstate":
        return edit
    new = correction.replacement
    return replace(
        edit,
        payload=load(edit.operation, new.payload, new.op_version),
        effective_at=new.effective_at or edit.effective_at,
    )


def fold(edits: Iterable[Edit], *, valid_at: datetime, known_at: datetime | None = None) -> ContractState:
    """The state at `valid_at` as known at `known_at` (now when absent); status "none" before create."""
    log = known(edits, known_at)
    state: ContractState = NOTHING
    since: datetime | None = None
    for edit, _, after in _play(edit for edit in resolve(log) if edit.effective_at <= valid_at):
        state, since = after, edit.effective_at
    for _, after in _ticks(state, valid_at, since=since):
        state = after
    return evolve(state, version=len(log))


def timeline(edits: Iterable[Edit], known_at: datetime | None = None) -> list[Instant]:
    """Every instant at which the state changes, each once and in order, with the state from there on."""
    log = known(edits, known_at)
    found: list[Instant] = []
    state = NOTHING
    since: datetime | None = None

    def note(at: datetime, *edits: Edit) -> None:
        same = found.pop().edits if found and found[-1].at == at else ()
        found.append(Instant(at, state, (*same, *edits)))

    def clock(until: datetime | None, inclusive: bool = True) -> None:
        nonlocal state
        for at, after in _ticks(state, until, since=since, inclusive=inclusive):
            state = after
            note(at)

    for edit in resolve(log):
        clock(edit.effective_at, not REGISTRY[edit.operation].before_clock)
        since = edit.effective_at
        state = evolve(apply(state, edit), version=len(log))
        note(since, edit)
    clock(None)
    return found


def at_instant(instants: Iterable[Instant], valid_at: datetime) -> ContractState:
    """The state at `valid_at` in a timeline that was made already."""
    state = NOTHING
    for instant in instants:
        if instant.at > valid_at:
            break
        state = instant.state
    return state


def walk(
    edits: Iterable[Edit], known_at: datetime | None = None, *, as_corrected: bool = True
) -> Iterator[tuple[Edit, ContractState, ContractState]]:
    """Each edit that counts in the order in which they take effect, with the state before and after it.

    Without `as_corrected`, as if nothing had ever been corrected.
    """
    log = known(edits, known_at)
    yield from _play(resolve(log if as_corrected else (edit for edit in log if edit.operation != "correct")))


def _play(edits: Iterable[Edit]) -> Iterator[tuple[Edit, ContractState, ContractState]]:
    state: ContractState = NOTHING
    since: datetime | None = None
    for edit in edits:
        before = _before(state, edit, since)
        state, since = apply(before, edit), edit.effective_at
        yield edit, before, state


def apply(state: ContractState, edit: Edit) -> ContractState:
    """One step of the fold; never refuses."""
    return REGISTRY[edit.operation].apply(state, edit.payload, edit.effective_at)


def check(state: ContractState, edit: Edit) -> None:
    """Raise unless `edit` may take effect on `state`: the refusals that recording asks for."""
    operation = REGISTRY[edit.operation]
    check_allowed(operation, state, edit.payload, edit.effective_at)
    operation.check(state, edit.payload, edit.effective_at)


def broken(edits: Iterable[Edit], since: datetime) -> dict[int, CommerceError]:
    """By seq: the edits from `since` on that the states before them do not admit."""
    found = {}
    for edit, before, _ in walk(edits):
        if edit.effective_at >= since:
            try:
                check(before, edit)
            except CommerceError as error:
                found[edit.seq] = error
    return found


def moot(edits: Iterable[Edit], known_at: datetime | None = None) -> list[int]:
    """Edits that count and change nothing: a later correction has taken away what they rested on."""
    return [edit.seq for edit, before, after in walk(edits, known_at) if before == after]


def found_by(edits: Iterable[Edit], new: Edit) -> ContractState:
    """The state that an edit finds at its place: after all that take effect earlier, or were recorded so."""
    state: ContractState = NOTHING
    since: datetime | None = None
    place = (new.effective_at, new.seq)
    for edit, _, after in _play(edit for edit in resolve(edits) if (edit.effective_at, edit.seq) < place):
        state, since = after, edit.effective_at
    return _before(state, new, since)


def _before(state: ContractState, edit: Edit, since: datetime | None) -> ContractState:
    """The state that an edit finds: the clock has come before it, but for a renewal."""
    inclusive = not REGISTRY[edit.operation].before_clock
    for _, after in _ticks(state, edit.effective_at, since=since, inclusive=inclusive):
        state = after
    return state


def _ticks(
    state: ContractState, until: datetime | None, *, since: datetime | None = None, inclusive: bool = True
) -> Iterator[tuple[datetime, ContractState]]:
    """What the clock alone makes of a state up to `until` (without end when None), one instant at a time.

    Nothing lies before `since`: a term whose renewal is called off after its end ends there and then.
    """
    while (due := _next_tick(state)) is not None:
        at = max(due, since) if since else due
        if until is not None and (at > until or (at == until and not inclusive)):
            return
        state = _tick(state, at)
        yield at, state


def _next_tick(state: ContractState) -> datetime | None:
    ends = [line.forfeited.until for line in state.lines.values() if line.forfeited]
    if state.status in RUNNING:
        ends += [line.end_at for line in state.lines.values() if line.end_at and line.live]
        ends += [line.billed_until for line in state.lines.values() if line.billed_until]
        ends += [discount.ends_at for discount in state.discounts.values() if discount.ends_at]
        ends += [commitment.ends_at for commitment in state.commitments.values() if commitment.ends_at]
        if state.trial and state.trial.until:
            ends.append(state.trial.until)
        if state.lapses_at:
            ends.append(state.lapses_at)
    return min(ends, default=None)


def _tick(state: ContractState, at: datetime) -> ContractState:
    def over(end: datetime | None) -> bool:
        return end is not None and end <= at

    changes: dict[str, Any] = {}

    def paid(line: LineState) -> bool:
        return line.forfeited is not None and over(line.forfeited.until)

    if any(paid(line) or (over(line.end_at) and line.live) for line in state.lines.values()):
        changes["lines"] = {
            id_: evolve(
                line,
                live=line.live and not over(line.end_at),
                forfeited=None if paid(line) else line.forfeited,
            )
            for id_, line in state.lines.items()
        }
    if state.status not in RUNNING:
        return evolve(state, **changes)
    if any(over(line.billed_until) for line in state.lines.values()):
        changes["lines"] = {
            id_: evolve(line, billed_quantity=None, billed_until=None) if over(line.billed_until) else line
            for id_, line in changes.get("lines", state.lines).items()
        }
    for name in ("discounts", "commitments"):
        held = getattr(state, name)
        if any(over(item.ends_at) for item in held.values()):
            changes[name] = {id_: item for id_, item in held.items() if not over(item.ends_at)}
    if state.trial and over(state.trial.until):
        changes["trial"] = None
        if state.trial.on_end == "expire":
            ending = Ending(at, cause="trial")
            return evolve(state, **changes, status="terminated", end_at=at, holds=(), ending=ending)
    if over(state.lapses_at):
        if state.end_policy == "expire":
            return evolve(state, **changes, status="expired", holds=())
        changes |= {"term_no": state.term_no + 1, "term_start_at": at, "term_months": None, "end_at": None}
    return evolve(state, **changes)
