"""Recording edits: the one write path of a contract.

One transaction: lock, idempotency, version, payload, fold at the effective instant, precondition,
replay of what lies later, insert, projection, event. Nothing is written when anything refuses.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from commerce.actor import Actor
from commerce.errors import (
    CommerceError,
    Conflict,
    FieldError,
    InvalidInput,
    PermissionDenied,
    StateConflict,
    VersionConflict,
)
from commerce.outbox import append
from commerce.parties.models import Organization
from contracts.models import Contract, ContractEdit
from contracts.rules import fold, schema
from contracts.rules.fold import Edit
from contracts.rules.operations import Operation, named
from contracts.rules.operations.create import Create
from contracts.rules.state import ContractState, difference, digest
from contracts.services import projection
from contracts.services.catalog import resolve

log = logging.getLogger(__name__)

FURTHEST_AHEAD = timedelta(days=3653)

Json = dict[str, Any] | list[Any]

ActivationGuard = Callable[[Contract, ContractState, datetime], None]
_activation_guards: list[ActivationGuard] = []


@dataclass(frozen=True)
class EditResult:
    """`replayed` when the idempotency key had been used before with the same request."""

    contract: Contract
    edit: ContractEdit
    replayed: bool = False


@dataclass(frozen=True)
class Preview:
    """What an edit would do; nothing was written."""

    effective_at: datetime
    before: ContractState
    after: ContractState
    changed_before: dict[str, Any]
    changed_after: dict[str, Any]


def register_activation_guard(guard: ActivationGuard) -> None:
    """Ask `guard(contract, state, at)` before a contract goes live; it raises to refuse."""
    if guard not in _activation_guards:
        _activation_guards.append(guard)


def contract_edits(contract_id: UUID) -> list[Edit]:
    """The log as the rules read it, oldest first."""
    return projection.load_edits(contract_id)


@transaction.atomic
def create_contract(
    *,
    payload: Json,
    actor: Actor,
    at: datetime,
    idempotency_key: str,
    effective_at: datetime | None = None,
    reason: str = "",
) -> EditResult:
    """Open a draft. The key is the actor's own: repeated, it returns the contract it made.

    Takes effect at `effective_at`; else now, or at the contract's start when that has passed.
    """
    op = named("create")
    actor.require(op.permission)
    key = _key(idempotency_key)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"create:{actor}:{key}"])
    request_hash = _request_hash("create", payload, effective_at, reason)
    earlier = ContractEdit.objects.filter(
        seq=1, actor_type=actor.type, actor_id=actor.id, idempotency_key=key
    ).select_related("contract")
    if found := earlier.first():
        return _replay(found, request_hash)
    parsed: Create = schema.parse(Create, payload)
    _check_party(op, parsed, ContractState(buyer_id=parsed.buyer_id), actor)
    op.check(fold.NOTHING, parsed, at)
    parsed = resolve(parsed, year=at.year)
    if Contract.objects.filter(number=parsed.number).exists():
        raise Conflict(
            f"There is a contract {parsed.number} already.",
            pointer="/number",
            code="duplicate_contract_number",
        )
    effective_at = _instant(effective_at or min(at, parsed.start_at))
    new = Edit(1, "create", parsed, effective_at, at, reason)
    _check_dating(op, new, at, earliest=None)
    state = fold.apply(fold.NOTHING, new)
    contract = Contract(
        number=parsed.number or "",
        **{
            name: value for name, value in projection.columns([new], effective_at).items() if name != "status"
        },
        projected_at=at,
    )
    contract.save(force_insert=True)
    row = _insert(contract, new, None, actor, key, request_hash)
    contract = projection.refresh(contract, [new], actor=actor, at=at, reason=reason)
    _announce(contract, new, row, fold.NOTHING, state, None, actor=actor, at=at)
    return EditResult(contract, row)


@transaction.atomic
def record_edit(
    *,
    contract_id: UUID,
    operation: str,
    payload: Json,
    actor: Actor,
    at: datetime,
    idempotency_key: str,
    expected_version: int | None,
    effective_at: datetime | None = None,
    reason: str = "",
) -> EditResult:
    """Record one operation on a contract; `expected_version` None is for machines with semantic keys.

    Takes effect at `effective_at` (default `at`, or what the payload fixes). In the past it needs a
    reason and is refused when a later edit would no longer be admitted; in the future it is recorded
    now and takes effect when its instant comes. Raises VersionConflict, StateConflict, InvalidInput.
    """
    op = named(operation)
    if operation == "create":
        raise InvalidInput("A contract is created once.", pointer="/operation", code="unknown_operation")
    actor.require(op.permission)
    key = _key(idempotency_key)
    contract = projection.lock(contract_id)
    _check_is_buyer(contract.buyer_id, actor)
    request_hash = _request_hash(operation, payload, effective_at, reason)
    if found := contract.edits.filter(idempotency_key=key).first():
        return _replay(found, request_hash)
    if expected_version is not None and expected_version != contract.version:
        raise _version_conflict(contract, expected_version)
    parsed = schema.parse(op.payload, payload, pointer="/payload")
    edits = projection.load_edits(contract.pk)
    contract, _ = projection.catch_up(contract, edits, at=at)
    with _pointers("/payload"):
        parsed = resolve(parsed, year=at.year)
    new = Edit(
        contract.version + 1,
        operation,
        parsed,
        _when(op, parsed, contract.current, effective_at, at),
        at,
        reason,
    )
    _check_dating(op, new, at, earliest=edits[0].effective_at)
    before = fold.fold(edits, valid_at=new.effective_at)
    _check_party(op, parsed, before, actor)
    with _pointers("/payload"):
        fold.check(before, new)
        after = fold.apply(before, new)
    _check_effect(before, after)
    later = [edit for edit in fold.in_order(edits) if edit.effective_at > new.effective_at]
    _check_later(later, after)
    if op.event(parsed, before) == "contract.activated":
        for guard in _activation_guards:
            guard(contract, before, new.effective_at)
    row = _insert(contract, new, edits[-1], actor, key, request_hash)
    shown_at = max(at, contract.projected_at)
    contract = projection.refresh(contract, [*edits, new], actor=actor, at=shown_at, reason=reason)
    until = later[0].effective_at if later else None
    _announce(contract, new, row, before, after, until, actor=actor, at=at)
    return EditResult(contract, row)


def preview_edit(**arguments: Any) -> Preview:
    """`record_edit` with the same arguments and the same refusals, rolled back."""
    with transaction.atomic():
        before = contract_edits(arguments["contract_id"])
        result = record_edit(**arguments)
        after = contract_edits(result.contract.pk)
        transaction.set_rollback(True)
    moment = result.edit.effective_at
    old, new = fold.fold(before, valid_at=moment), fold.fold(after, valid_at=moment)
    return Preview(moment, old, new, *difference(old, new))


def suspend_contract(
    *,
    contract_id: UUID,
    actor: Actor,
    at: datetime,
    idempotency_key: str,
    reason_code: str = "non_payment",
    billing: str = "continue",
    reason: str = "",
) -> EditResult | None:
    """Put a hold on the whole contract. None when that hold is there already or the contract has ended."""
    return _machine_edit(
        contract_id,
        "suspend",
        {"reason": reason_code, "billing": billing},
        ("already_suspended_for_reason", "invalid_state"),
        actor=actor,
        at=at,
        idempotency_key=idempotency_key,
        reason=reason,
    )


def resume_contract(
    *,
    contract_id: UUID,
    actor: Actor,
    at: datetime,
    idempotency_key: str,
    reason_code: str = "non_payment",
    reason: str = "",
) -> EditResult | None:
    """Lift the hold of that reason; others remain. None when there is no such hold."""
    return _machine_edit(
        contract_id,
        "resume",
        {"reason": reason_code},
        ("not_suspended", "invalid_state"),
        actor=actor,
        at=at,
        idempotency_key=idempotency_key,
        reason=reason,
    )


def _machine_edit(
    contract_id: UUID, operation: str, payload: Json, done: Sequence[str], **rest: Any
) -> EditResult | None:
    try:
        return record_edit(
            contract_id=contract_id, operation=operation, payload=payload, expected_version=None, **rest
        )
    except Conflict as error:
        if error.code in done:
            return None
        raise


class _pointers:
    """Put `prefix` before the pointers of a CommerceError: the rules know only the payload."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CommerceError):
            error.errors = [
                item if item.pointer == "/effective_at" else replace(item, pointer=self.prefix + item.pointer)
                for item in error.errors
            ]


