"""What a contract's log implies for later instants: notices, renewals, ends of holds, timeouts.

Only what has to be recorded or told is a command. A future edit, the end of a trial, of a discount or
of a line follow from the log by themselves: the fold's clock knows them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from contracts.rules.fold import Instant
from contracts.rules.operations.base import RUNNING
from contracts.rules.schema import instant
from contracts.rules.state import ContractState

Kind = Literal["notice", "opt_out", "resume", "renewal", "activation_timeout"]
# Of one instant, in this order: who is resumed at the end of the term is renewed as an active contract.
ORDER: tuple[Kind, ...] = ("notice", "opt_out", "resume", "renewal", "activation_timeout")
WAITING = frozenset({"pending_signature", "pending_activation"})


@dataclass(frozen=True)
class Command:
    """To be done as of `due_at`: `operation` recorded with `payload` under `key`, or an event when empty."""

    key: str
    kind: Kind
    due_at: datetime
    operation: str = ""
    payload: dict[str, Any] = field(default_factory=dict)


def implied(
    contract_id: UUID,
    steps: Sequence[Instant],
    *,
    activation_timeout: timedelta,
    late_notices: Mapping[int, datetime],
    renewed: Mapping[int, datetime],
) -> list[Command]:
    """The commands that a whole timeline implies, past ones too, in the order in which they are done.

    `late_notices` is when the notice of a term was given that could not be given in time, by term; `renewed`,
    where the term before it ended when its renewal was recorded. If that still comes there, somebody has
    voided it, and it lapses; if it comes later, the term was extended, and is renewed at its new end.
    """
    found = [
        *_renewal(contract_id, steps, late_notices, renewed),
        *_resumptions(contract_id, steps),
        *_timeout(contract_id, steps, activation_timeout),
    ]
    return sorted(found, key=lambda command: (command.due_at, ORDER.index(command.kind), command.key))


def since_renewal(steps: Sequence[Instant]) -> Sequence[Instant]:
    """The part of a timeline that the last renewal begins, all of it when there was none."""
    for place in range(len(steps) - 1, 0, -1):
        step = steps[place]
        if step.state.term_start_at == step.at and any(edit.operation == "renew" for edit in step.edits):
            return steps[place:]
    return steps


def _renewal(
    contract_id: UUID, steps: Sequence[Instant], late: Mapping[int, datetime], renewed: Mapping[int, datetime]
) -> list[Command]:
    """Notice, cutoff and renewal of the next term, under its number: as the log has it when the term ends.

    What takes effect after the renewal, an end of the contract too, does not call the renewal off.
    """
    steps = since_renewal(steps)
    ends: list[datetime | None] = [*(step.at for step in steps[1:]), None]
    for step, until in zip(steps, ends, strict=True):
        renews_at = _renews_at(step.state, late)
        if renews_at and (until is None or renews_at < until):
            number = step.state.term_no + 1
            if number in renewed and renews_at <= renewed[number]:
                lapse = {"mode": "lapse", "term_no": number, "trigger": "auto"}
                return [Command(f"lapse:{contract_id}:{number}", "renewal", renews_at, "renew", lapse)]
            return _next_term(contract_id, step.state, renews_at)
    return []


def _renews_at(state: ContractState, late: Mapping[int, datetime]) -> datetime | None:
    """When a state is renewed if it lasts. Where a hold that extends the term ends it, is known only then."""
    held = any(hold.extends_term for hold in state.holds)
    if state.status not in RUNNING or not state.renews or state.end_at is None or held:
        return None
    given = late.get(state.term_no + 1)
    days = timedelta(days=state.terms.renewal.notice_days)
    return max(state.end_at, given + days) if given else state.end_at


def _next_term(contract_id: UUID, state: ContractState, renews_at: datetime) -> list[Command]:
    number, terms = state.term_no + 1, state.terms.renewal
    end = state.end_at or renews_at
    cutoff = renews_at if renews_at > end else end - timedelta(days=terms.opt_out_days)
    told = {"term_no": number, "opt_out_until": instant(cutoff)}
    renewal = {"mode": "new_term", "term_no": number, "trigger": "auto"}
    commands = [
        Command(f"optout:{contract_id}:{number}", "opt_out", cutoff, payload=told),
        Command(f"renew:{contract_id}:{number}", "renewal", renews_at, "renew", renewal),
    ]
    if terms.notice_days:
        begun = state.term_start_at or state.start_at or end
        due = max(end - timedelta(days=terms.notice_days), begun)
        commands.append(Command(f"notice:{contract_id}:{number}", "notice", due, payload=told))
    return commands


def _resumptions(contract_id: UUID, steps: Sequence[Instant]) -> list[Command]:
    """Of the holds that the contract is left with, those that end before it does: its end lifts them all."""
    over: datetime | None = None
    for step in reversed(steps):
        if step.state.status in RUNNING:
            break
        over = step.at
    return [
        Command(
            f"resume:{contract_id}:{hold.reason}:{instant(hold.since)}",
            "resume",
            hold.resume_at,
            "resume",
            {"reason": hold.reason},
        )
        for hold in step.state.holds
        if hold.resume_at is not None and (over is None or hold.resume_at < over)
    ]


def _timeout(contract_id: UUID, steps: Sequence[Instant], wait: timedelta) -> list[Command]:
    """A contract that was sent out and never goes live is cancelled, its start and a while after it."""
    if steps[-1].state.status not in WAITING:
        return []
    since = steps[-1].at
    for step in reversed(steps):
        if step.state.status not in WAITING:
            break
        since = step.at
    due = max(since, steps[-1].state.start_at or since) + wait
    key = f"activation:{contract_id}:{instant(since)}"
    return [Command(key, "activation_timeout", due, "terminate", {"cause": "mutual"})]
