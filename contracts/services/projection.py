"""The contract row as a projection of its log: refresh, catch up with the clock, rebuild, verify."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, cast

from celery.exceptions import SoftTimeLimitExceeded
from django.db import connection, transaction
from django.db.models import Exists, OuterRef

from commerce.actor import Actor
from commerce.errors import NotFound
from commerce.outbox import append
from commerce.states import transition
from contracts.models import Contract, ContractEdit, ScheduledCommand
from contracts.rules import fold, upcasting
from contracts.rules.fold import Edit, Instant
from contracts.rules.schema import dump, instant
from contracts.rules.state import ContractState, difference, digest
from contracts.services import line_segments

log = logging.getLogger(__name__)

CLOCK = Actor.system("contracts.clock")
FOLDED = frozenset({"state", "state_hash", "fold_version", "next_due_at", "segments"})
"""What a newer fold may say differently of the same log: it counts the ends of what runs for periods too."""


@dataclass(frozen=True)
class Rebuilt:
    """`changed` names the columns that differed from the log; `swapped` when they no longer do."""

    contract: Contract
    changed: list[str]
    swapped: bool


def load_edits(contract_id: Any) -> list[Edit]:
    """The log as the rules read it, oldest first."""
    rows = ContractEdit.objects.filter(contract_id=contract_id).order_by("seq").values_list(
        "seq", "operation", "payload", "effective_at", "recorded_at", "reason", "actor_type", "actor_id",
        "actor_label", "id", "op_version", "approval_id",
    )  # fmt: skip
    return [
        Edit(
            seq=seq,
            operation=operation,
            payload=upcasting.load(operation, payload, op_version),
            effective_at=effective_at,
            recorded_at=recorded_at,
            reason=reason,
            actor=label or f"{actor_type}:{actor_id}",
            id=id_,
            op_version=op_version,
            agreed=approval_id is not None or actor_type == "system",
        )
        for seq, operation, payload, effective_at, recorded_at, reason, actor_type, actor_id, label, id_,
            op_version, approval_id in rows
    ]  # fmt: skip


def lock(contract_id: Any) -> Contract:
    """The contract's row, locked until the end of the transaction."""
    try:
        return Contract.objects.select_for_update(of=("self",), no_key=True).get(pk=contract_id)
    except Contract.DoesNotExist as error:
        raise NotFound(f"There is no contract {contract_id}.") from error


def columns(steps: Sequence[Instant], at: datetime) -> dict[str, Any]:
    """What the projection must say at `at`; status is listed too, but only transitions set it."""
    state = fold.at_instant(steps, at)
    upcoming = [step.at for step in steps if step.at > at]
    return {
        "status": state.status,
        "version": state.version,
        "buyer_id": state.buyer_id,
        "seller_ids": state.seller_ids,
        "partner_id": state.terms.settlement.partner_id,
        "former_party_ids": state.former_party_ids,
        "currency": state.currency,
        "start_at": state.start_at,
        "end_at": state.end_at,
        "anchor_day": state.billing.anchor_day,
        "state": state.to_json(),
        "state_hash": state.hash,
        "fold_version": fold.FOLD_VERSION,
        "next_due_at": upcoming[0] if upcoming else None,
    }


def refresh(
    contract: Contract, steps: Sequence[Instant], *, actor: Actor, at: datetime, reason: str = ""
) -> Contract:
    """Project a timeline onto the locked row at `at`, walking the status through its transitions."""
    wanted = columns(steps, at)
    for name in Contract.path(contract.status, wanted.pop("status")):
        contract = transition(contract, name, actor=actor, at=at, reason=reason)
    for name, value in {**wanted, "projected_at": at}.items():
        setattr(contract, name, value)
    contract.save()
    return contract


@transaction.atomic
def take_effect(*, contract_id: Any, at: datetime) -> int:
    """Let everything whose instant has come by `at` take effect, oldest first; returns how many.

    Each instant appends `contract.took_effect`, or `contract.expired` when it is the term's end.
    """
    contract = lock(contract_id)
    return catch_up(contract, load_edits(contract.pk), at=at)[1]


def take_effect_due(*, at: datetime, limit: int = 200) -> int:
    """`take_effect` for every contract the clock has overtaken, each in its own transaction.

    A contract with a scheduled command that is due waits for it: instants come in their order.
    """
    count = 0
    waiting = ScheduledCommand.objects.due(at).filter(contract=OuterRef("pk"))
    for contract_id in Contract.objects.due(at).filter(~Exists(waiting)).values_list("pk", flat=True)[:limit]:
        try:
            count += take_effect(contract_id=contract_id, at=at)
        except SoftTimeLimitExceeded:  # the next one would be killed with its worker
            raise
        except Exception:  # the tick's edge: one broken contract must not hold up the others
            log.exception("a contract could not take effect", extra={"contract_id": str(contract_id)})
    return count


