"""The schedule of contracts: planned with every edit, carried out as of its own instants, exactly once.

A command and the edit that it records commit together, under one key. However late it runs, it is done
as of `due_at`: commands and what the clock does to a contract come in the order of their instants.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from celery.exceptions import SoftTimeLimitExceeded
from django.db import OperationalError, transaction
from django.db.models import Q
from django.utils import timezone

from commerce.actor import Actor
from commerce.console.services import clear_reviews, clear_reviews_of, open_review
from commerce.crash import crash_point
from commerce.errors import Busy, CommerceError, StateConflict
from commerce.outbox import append
from commerce.states import transition, transition_all
from contracts.models import Contract, ScheduledCommand
from contracts.rules import fold
from contracts.rules.fold import Edit, Instant
from contracts.rules.schedule import ORDER, WAITING, Command, implied, since_renewal
from contracts.rules.schema import dump, instant
from contracts.rules.state import ContractState
from contracts.services import edits, projection, renewals
from contracts.services.renewals import SCHEDULER
from contracts.services.terms import platform_terms

log = logging.getLogger(__name__)

SUBJECT = "contracts.scheduledcommand"
PER_CONTRACT = 12
BATCH = 100
MAX_ATTEMPTS = 12
LATE = timedelta(hours=1)

Kind, Status = ScheduledCommand.Kind, ScheduledCommand.Status

# What these refusals say is that there is nothing left to do.
SETTLED = frozenset(
    {"no_effect", "invalid_state", "not_suspended", "already_renewed", "opted_out", "already_terminated"}
)
# A row in these has had its turn: what comes later under its key gets a row of its own.
SETTLED_ROWS = (Status.DONE, Status.SKIPPED, Status.BLOCKED)
REASONS = {
    Kind.RENEWAL: "Renewed at the end of the term, as agreed.",
    Kind.RESUME: "The suspension was to end at this instant.",
    Kind.ACTIVATION_TIMEOUT: "Not activated in time.",
}
# Not repeated when somebody voids what they did: a person has just decided otherwise.
UNDONE_BY_HAND = frozenset({Kind.RESUME, Kind.ACTIVATION_TIMEOUT})
VOIDED = "The renewal was voided; the term ends as the contract says."

# Every contract with something due whose first due command does not wait for another attempt.
_CLAIM = """
SELECT c.* FROM (
  SELECT contract_id, min(due_at) AS first FROM contracts_scheduledcommand
  WHERE status = 'planned' AND due_at <= %(at)s AND contract_id <> ALL (%(tired)s)
  GROUP BY contract_id HAVING COALESCE(max(retry_at), '-infinity') <= %(now)s
) due JOIN contracts_contract c ON c.id = due.contract_id
ORDER BY due.first, c.id LIMIT %(limit)s FOR NO KEY UPDATE OF c SKIP LOCKED
"""

_in_hand: ContextVar[str] = ContextVar("key of the command that is being carried out", default="")


def plan(contract: Contract, log: Sequence[Edit], at: datetime) -> list[Command]:
    """What a contract's whole `log` implies as it stands, in the order in which it is to be done."""
    steps = fold.timeline(log)
    return _implied(contract, steps, at, _rows(contract, steps))


def differing(contract: Contract, log: Sequence[Edit], at: datetime) -> list[str]:
    """Keys that the log implies and nobody has planned, or that are planned otherwise than it implies."""
    wanted = {command.key: command for command in plan(contract, log, at)}
    rows = list(contract.schedule.filter(Q(key__in=wanted) | Q(status=Status.PLANNED)))
    found = wanted.keys() - {row.key for row in rows if row.status != Status.CANCELLED}
    for row in rows:
        command = wanted.get(row.key)
        moved = command is None or command.due_at != row.due_at
        if row.status == Status.PLANNED and moved and row.kind != Kind.ACTIVATION_TIMEOUT:
            found.add(row.key)  # a timeout is as long as the platform's terms were when it was planned
    return sorted(found)


