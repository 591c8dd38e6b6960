"""Whether an operation may be recorded, and what it then does: everything short of writing it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from commerce.actor import Actor
from commerce.errors import (
    CommerceError,
    FieldError,
    InvalidInput,
    PermissionDenied,
    StateConflict,
    VersionConflict,
)
from commerce.parties.models import Organization
from contracts.models import Contract
from contracts.rules import fold, schema
from contracts.rules.fold import Edit
from contracts.rules.operations import Operation, named
from contracts.rules.operations.correct import (
    UNSIGNED,
    Correct,
    Replacement,
    check_correction,
    check_replacement,
)
from contracts.rules.operations.terminate import Terminate
from contracts.rules.rises import steep_rise
from contracts.rules.state import ContractState, evolve
from contracts.services.catalog import offers_of, resolve
from contracts.services.terms import platform_terms

FINANCE = "contracts.backdate_contract"

Json = dict[str, Any] | list[Any]


@dataclass(frozen=True)
class Planned:
    """An edit that may be recorded: the state around it at its instant, and until when nothing else comes.

    `approval` says why two people must agree, if they must.
    """

    edit: Edit
    event: str
    before: ContractState
    after: ContractState
    until: datetime | None = None
    approval: str = ""


@contextmanager
def pointing(prefix: str) -> Iterator[None]:
    """Put `prefix` before the pointers of a CommerceError: the rules know only the payload.

    A refusal of the whole operation points at the operation.
    """
    try:
        yield
    except CommerceError as error:
        whole = [FieldError("", error.code, error.detail)] if prefix else []
        error.errors = [replace(item, pointer=prefix + item.pointer) for item in error.errors or whole]
        raise


@contextmanager
def _in_payload() -> Iterator[None]:
    try:
        yield
    except CommerceError as error:
        error.errors = [
            item if item.pointer == "/effective_at" else replace(item, pointer=f"/payload{item.pointer}")
            for item in error.errors
        ]
        raise


def plan(
    log: Sequence[Edit],
    operation: str,
    payload: Json,
    *,
    given: datetime | None,
    reason: str,
    actor: Actor,
    at: datetime,
    current: ContractState,
    agreed: bool = False,
) -> Planned:
    """What recording this on `log` would be. Raises what `record_edit` raises, but for what lies later.

    `agreed`: two people have agreed to `given`, wherever the payload's own instant lies by now.
    """
    op = named(operation)
    if operation == "create":
        raise InvalidInput("A contract is created once.", pointer="/operation", code="unknown_operation")
    parsed = schema.parse(op.payload, payload, pointer="/payload")
    if isinstance(parsed, Correct):
        return _plan_correction(
            log, op, parsed, given=given, reason=reason, actor=actor, at=at, agreed=agreed
        )
    with _in_payload():
        parsed = resolve(parsed, at=at)
    new = Edit(
        len(log) + 1,
        operation,
        parsed,
        given if agreed and given else _when(op, parsed, current, given, at),
        at,
        reason,
        op_version=op.op_version,
        agreed=agreed or actor.type == "system",
    )
    check_dating(op, new, at, actor, earliest=min(edit.effective_at for edit in log), agreed=agreed)
    before = fold.found_by(log, new)
    check_party(op, parsed, before, actor)
    with _in_payload():
        fold.check(before, new)
        op.check_recorded(before, parsed, at)
        after = fold.apply(before, new)
    check_effect(before, after)
    return Planned(
        new,
        op.event(parsed, before),
        before,
        after,
        until=_next_edit(log, new.effective_at),
        approval=op.needs_approval(before, parsed, new.effective_at)
        or _changes_what_was_signed(log, before)
        or steep_rise(log, new, before, after, platform_terms(at).limits.price_rise_approval),
    )


def _changes_what_was_signed(log: Sequence[Edit], before: ContractState) -> str:
    """A draft is nobody's yet; what its parties have signed since is."""
    if before.status not in UNSIGNED or not _ever_signed(log):
        return ""
    return "The parties have signed since then."


def _ever_signed(log: Sequence[Edit]) -> bool:
    return any(step.state.status not in UNSIGNED for step in fold.timeline(log))


