"""What comes next for a contract: scheduled commands, edits that take effect later, and the clock."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from contracts.models import Contract, ScheduledCommand
from contracts.rules import fold
from contracts.rules.fold import Instant
from contracts.rules.operations import REGISTRY
from contracts.rules.state import ContractState
from contracts.services import projection


@dataclass(frozen=True)
class Upcoming:
    """`kind` is a command's, "edit" for what the log holds already (`edits` are its numbers), or "clock"."""

    at: datetime
    kind: str
    title: str
    command: ScheduledCommand | None = None
    edits: tuple[int, ...] = ()


def upcoming(contract: Contract, *, at: datetime) -> list[Upcoming]:
    """In the order of their instants; blocked and overdue commands are there, whenever they were due."""
    open_ones = (ScheduledCommand.Status.PLANNED, ScheduledCommand.Status.BLOCKED)
    found = [
        Upcoming(row.due_at, row.kind, row.get_kind_display(), row)
        for row in contract.schedule.filter(status__in=open_ones)
    ]
    steps = fold.timeline(projection.load_edits(contract.pk))
    return sorted([*found, *_changes(steps, at)], key=lambda item: (item.at, item.kind))


def _changes(steps: list[Instant], at: datetime) -> Iterator[Upcoming]:
    first = Instant(at, fold.NOTHING, ())
    for before, step in pairwise([first, *steps]):
        if step.at <= at:
            continue
        if step.edits:
            titles = ", ".join(REGISTRY[edit.operation].label for edit in step.edits)
            yield Upcoming(step.at, "edit", titles, edits=tuple(edit.seq for edit in step.edits))
        else:
            yield Upcoming(step.at, "clock", _said(before.state, step.state))


def _said(before: ContractState, after: ContractState) -> str:
    """What the clock does between two states, in words."""
    words = []
    if before.trial and not after.trial:
        words.append("The trial ends")
    if before.discounts.keys() - after.discounts.keys():
        words.append("A discount ends")
    if before.commitments.keys() - after.commitments.keys():
        words.append("A commitment ends")
    if len(after.live_lines) < len(before.live_lines):
        words.append("A line ends")
    if before.status != after.status:
        words.append(f"The contract is {after.status}")
    elif before.end_at and after.end_at is None:
        words.append("The term ends, and the contract goes on without one")
    return ", ".join(words) or "What was paid for ends"