@transaction.atomic
def replan_contract(*, contract_id: UUID, actor: Actor, at: datetime) -> int:
    """`replan` a contract by its log as it stands; how many commands were added, moved or withdrawn."""
    contract = projection.lock(contract_id)
    return replan(contract, _steps(contract_id), actor=actor, at=at)


def replan(contract: Contract, steps: Sequence[Instant], *, actor: Actor, at: datetime) -> int:
    """Bring the schedule of a locked contract in line with a timeline, which may be about to be written.

    A hook calls it in the transaction of every edit. Commands that are not implied any more are cancelled,
    others moved or added; what is done, skipped or in hand stays as it is, and what is blocked waits for
    a person until its occasion has passed. What comes again later than it was done, such as the renewal of
    a term that was extended, is a command of its own. Returns how many rows it touched.
    """
    rows = _rows(contract, steps)
    touched = 0
    settled: list[UUID] = []
    wanted = {command.key: command for command in _implied(contract, steps, at, rows)}
    for row in rows:
        command = wanted.pop(row.key, None)
        if row.key == _in_hand.get() or row.status in (Status.DONE, Status.SKIPPED):
            if row.status == Status.DONE and row.kind in UNDONE_BY_HAND:
                if command is None:
                    settled.append(row.pk)
                else:
                    _ask_what_now(row, actor, at)
            continue
        if command is None:
            if row.status == Status.PLANNED or (
                row.status == Status.BLOCKED and not _still_open(row, steps[-1].state)
            ):
                withdraw(row, actor=actor, at=at)
                touched += 1
        elif row.status != Status.BLOCKED:
            touched += _keep(row, command, actor, at)
    if settled:
        reason = "The contract waits for it no more."
        clear_reviews_of(subject_type=SUBJECT, subject_ids=settled, actor=actor, at=at, reason=reason)
    return touched + len(
        ScheduledCommand.objects.bulk_create(
            [
                ScheduledCommand(contract=contract, planned_at=at, **vars(command))
                for command in wanted.values()
            ],
            ignore_conflicts=True,  # done or skipped already
        )
    )


def run_due(*, at: datetime, limit: int = 500) -> int:
    """Carry out what is due at `at`, oldest first; returns how many commands. Safe to run beside itself.

    At most 12 of one contract in a pass. A command that a rule refuses is blocked and a person asked; one
    that fails for another reason is tried again later, and holds up what comes after it in its contract.
    """
    ran: Counter[UUID] = Counter()
    while (room := limit - ran.total()) > 0:
        tired = [contract_id for contract_id, count in ran.items() if count >= PER_CONTRACT]
        claimed, found = _run_some(at, min(BATCH, room), tired)
        crash_point("contracts.after_schedule_commit")
        if not claimed:
            break
        ran.update(found)
    if ran:
        log.info("schedule", extra={"commands": ran.total(), "contracts": len(ran)})
    return ran.total()


def skip_command(*, command: ScheduledCommand, actor: Actor, at: datetime, reason: str) -> ScheduledCommand:
    """Leave a planned or blocked command undone. StateConflict for a renewal: that is the log's to say."""
    if why := why_not_skip(command):
        raise StateConflict(why)
    with transaction.atomic():
        row = transition(command, "skip", actor=actor, at=at, reason=reason, finished_at=at)
        _clear(row, actor, at, reason)
        return row


def retry_command(*, command: ScheduledCommand, actor: Actor, at: datetime, reason: str) -> ScheduledCommand:
    """Let the next tick do what was blocked, still as of its own instant."""
    if why := why_not_retry(command):
        raise StateConflict(why)
    with transaction.atomic():
        row = transition(command, "try_again", actor=actor, at=at, reason=reason, planned_at=at)
        _clear(row, actor, at, reason)
        return row