def _plan_correction(
    log: Sequence[Edit],
    op: Operation[Any],
    parsed: Correct,
    *,
    given: datetime | None,
    reason: str,
    actor: Actor,
    at: datetime,
    agreed: bool,
) -> Planned:
    """A correction takes effect where the state first changes by it: nobody chooses that instant."""
    if given is not None:
        raise InvalidInput(
            "A correction takes effect where it changes something; leave effective_at out.",
            pointer="/effective_at",
            code="effective_at_fixed",
        )
    with _in_payload():
        check_correction(parsed, [(edit.seq, edit.operation) for edit in log])
    target = next(edit for edit in log if edit.seq == parsed.target_seq)
    earlier = [
        edit.payload for edit in log if edit.operation == "correct" and edit.payload.target_seq == target.seq
    ]
    others = [edit for edit in log if edit is not target and edit.payload not in earlier]
    if parsed.replacement is not None:
        parsed = replace(parsed, replacement=_resolved(target, others, parsed.replacement, at))
    was = fold.corrected(target, earlier[-1]) if earlier else target
    becomes = fold.corrected(target, parsed)
    instants = [edit.effective_at for edit in (was, becomes) if edit]
    if was == becomes or not instants:
        raise InvalidInput("Nothing would change.", code="no_effect")
    new = Edit(len(log) + 1, "correct", parsed, min(instants), at, reason, op_version=op.op_version)
    earliest = None if target.seq == 1 else min(edit.effective_at for edit in log)
    for instant in instants:
        dated = replace(new, effective_at=instant)
        check_dating(op, dated, at, actor, earliest=earliest, agreed=agreed)
    found = fold.found_by(others, becomes) if becomes else fold.NOTHING
    signed = _ever_signed(log)
    if becomes and parsed.replacement:
        with pointing("/payload/replacement/payload"):
            was_signed = signed and found.status in UNSIGNED
            check_replacement(target.operation, (was or target).payload, becomes.payload, signed=was_signed)
            fold.check(found, becomes)
    before = fold.fold(log, valid_at=new.effective_at)
    after = fold.fold([*log, new], valid_at=new.effective_at)
    check_party(op, parsed, before, actor)
    if _states(log) == _states([*log, new]):
        raise InvalidInput("Nothing would change.", code="no_effect")
    return Planned(
        new,
        op.event(parsed, before),
        before,
        after,
        approval=_needs_two(op, parsed, before, log, new.effective_at)
        or (named(becomes.operation).needs_approval(found, becomes.payload, at) if becomes else ""),
    )


def _needs_two(
    op: Operation[Any], parsed: Correct, before: ContractState, log: Sequence[Edit], at: datetime
) -> str:
    """A contract that was signed at any time is corrected by two people, whatever it was at that instant."""
    states = (before, *(step.state for step in fold.timeline(log)))
    asked = (op.needs_approval(state, parsed, at) for state in states)
    return next((why for why in asked if why), "")


def _states(log: Sequence[Edit]) -> list[tuple[datetime, ContractState]]:
    return [(instant.at, evolve(instant.state, version=0)) for instant in fold.timeline(log)]


def _resolved(target: Edit, others: Sequence[Edit], replacement: Replacement, at: datetime) -> Replacement:
    """A replacement as it is stored: of the target's operation, with what the server fills in.

    Where its payload fixes the instant, that is counted from the target's; terms that a replaced creation
    leaves open stay as they were agreed.
    """
    op = named(target.operation)
    pointer = "/payload/replacement/payload"
    payload = replacement.payload
    if replacement.op_version > op.op_version:
        raise InvalidInput(
            f"Payloads of {op.name} are of version {op.op_version} at most.",
            pointer="/payload/replacement/op_version",
            code="unknown_op_version",
        )
    if target.operation == "create":
        payload = {**payload, "terms": _under(schema.dump(target.payload.terms), payload.get("terms"))}
    parsed = schema.parse(op.payload, payload, pointer=pointer)
    with pointing(pointer):
        if target.operation == "create" and parsed.number is None:
            parsed = replace(parsed, number=target.payload.number)
        parsed = resolve(parsed, at=at, sold=offers_of(target.payload))
        if isinstance(parsed, Terminate):  # its notice runs since it was first recorded
            parsed = replace(parsed, recorded_at=target.payload.recorded_at)
        fixed = op.effective_at(parsed, fold.found_by(others, target), target.effective_at)
    given = replacement.effective_at
    if fixed and given and fixed != given:
        raise InvalidInput(
            "The payload fixes the instant; leave effective_at out.",
            pointer="/payload/replacement/effective_at",
            code="effective_at_fixed",
        )
    return Replacement(schema.dump(parsed), fixed or given, op.op_version)


def _under(base: Any, given: Any) -> Any:
    """What is given, and of objects what it leaves open as `base` says it."""
    if not isinstance(base, dict) or not isinstance(given, dict | None):
        return given
    given = given or {}
    both = {name: _under(base[name], given[name]) for name in base if name in given}
    return {**base, **given, **both}


def _when(
    op: Operation[Any], payload: Any, state: ContractState, given: datetime | None, at: datetime
) -> datetime:
    """When the edit takes effect: as its payload says, as the caller says, or now."""
    if getattr(payload, "when", "") == "date" and given is None:
        raise InvalidInput(
            "Give the date as effective_at.", pointer="/effective_at", code="effective_at_required"
        )
    with _in_payload():
        fixed = op.effective_at(payload, state, at)
    if fixed and given and fixed != given:
        raise InvalidInput(
            "The payload fixes the instant; leave effective_at out.",
            pointer="/effective_at",
            code="effective_at_fixed",
        )
    return aware(fixed or given or at)


def _next_edit(log: Sequence[Edit], after: datetime) -> datetime | None:
    return min((edit.effective_at for edit in fold.resolve(log) if edit.effective_at > after), default=None)


def aware(value: datetime) -> datetime:
    """InvalidInput for an instant without an offset."""
    if value.tzinfo is None:
        raise InvalidInput(
            "The instant needs an offset, e.g. 2027-03-01T00:00:00Z.",
            pointer="/effective_at",
            code="invalid_instant",
        )
    return value