def _key(idempotency_key: str) -> str:
    if not 1 <= len(idempotency_key) <= 320:
        raise InvalidInput("An idempotency key has 1 to 320 characters.", code="idempotency_key_invalid")
    return idempotency_key


def _request_hash(operation: str, payload: Json, effective_at: datetime | None, reason: str) -> str:
    at = schema.instant(_instant(effective_at)) if effective_at else None
    return digest({"operation": operation, "payload": payload, "effective_at": at, "reason": reason})


def _replay(row: ContractEdit, request_hash: str) -> EditResult:
    if row.request_hash != request_hash:
        raise InvalidInput("This idempotency key was used for another request.", code="idempotency_mismatch")
    return EditResult(row.contract, row, replayed=True)


def _version_conflict(contract: Contract, expected: int) -> VersionConflict:
    since = contract.edits.filter(seq__gt=expected).order_by("seq")[:50]
    return VersionConflict(
        f"Contract {contract.number} is at version {contract.version}, not {expected}.",
        current_version=contract.version,
        edits=[
            {"seq": row.seq, "operation": row.operation, "effective_at": schema.instant(row.effective_at)}
            for row in since
        ],
    )


def _instant(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise InvalidInput(
            "The instant needs an offset, e.g. 2027-03-01T00:00:00Z.",
            pointer="/effective_at",
            code="invalid_instant",
        )
    return value


def _when(
    op: Operation[Any], payload: Any, state: ContractState, given: datetime | None, at: datetime
) -> datetime:
    """When the edit takes effect: as its payload says, as the caller says, or now."""
    if getattr(payload, "when", "") == "date" and given is None:
        raise InvalidInput(
            "Give the date as effective_at.", pointer="/effective_at", code="effective_at_required"
        )
    with _pointers("/payload"):
        fixed = op.effective_at(payload, state, at)
    if fixed and given and fixed != given:
        raise InvalidInput(
            f"The payload says {payload.when}; leave effective_at out.",
            pointer="/effective_at",
            code="effective_at_fixed",
        )
    return _instant(fixed or given or at)


def _check_dating(op: Operation[Any], new: Edit, at: datetime, *, earliest: datetime | None) -> None:
    def refuse(code: str, detail: str, pointer: str = "/effective_at") -> None:
        raise InvalidInput(detail, pointer=pointer, code=code)

    if earliest and new.effective_at < earliest:
        refuse("effective_before_start", f"The contract exists since {earliest:%Y-%m-%d %H:%M} UTC.")
    if earliest is None and new.effective_at > at:
        refuse("effective_in_future", "A contract is created now; its start may lie ahead.")
    if new.effective_at > at + FURTHEST_AHEAD:
        refuse("limit_exceeded", "At most ten years ahead.")
    if len(new.reason) > 500 or "\x00" in new.reason:
        refuse("reason_invalid", "A reason has at most 500 characters.", "/reason")
    backdated = earliest is not None and new.effective_at < at
    if (backdated or op.reason_required) and not new.reason.strip():
        why = "An edit in the past" if backdated else f"{op.label}"
        refuse("reason_required", f"{why} needs a reason.", "/reason")


def _acts_for_platform(actor: Actor) -> bool:
    return actor.organization_id is None or actor.organization_id == Organization.objects.platform().pk


def _check_is_buyer(buyer_id: UUID, actor: Actor) -> None:
    """Asked first of all: any other refusal would tell a seller what the others did."""
    if not _acts_for_platform(actor) and actor.organization_id != buyer_id:
        raise PermissionDenied("Only the buyer or the platform changes a contract.")


def _check_party(op: Operation[Any], payload: Any, state: ContractState, actor: Actor) -> None:
    """A key of the platform may do what its scopes allow; a buyer's key, what suits the buyer."""
    _check_is_buyer(state.buyer_id, actor)
    if not _acts_for_platform(actor) and not op.buyer_may(payload, state):
        raise PermissionDenied(f"{op.label} is for the platform to record here.", operation=op.name)


def _check_effect(before: ContractState, after: ContractState) -> None:
    if replace(after, version=before.version) == before:
        raise InvalidInput("Nothing would change.", code="no_effect")


def _check_later(later: Sequence[Edit], state: ContractState) -> None:
    broken = fold.broken_by(later, state)
    if broken:
        raise StateConflict(
            f"{len(broken)} later edits would no longer be possible.",
            code="would_invalidate_later_edit",
            errors=[
                FieldError("", error.code, f"#{edit.seq} {edit.operation}: {error.detail}")
                for edit, error in broken
            ],
            later_edits=[
                {"seq": edit.seq, "operation": edit.operation, "error": error.code} for edit, error in broken
            ],
        )


def _insert(
    contract: Contract, new: Edit, last: Edit | None, actor: Actor, key: str, request_hash: str
) -> ContractEdit:
    """Append to the log. `recorded_at` is the database's clock, later than the edit before."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT GREATEST(clock_timestamp(), %s::timestamptz + interval '1 microsecond')",
            [last.recorded_at if last else None],
        )
        recorded_at = cursor.fetchone()[0]
    prev_hash = contract.edits.get(seq=last.seq).hash if last else ""
    row = ContractEdit(
        contract=contract,
        seq=new.seq,
        operation=new.operation,
        op_version=named(new.operation).op_version,
        payload=schema.dump(new.payload),
        effective_at=new.effective_at,
        recorded_at=recorded_at,
        actor_type=actor.type,
        actor_id=actor.id,
        actor_label=actor.label,
        reason=new.reason,
        request_id=actor.request_id,
        idempotency_key=key,
        request_hash=request_hash,
        prev_hash=prev_hash,
    )
    row.hash = digest(row.fingerprint())
    row.save(force_insert=True)
    return row


def _announce(
    contract: Contract,
    new: Edit,
    row: ContractEdit,
    before: ContractState,
    after: ContractState,
    until: datetime | None,
    *,
    actor: Actor,
    at: datetime,
) -> None:
    append(
        "contract",
        contract.pk,
        named(new.operation).event(new.payload, before),
        {
            **projection.delta(contract, before, after, since=row.effective_at, until=until),
            "from_version": row.seq - 1,
            "to_version": row.seq,
            "operation": row.operation,
            "edits": [row.seq],
            "recorded_at": schema.instant(row.recorded_at),
            "retroactive": row.effective_at < at,
            "pending": row.effective_at > at,
            "reason": row.reason,
        },
        at=at,
        actor=actor,
    )
    log.info(
        "contract edited",
        extra={"contract": contract.number, "operation": row.operation, "version": row.seq, "by": str(actor)},
    )
