"""Recording edits: the one write path of a contract, for one operation or a batch of them.

One transaction: lock, idempotency, version, payloads, fold at each effective instant, preconditions,
a check of everything that lies later, insert, projection, events. Nothing is written when anything refuses.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from commerce.actor import Actor
from commerce.console.models import Approval
from commerce.crash import crash_point
from commerce.errors import Conflict, InvalidInput, PermissionDenied
from commerce.ids import uuid7
from commerce.outbox import append
from contracts.models import Contract, ContractEdit
from contracts.rules import fold, schema
from contracts.rules.fold import Edit, Instant
from contracts.rules.operations import named
from contracts.rules.operations.create import Create
from contracts.rules.state import ContractState, digest
from contracts.services import admission, line_segments, projection
from contracts.services.admission import Json, Planned, pointing
from contracts.services.catalog import resolve
from contracts.services.terms import fill_terms

log = logging.getLogger(__name__)

MAX_BATCH = 50

ActivationGuard = Callable[[Contract, ContractState, datetime], None]
EditHook = Callable[..., None]
Overtake = Callable[[Contract, datetime], Contract]
_activation_guards: list[ActivationGuard] = []
_hooks: list[EditHook] = []
_overtakes: list[Overtake] = []


@dataclass(frozen=True)
class OperationRequest:
    """One operation as it is asked for; `effective_at` None is now, or what the payload fixes."""

    operation: str
    payload: Json
    effective_at: datetime | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        at = schema.instant(admission.aware(self.effective_at)) if self.effective_at else None
        return {
            "operation": self.operation,
            "payload": self.payload,
            "effective_at": at,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "OperationRequest":
        at = data["effective_at"]
        return cls(
            data["operation"], data["payload"], datetime.fromisoformat(at) if at else None, data["reason"]
        )


@dataclass(frozen=True)
class BatchResult:
    """`replayed` when the idempotency key had been used before with the same request."""

    contract: Contract
    edits: list[ContractEdit]
    replayed: bool = False
    planned: list[Planned] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class EditResult:
    """Of one operation; `replayed` as in BatchResult."""

    contract: Contract
    edit: ContractEdit
    replayed: bool = False


def register_activation_guard(guard: ActivationGuard) -> None:
    """Ask `guard(contract, state, at)` before a contract goes live; it raises to refuse."""
    if guard not in _activation_guards:
        _activation_guards.append(guard)


def register_edit_hook(hook: EditHook) -> None:
    """Call `hook(contract=, was=, will=, planned=, actor=, at=)` in the transaction of every edit.

    `was` and `will` are the timelines without and with the edits `planned`; what it raises refuses them all.
    """
    if hook not in _hooks:
        _hooks.append(hook)


def register_overtake(overtake: Overtake) -> None:
    """Let `overtake(contract, at)` do what was due on a locked contract by `at`, before an edit is planned.

    It returns the row as that leaves it, and raises to refuse the edit.
    """
    if overtake not in _overtakes:
        _overtakes.append(overtake)


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
    request_hash = digest(OperationRequest("create", payload, effective_at, reason).to_json())
    earlier = ContractEdit.objects.filter(
        seq=1, actor_type=actor.type, actor_id=actor.id, idempotency_key=key
    ).select_related("contract")
    if found := earlier.first():
        _check_same(found, request_hash)
        return EditResult(found.contract, found, replayed=True)
    parsed: Create = schema.parse(Create, fill_terms(payload, at=at))
    admission.check_party(op, parsed, ContractState(buyer_id=parsed.buyer_id), actor)
    parsed = resolve(parsed, at=at)
    op.check(fold.NOTHING, parsed, at)
    if Contract.objects.filter(number=parsed.number).exists():
        raise Conflict(
            f"There is a contract {parsed.number} already.",
            pointer="/number",
            code="duplicate_contract_number",
        )
    effective_at = admission.aware(effective_at or min(at, parsed.start_at))
    new = Edit(1, "create", parsed, effective_at, at, reason)
    admission.check_dating(op, new, at, actor, earliest=None)
    planned = Planned(new, op.event(parsed, fold.NOTHING), fold.NOTHING, fold.apply(fold.NOTHING, new))
    steps = fold.timeline([new])
    shown = projection.columns(steps, effective_at)
    del shown["status"]
    contract = Contract(number=parsed.number or "", **shown, projected_at=at)
    contract.save(force_insert=True)
    _run_hooks(contract, [], steps, [planned], actor, at)
    [row] = _insert(contract, [planned], None, actor, key, request_hash)
    contract = projection.refresh(contract, steps, actor=actor, at=at, reason=reason)
    line_segments.project(contract, steps, recorded_at=row.recorded_at)
    _announce(contract, planned, row, actor=actor, at=at)
    return EditResult(contract, row)


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

    What was scheduled by `at` is done first, whatever the tick does; `expected_version` is from before that.
    Takes effect at `effective_at` (default `at`, or what the payload fixes). In the past it needs a
    reason and is refused when a later edit would no longer be admitted; in the future it is recorded
    now and takes effect when its instant comes. Raises VersionConflict, StateConflict, InvalidInput,
    Busy (schedule_behind), and PermissionDenied (approval_required) for what two people must agree to.
    """
    result = record(
        contract_id,
        [OperationRequest(operation, payload, effective_at, reason)],
        actor=actor,
        at=at,
        idempotency_key=idempotency_key,
        expected_version=expected_version,
        pointer="",
    )
    return EditResult(result.contract, result.edits[0], result.replayed)