def check_dating(
    op: Operation[Any],
    new: Edit,
    at: datetime,
    actor: Actor,
    *,
    earliest: datetime | None,
    agreed: bool = False,
) -> None:
    """Within the contract's life, no further ahead than the platform goes or back than the actor may."""

    def refuse(code: str, detail: str, pointer: str = "/effective_at") -> None:
        raise InvalidInput(detail, pointer=pointer, code=code)

    first = new.seq == 1
    if earliest and new.effective_at < earliest:
        refuse("effective_before_start", f"The contract exists since {earliest:%Y-%m-%d %H:%M} UTC.")
    if first and new.effective_at > at:
        refuse("effective_in_future", "A contract is created now; its start may lie ahead.")
    if new.effective_at > at:
        ahead = platform_terms(at).limits.max_ahead_days
        if new.effective_at > at + timedelta(days=ahead):
            refuse("limit_exceeded", f"At most {ahead} days ahead.")
    if len(new.reason) > 500 or "\x00" in new.reason or not schema.encodable(new.reason):
        refuse("reason_invalid", "A reason has at most 500 characters.", "/reason")
    backdated = not first and new.effective_at < at
    if backdated and not acts_for_platform(actor):
        raise PermissionDenied(
            "What lies in the past is for the platform to record.",
            pointer="/effective_at",
            code="backdate_limit",
        )
    if (backdated or op.reason_required) and not new.reason.strip():
        why = "An edit in the past" if backdated else f"{op.label}"
        refuse("reason_required", f"{why} needs a reason.", "/reason")
    if backdated and actor.type != "system" and not agreed:
        limits = platform_terms(at).limits
        days = limits.backdate_finance_days if actor.has_perm(FINANCE) else limits.backdate_ops_days
        if new.effective_at < at - timedelta(days=days):
            raise PermissionDenied(
                f"You may go back {days} days, this is {(at - new.effective_at).days}.",
                pointer="/effective_at",
                code="backdate_limit",
            )


def acts_for_platform(actor: Actor) -> bool:
    """Whether it is the platform that acts, and no party of a contract through its own key."""
    return actor.organization_id is None or actor.organization_id == Organization.objects.platform().pk


def check_is_buyer(buyer_id: Any, actor: Actor) -> None:
    """Asked first of all: any other refusal would tell a seller what the others did."""
    if not acts_for_platform(actor) and actor.organization_id != buyer_id:
        raise PermissionDenied("Only the buyer or the platform changes a contract.")


def check_party(op: Operation[Any], payload: Any, state: ContractState, actor: Actor) -> None:
    """A key of the platform may do what its scopes allow; a buyer's key, what suits the buyer."""
    check_is_buyer(state.buyer_id, actor)
    if not acts_for_platform(actor) and not op.buyer_may(payload, state):
        raise PermissionDenied(f"{op.label} is for the platform to record here.", operation=op.name)


def place(planned: Sequence[Planned], i: int) -> str:
    """The pointer to the payload of the edit that comes as number `i`."""
    return f"/operations/{i}/payload" if len(planned) > 1 else "/payload"


def check_effect(before: ContractState, after: ContractState) -> None:
    if replace(after, version=before.version) == before:
        raise InvalidInput("Nothing would change.", code="no_effect")


def check_log(old: Sequence[Edit], new: Sequence[Edit], *, since: datetime) -> None:
    """Raise when the log with the new edits holds one that the states before it do not admit."""
    broken = fold.broken(new, since)
    if broken:
        known = fold.broken(old, since)
        broken = {seq: error for seq, error in broken.items() if seq not in known}
    if not broken:
        return
    later = {edit.seq: edit for edit in old}
    for seq, error in broken.items():
        if seq not in later:
            raise error
    raise StateConflict(
        f"{len(broken)} later edits would no longer be possible.",
        code="would_invalidate_later_edit",
        errors=[
            FieldError("", error.code, f"#{seq} {later[seq].operation}: {error.detail}")
            for seq, error in broken.items()
        ],
        later_edits=[
            {"seq": seq, "operation": later[seq].operation, "error": error.code}
            for seq, error in broken.items()
        ],
    )


def check_approval(planned: Sequence[Planned], actor: Actor) -> None:
    """PermissionDenied when two people must agree and only one asks; machines act by agreed rules."""
    why = [plan.approval for plan in planned if plan.approval]
    if why and actor.type != "system":
        raise PermissionDenied(f"{why[0]} Request an approval instead.", code="approval_required", why=why)


def version_conflict(contract: Contract, expected: int) -> VersionConflict:
    """409 with the current version and what was recorded since the expected one."""
    since = contract.edits.filter(seq__gt=expected).order_by("seq")[:50]
    return VersionConflict(
        f"Contract {contract.number} is at version {contract.version}, not {expected}.",
        current_version=contract.version,
        edits=[
            {"seq": row.seq, "operation": row.operation, "effective_at": schema.instant(row.effective_at)}
            for row in since
        ],
    )