def why_not_skip(command: ScheduledCommand) -> str:
    """Empty when a person may skip the command."""
    if command.status not in (Status.PLANNED, Status.BLOCKED):
        return f"It is {command.status}."
    if command.kind == Kind.RENEWAL and command.status == Status.PLANNED:
        return "Record in the contract's log that it does not renew."
    return ""


def why_not_retry(command: ScheduledCommand) -> str:
    """Empty when a blocked command may be tried again."""
    if command.status != Status.BLOCKED:
        return f"It is {command.status}."
    if command.result_seq is not None:
        return f"Edit #{command.result_seq} has settled it; renew the contract by hand."
    return ""


def withdraw(command: ScheduledCommand, *, actor: Actor, at: datetime, reason: str = "") -> None:
    """Cancel a command that nothing implies any more, and the question that was asked about it."""
    transition(command, "cancel", actor=actor, at=at, reason=reason, finished_at=at)
    if command.status == Status.BLOCKED:
        _clear(command, actor, at, reason)


def _keep(row: ScheduledCommand, command: Command, actor: Actor, at: datetime) -> bool:
    """A planned or cancelled row as the command says it; whether anything was different."""
    again = row.status == Status.CANCELLED
    if again:
        transition(row, "plan_again", actor=actor, at=at, planned_at=at)
    moved = (row.due_at, row.payload) != (command.due_at, command.payload)
    if moved:
        ScheduledCommand.objects.filter(pk=row.pk).update(
            due_at=command.due_at, payload=command.payload, planned_at=at
        )
    return again or moved


def _ask_what_now(row: ScheduledCommand, actor: Actor, at: datetime) -> None:
    """What was done is asked for once more: its edit was voided, and nothing else would end the waiting."""
    open_review(
        kind="scheduled_command_undone",
        subject_type=SUBJECT,
        subject_id=row.pk,
        title=f"{row} was undone",
        detail=f"Edit #{row.result_seq} counts no more and is not repeated; say what is to happen instead.",
        evidence={"contract_id": str(row.contract_id), "due_at": instant(row.due_at), "edit": row.result_seq},
        actor=actor,
        at=at,
    )


def _rows(contract: Contract, steps: Sequence[Instant]) -> list[ScheduledCommand]:
    """What is open, and everything since the last renewal: what was done in it is not planned again."""
    open_ones = Q(status__in=(Status.PLANNED, Status.BLOCKED, Status.CANCELLED))
    return list(contract.schedule.filter(open_ones | Q(due_at__gte=since_renewal(steps)[0].at)))


def _implied(
    contract: Contract, steps: Sequence[Instant], at: datetime, rows: Sequence[ScheduledCommand]
) -> list[Command]:
    waits = steps[-1].state.status in WAITING
    days = platform_terms(at).limits.activation_timeout_days if waits else 0
    late = {
        row.payload["term_no"]: row.finished_at
        for row in rows
        if (row.kind, row.status) == (Kind.NOTICE, Status.DONE)
        and row.finished_at
        and row.finished_at > row.due_at + LATE
    }
    renewed = {
        row.payload["term_no"]: row.due_at
        for row in sorted(rows, key=lambda row: row.due_at)
        if (row.kind, row.status) == (Kind.RENEWAL, Status.DONE)
    }
    wait = timedelta(days=days)
    found = implied(contract.pk, steps, activation_timeout=wait, late_notices=late, renewed=renewed)
    settled = {row.key: row.due_at for row in rows if row.status in SETTLED_ROWS}
    return [
        replace(command, key=f"{command.key}:{instant(command.due_at)}")
        if settled.get(command.key, command.due_at) < command.due_at
        else command
        for command in found
    ]


def _still_open(row: ScheduledCommand, state: ContractState) -> bool:
    """Whether a blocked renewal is for a person to decide: nobody has renewed or extended the term."""
    if row.kind != Kind.RENEWAL or state.term_no >= row.payload["term_no"]:
        return False
    return state.end_at is None or state.end_at <= row.due_at