def record_edits(
    *,
    contract_id: UUID,
    operations: Sequence[OperationRequest],
    actor: Actor,
    at: datetime,
    idempotency_key: str,
    expected_version: int | None,
    approval: Approval | None = None,
) -> BatchResult:
    """Record several operations on a contract, all or none, in the order given; at most 50.

    Each is checked on what those before it leave; what lies later in time is checked once, after the
    last. Errors point below `/operations/<n>`. `approval` is the two people's agreement to exactly this.
    """
    return record(
        contract_id,
        operations,
        actor=actor,
        at=at,
        idempotency_key=idempotency_key,
        expected_version=expected_version,
        approval=approval,
        pointer="/operations/{}",
    )


@transaction.atomic
def record(
    contract_id: UUID,
    operations: Sequence[OperationRequest],
    *,
    actor: Actor,
    at: datetime,
    idempotency_key: str,
    expected_version: int | None,
    pointer: str,
    approval: Approval | None = None,
    approved: bool = False,
    agreed: bool = False,
) -> BatchResult:
    """`approved` leaves out the question for a second person: a preview writes nothing.

    `agreed` takes the instants as given, as an approval does: two people are to agree to just these.
    """
    if not 1 <= len(operations) <= MAX_BATCH:
        raise InvalidInput(
            f"A batch has 1 to {MAX_BATCH} operations.", pointer="/operations", code="limit_exceeded"
        )
    key = _key(idempotency_key, room=len(f"#{len(operations)}") if len(operations) > 1 else 0)
    for place, request in enumerate(operations):
        with pointing(pointer.format(place)):
            permission = named(request.operation).permission
            if approval is None:
                actor.require(permission)
    contract = projection.lock(contract_id)
    admission.check_is_buyer(contract.buyer_id, actor)
    request_hash = _request_hash(operations)
    if found := contract.edits.filter(idempotency_key=key).first():
        _check_same(found, request_hash)
        rows = contract.edits.filter(batch_id=found.batch_id) if found.batch_id else [found]
        return BatchResult(contract, sorted(rows, key=lambda row: row.seq), replayed=True)
    if expected_version is not None and expected_version != contract.version:
        raise admission.version_conflict(contract, expected_version)
    for overtake in _overtakes:
        contract = overtake(contract, at)
    edits = projection.load_edits(contract.pk)
    contract, _ = projection.catch_up(contract, edits, at=at)
    shown_at = max(at, contract.projected_at)
    planned: list[Planned] = []
    after = list(edits)
    for place, request in enumerate(operations):
        with pointing(pointer.format(place)):
            planned.append(
                admission.plan(
                    after,
                    request.operation,
                    request.payload,
                    given=request.effective_at,
                    reason=request.reason,
                    actor=actor,
                    at=at,
                    current=contract.current if not place else fold.fold(after, valid_at=shown_at),
                    agreed=agreed or approval is not None,
                )
            )
        after.append(planned[-1].edit)
    since = min(plan.edit.effective_at for plan in planned)
    admission.check_log(edits, after, since=since)
    if approval is None and not approved:
        admission.check_approval(planned, actor)
    _guard_activation(contract, planned)
    was, will = fold.timeline(edits), fold.timeline(after)
    _run_hooks(contract, was, will, planned, actor, at)
    rows = _insert(contract, planned, edits[-1], actor, key, request_hash, approval)
    reason = next((request.reason for request in operations if request.reason), "")
    contract = projection.refresh(contract, will, actor=actor, at=shown_at, reason=reason)
    line_segments.project(contract, will, recorded_at=rows[0].recorded_at, since=since)
    for plan, row in zip(planned, rows, strict=True):
        _announce(contract, plan, row, actor=actor, at=at)
    projection.tell_of_clock(contract, was, will, since=since, until=shown_at)
    return BatchResult(contract, rows, planned=planned)


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