def catch_up(contract: Contract, edits: Sequence[Edit], *, at: datetime) -> tuple[Contract, int]:
    """`take_effect` on a row that is locked already."""
    if contract.next_due_at is None or contract.next_due_at > at:
        return contract, 0
    before = contract.current
    steps = fold.timeline(edits)
    due = [step for step in steps if contract.projected_at < step.at <= at]
    for step in due:
        contract = refresh(contract, steps, actor=CLOCK, at=step.at)
        _tell(contract, before, step)
        before = step.state
    log.info("contract took effect", extra={"contract": contract.number, "instants": len(due)})
    return contract, len(due)


def tell_of_clock(
    contract: Contract, was: Sequence[Instant], will: Sequence[Instant], *, since: datetime, until: datetime
) -> None:
    """Tell of what the clock does between the two only because of edits recorded after the timeline `was`.

    A contract that opts out when its term is over ends at that instant: no later tick comes by it.
    """
    told = {(step.at, _made(before, step)) for before, step in pairwise(was)}
    for before, step in pairwise(will):
        made = _made(before, step)
        if made and since <= step.at <= until and (step.at, made) not in told:
            _tell(contract, before.state, step)


def _made(before: Instant, step: Instant) -> str:
    """What the clock makes of a state; empty for what edits do, which at the term's end may meet it."""
    if step.state.status == "expired" != before.state.status:
        return "expired"
    return "" if step.edits else digest(difference(before.state, step.state))


def _tell(contract: Contract, before: ContractState, step: Instant) -> None:
    expired = step.state.status == "expired" != before.status
    append(
        "contract",
        contract.pk,
        "contract.expired" if expired else "contract.took_effect",
        _arrival(contract, before, step),
        at=step.at,
        actor=CLOCK,
    )


def delta(
    contract: Contract,
    before: ContractState,
    after: ContractState,
    *,
    since: datetime,
    until: datetime | None,
) -> dict[str, Any]:
    """The part that every contract event shares: what changed, over which stretch of valid time."""
    old, new = difference(before, after)
    touched = [line for id_, line in after.lines.items() if before.lines.get(id_) != line]
    return {
        "contract_id": str(contract.pk),
        "number": contract.number,
        "buyer_id": str(after.buyer_id),
        "effective_at": instant(since),
        "changed_interval": [instant(since), instant(until) if until else None],
        "before": old,
        "after": new,
        "status": {"before": before.status, "after": after.status},
        "lines": [
            {
                "line_id": str(line.line_id),
                "product": line.product_code,
                "seller_id": str(line.seller_id),
                "quantity": line.quantity,
                "price_hash": digest(dump(line.price)),
                "live": line.live,
            }
            for line in touched
        ],
        "state_hash": after.hash,
    }


def _arrival(contract: Contract, before: ContractState, step: Instant) -> dict[str, Any]:
    return {
        **delta(contract, before, step.state, since=step.at, until=contract.next_due_at),
        "from_version": contract.version,
        "to_version": contract.version,
        "operation": step.edits[-1].operation if step.edits else "",
        "edits": [edit.seq for edit in step.edits],
    }


@transaction.atomic
def rebuild_contract(*, contract_id: Any, actor: Actor, accept: str = "", dry_run: bool = False) -> Rebuilt:
    """Fold the log again at the instant the row shows, and swap what the row says for it.

    A row of an older fold differs by right in its state and in when that changes next. Any other difference
    is left for somebody to look at, unless `accept` says why it may be put right. With `dry_run` nothing is
    written; the log never is.
    """
    contract = lock(contract_id)
    steps = fold.timeline(load_edits(contract.pk))
    changed = differences(contract, steps)
    by_right = contract.fold_version < fold.FOLD_VERSION and set(changed) <= FOLDED
    if not changed or dry_run or not (accept or by_right):
        return Rebuilt(contract, changed, swapped=False)
    reason = accept or f"Folded as of version {fold.FOLD_VERSION}."
    contract = refresh(contract, steps, actor=actor, at=contract.projected_at, reason=reason)
    line_segments.project(contract, steps, recorded_at=database_time())
    log.warning("projection rebuilt", extra={"contract": contract.number, "columns": changed, "why": reason})
    return Rebuilt(contract, changed, swapped=True)


def differences(contract: Contract, steps: Sequence[Instant]) -> list[str]:
    """The columns of the row that a timeline contradicts, and "segments" when a line segment does."""
    wanted = columns(steps, contract.projected_at)
    found = sorted(name for name, value in wanted.items() if getattr(contract, name) != value)
    return [*found, *(["segments"] if line_segments.differing(contract, steps) else [])]


def database_time() -> datetime:
    """The clock of the log."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cast(datetime, cursor.fetchone()[0])


def verify_log(contract_id: Any) -> int | None:
    """The first `seq` whose hash does not match its row or the row before it; None when all do."""
    previous = ""
    for row in ContractEdit.objects.filter(contract_id=contract_id).order_by("seq"):
        if row.prev_hash != previous or row.hash != digest(row.fingerprint()):
            return row.seq
        previous = row.hash
    return None