def _run_some(at: datetime, limit: int, tired: Sequence[UUID]) -> tuple[int, list[UUID]]:
    """The first due command of each of some contracts; how many contracts, and the ids of those it ran."""
    with transaction.atomic():
        claimed = Contract.objects.raw(
            _CLAIM, {"at": at, "now": timezone.now(), "tired": list(tired), "limit": limit}
        )
        contracts = {row.pk: row for row in claimed}
        commands = _first_of_each(contracts, at)
        _carry_out(commands, at)
        crash_point("contracts.before_schedule_commit")
    return len(contracts), [command.contract_id for command in commands]


def _overtake(contract: Contract, at: datetime) -> Contract:
    """Somebody is about to edit a locked contract: what is due comes first, as if the tick had been here.

    Busy when that does not succeed, or is more than a pass does of one contract.
    """
    if _in_hand.get():
        return contract
    tried: set[UUID] = set()
    while due := _first_of_each({contract.pk: contract}, at):
        if due[0].pk in tried or len(tried) == PER_CONTRACT:
            raise Busy(
                f"{due[0]} was due at {due[0].due_at:%Y-%m-%d %H:%M} UTC and comes first; try again.",
                code="schedule_behind",
            )
        _carry_out(due, at)
        tried.add(due[0].pk)
        contract = projection.lock(contract.pk)
    return contract


def _carry_out(commands: Sequence[ScheduledCommand], at: datetime) -> None:
    """Run commands of different contracts, which are locked, and finish those that succeed."""
    done = {command.pk: seq for command in commands if (seq := _run(command, at)) is not None}
    transition_all(
        [command for command in commands if command.pk in done],
        "finish",
        actor=SCHEDULER,
        at=at,
        arguments={pk: {"finished_at": at, "result_seq": seq or None} for pk, seq in done.items()},
    )
    for command in commands:
        if command.pk in done and command.kind == Kind.NOTICE and at > command.due_at + LATE:
            replan(command.contract, _steps(command.contract_id), actor=SCHEDULER, at=at)


def _first_of_each(contracts: dict[UUID, Contract], at: datetime) -> list[ScheduledCommand]:
    """Read after the contracts were locked, so that what another executor has done is not done again."""
    due = ScheduledCommand.objects.due(at).filter(contract__in=contracts)
    first: dict[UUID, ScheduledCommand] = {}
    for row in sorted(due, key=lambda row: (row.due_at, ORDER.index(row.kind), row.key)):
        first.setdefault(row.contract_id, row)
    for row in first.values():
        row.contract = contracts[row.contract_id]
    return list(first.values())


def _run(command: ScheduledCommand, at: datetime) -> int | None:
    """The number of the edit that it recorded, 0 for a command that only tells; None when it is not done."""
    try:
        with transaction.atomic():
            if command.operation:
                return _record(command, *_said(command))
            _tell(command, at)
            return 0
    except (SoftTimeLimitExceeded, OperationalError):  # the whole batch, at another time
        raise
    except CommerceError as error:
        if error.retryable:
            _note_failure(command, error, at)
        elif error.code in SETTLED:
            withdraw(command, actor=SCHEDULER, at=at, reason=error.detail)
        else:
            _block(command, error, at)
    except Exception as error:  # the tick's edge: one broken contract must not hold up the others
        log.exception("a scheduled command failed", extra={"command": command.key})
        _note_failure(command, error, at)
    return None


def _said(command: ScheduledCommand) -> tuple[dict[str, Any], str]:
    """The payload and the reason of the command's edit."""
    payload = command.payload
    if command.kind == Kind.RENEWAL:
        if payload["mode"] == "lapse":
            return payload, VOIDED
        payload = renewals.at_list_prices(command.contract, payload)
    return payload, REASONS[Kind(command.kind)]