def _key(idempotency_key: str, *, room: int = 0) -> str:
    """`room` is for what tells the edits of a batch apart."""
    longest = 320 - room
    if not 1 <= len(idempotency_key) <= longest:
        detail = f"An idempotency key has 1 to {longest} characters."
        raise InvalidInput(detail, code="idempotency_key_invalid")
    return idempotency_key


def _request_hash(operations: Sequence[OperationRequest]) -> str:
    asked = [request.to_json() for request in operations]
    return digest(asked[0] if len(asked) == 1 else asked)


def _check_same(row: ContractEdit, request_hash: str) -> None:
    if row.request_hash != request_hash:
        raise InvalidInput("This idempotency key was used for another request.", code="idempotency_mismatch")


def _guard_activation(contract: Contract, planned: Sequence[Planned]) -> None:
    for plan in planned:
        if plan.event == "contract.activated":
            for guard in _activation_guards:
                guard(contract, plan.before, plan.edit.effective_at)


def _run_hooks(
    contract: Contract,
    was: Sequence[Instant],
    will: Sequence[Instant],
    planned: Sequence[Planned],
    actor: Actor,
    at: datetime,
) -> None:
    for hook in _hooks:
        hook(contract=contract, was=was, will=will, planned=planned, actor=actor, at=at)


def _insert(
    contract: Contract,
    planned: Sequence[Planned],
    last: Edit | None,
    actor: Actor,
    key: str,
    request_hash: str,
    approval: Approval | None = None,
) -> list[ContractEdit]:
    """Append to the log. `recorded_at` is the database's clock, later than the edit before, one per batch."""
    if approval is not None and approval.maker == str(actor):
        raise PermissionDenied("Who requested something may not decide it.", code="own_approval")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT GREATEST(clock_timestamp(), %s::timestamptz + interval '1 microsecond')",
            [last.recorded_at if last else None],
        )
        recorded_at = cursor.fetchone()[0]
    previous = contract.edits.values_list("hash", flat=True).get(seq=last.seq) if last else ""
    batch_id = uuid7() if len(planned) > 1 else None
    rows = []
    for place, plan in enumerate(planned):
        edit = plan.edit
        row = ContractEdit(
            contract=contract,
            seq=edit.seq,
            operation=edit.operation,
            op_version=edit.op_version,
            payload=schema.dump(edit.payload),
            effective_at=edit.effective_at,
            recorded_at=recorded_at,
            actor_type=actor.type,
            actor_id=actor.id,
            actor_label=actor.label,
            requested_by=approval.maker if approval else "",
            approval_id=approval.pk if approval else None,
            reason=edit.reason,
            request_id=actor.request_id,
            idempotency_key=f"{key}#{place}" if place else key,
            request_hash=request_hash,
            supersedes=edit.payload.target_seq if edit.operation == "correct" else None,
            batch_id=batch_id,
            batch_pos=place if batch_id else None,
            prev_hash=previous,
        )
        previous = row.hash = digest(row.fingerprint())
        rows.append(row)
    return ContractEdit.objects.bulk_create(rows)


def _announce(contract: Contract, plan: Planned, row: ContractEdit, *, actor: Actor, at: datetime) -> None:
    crash_point("contracts.edit_recorded")
    append(
        "contract",
        contract.pk,
        plan.event,
        {
            **projection.delta(contract, plan.before, plan.after, since=row.effective_at, until=plan.until),
            "from_version": row.seq - 1 - (row.batch_pos or 0),
            "to_version": contract.version,
            "operation": row.operation,
            "edits": [row.seq],
            "recorded_at": schema.instant(row.recorded_at),
            "retroactive": row.effective_at < at,
            "pending": row.effective_at > at,
            "reason": row.reason,
            "batch_id": str(row.batch_id) if row.batch_id else None,
        },
        at=at,
        actor=actor,
    )
    crash_point("contracts.edit_told")
    transaction.on_commit(lambda: crash_point("contracts.edit_committed"))
    facts = {"contract": contract.number, "operation": row.operation, "version": row.seq, "by": str(actor)}
    transaction.on_commit(partial(log.info, "contract edited", extra=facts))