def _tell(command: ScheduledCommand, at: datetime) -> None:
    """Say what comes, after what the clock did before. A notice is given when it is sent, all else as of its
    instant; one that is late postpones the renewal.
    """
    contract = command.contract
    if contract.next_due_at and contract.next_due_at <= command.due_at:
        contract, _ = projection.catch_up(contract, projection.load_edits(contract.pk), at=command.due_at)
    state, until = contract.current, command.payload["opt_out_until"]
    given = command.kind == Kind.NOTICE
    if given and at > command.due_at + LATE:
        days = timedelta(days=state.terms.renewal.notice_days)
        until = instant(max(state.end_at or at, at + days))
    append(
        "contract",
        contract.pk,
        "contract.renewal_due" if given else "contract.opt_out_closed",
        {
            "contract_id": str(contract.pk),
            "number": contract.number,
            "buyer_id": str(contract.buyer_id),
            "version": contract.version,
            "term_no": command.payload["term_no"],
            "term_ends_at": instant(state.end_at) if state.end_at else None,
            "opt_out_until": until,
            "uplift": dump(state.terms.renewal.uplift),
            "edits": [],
        },
        at=at if given else command.due_at,
        actor=SCHEDULER,
    )


def _record(command: ScheduledCommand, payload: dict[str, Any], reason: str) -> int:
    """Record the command's edit as of its own instant; the number of the edit."""
    with _holding(command.key):
        result = edits.record_edit(
            contract_id=command.contract_id,
            operation=command.operation,
            payload=payload,
            actor=SCHEDULER,
            at=command.due_at,
            idempotency_key=command.key,
            expected_version=None,
            reason=reason,
        )
    return result.edit.seq


def _block(command: ScheduledCommand, error: CommerceError, at: datetime) -> None:
    """A rule has refused it. A renewal is recorded as not made, so that the contract's end policy holds."""
    seq = None
    detail = str(error)
    if command.kind == Kind.RENEWAL:
        try:
            with transaction.atomic():
                seq = _record(command, {**command.payload, "mode": "lapse"}, f"Not renewed: {detail}"[:500])
        except CommerceError as second:
            detail = f"{detail} And it could not be recorded that it lapses: {second}"
    row = transition(
        command, "block", actor=SCHEDULER, at=at, reason=detail, finished_at=at, error=detail, result_seq=seq
    )
    open_review(
        kind="renewal_blocked" if command.kind == Kind.RENEWAL else "scheduled_command_blocked",
        subject_type=SUBJECT,
        subject_id=row.pk,
        title=f"{row} was refused",
        detail=detail,
        evidence={"contract_id": str(row.contract_id), "code": error.code, "due_at": instant(row.due_at)},
        actor=SCHEDULER,
        at=at,
    )


def _note_failure(command: ScheduledCommand, error: Exception, at: datetime) -> None:
    """Try again after 2, 4, 8 … seconds, at most an hour; after the twelfth time a person is asked."""
    command.attempts += 1
    command.last_error = str(error)[:500] or type(error).__name__
    command.retry_at = timezone.now() + timedelta(seconds=min(2**command.attempts, 3600))
    command.save(update_fields=["attempts", "last_error", "retry_at"])
    if command.attempts >= MAX_ATTEMPTS:
        detail = f"It failed {command.attempts} times: {command.last_error}"
        _block(command, CommerceError(detail, code="failed_repeatedly"), at)


def _clear(command: ScheduledCommand, actor: Actor, at: datetime, reason: str) -> None:
    clear_reviews(subject_type=SUBJECT, subject_id=command.pk, actor=actor, at=at, reason=reason)


@contextmanager
def _holding(key: str) -> Iterator[None]:
    """While this command is carried out, replanning leaves it alone."""
    token = _in_hand.set(key)
    try:
        yield
    finally:
        _in_hand.reset(token)


def _steps(contract_id: UUID) -> list[Instant]:
    return fold.timeline(projection.load_edits(contract_id))


def _follow(*, contract: Contract, will: Sequence[Instant], actor: Actor, at: datetime, **_: Any) -> None:
    replan(contract, will, actor=actor, at=at)


edits.register_edit_hook(_follow)
edits.register_overtake(_overtake)
