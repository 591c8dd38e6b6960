"""What must agree for a contract in the database: a preview with recording, and everything with its log."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from commerce.actor import Actor
from commerce.console.models import ReviewItem
from commerce.errors import CommerceError
from commerce.models import TransitionLog
from commerce.outbox.models import OutboxEvent
from contracts import services
from contracts.models import Contract, LineSegment
from contracts.rules import fold
from contracts.rules.lines import Difference, differences
from contracts.rules.state import difference
from contracts.services import BatchResult, EditResult, OperationRequest, Preview, projection, schedule
from tests.contracts.conftest import OPERATOR

# (operation, payload, days from now at which it is to take effect; None leaves it to the payload or to now)
Asked = tuple[str, dict[str, Any], int | None]
Outcome = Preview | BatchResult | EditResult | CommerceError
reached: Counter[tuple[str, str]] = Counter()


def outcome(work: Callable[[], Any]) -> Outcome:
    try:
        with transaction.atomic():
            return work()
    except CommerceError as error:
        return error


def told(error: CommerceError) -> tuple[Any, ...]:
    faults = [(fault.pointer, fault.code, fault.detail) for fault in error.errors]
    return type(error), error.code, error.detail, faults, error.extra


def requests(asked: Sequence[Asked], at: datetime) -> list[OperationRequest]:
    return [
        OperationRequest(operation, payload, None if days is None else at + timedelta(days=days), "A test")
        for operation, payload, days in asked
    ]


def record(
    contract: Contract, wanted: list[OperationRequest], actor: Actor, at: datetime, key: str
) -> Outcome:
    given: dict[str, Any] = {
        "contract_id": contract.pk, "actor": actor, "at": at, "idempotency_key": key,
        "expected_version": contract.version,
    }  # fmt: skip
    if len(wanted) == 1:
        return outcome(lambda: services.record_edit(**vars(wanted[0]), **given))
    return outcome(lambda: services.record_edits(operations=wanted, **given))


def preview(contract: Contract, wanted: list[OperationRequest], actor: Actor, at: datetime) -> Outcome:
    given: dict[str, Any] = {
        "contract_id": contract.pk, "actor": actor, "at": at, "expected_version": contract.version
    }  # fmt: skip
    if len(wanted) == 1:
        return outcome(lambda: services.preview_edit(**vars(wanted[0]), **given))
    return outcome(lambda: services.preview_edits(operations=wanted, **given))


def written(contract: Contract) -> list[Any]:
    """Everything that recording writes of a contract."""
    mine = {"aggregate_id": str(contract.pk)}
    return [
        Contract.objects.values().get(pk=contract.pk),
        list(contract.edits.order_by("seq").values_list("hash", flat=True)),
        list(contract.schedule.order_by("id").values()),
        list(LineSegment.objects.filter(contract=contract).order_by("id").values_list("id", "known")),
        list(OutboxEvent.objects.filter(**mine).order_by("id").values_list("id", flat=True)),
        TransitionLog.objects.count(),
        ReviewItem.objects.count(),
    ]


def billed(contract: Contract, since: datetime, at: datetime, known_at: datetime) -> list[Difference]:
    """What the bills of those periods say now and did not as known then, each read from the database."""
    edits = services.contract_edits(contract.pk)
    was, will = (fold.timeline(edits, known)[-1].state for known in (known_at, None))
    start = min(was.period(since).start, will.period(since).start)
    end = will.period(will.period(max(at, since)).end).end
    then, now = (
        services.desired(contract.pk, start=start, end=end, at=at, known_at=known)
        for known in (known_at, None)
    )
    return differences(then, now)


def preview_and_record(
    contract: Contract, asked: Sequence[Asked], person: Actor, at: datetime, key: str
) -> None:
    contract.refresh_from_db()
    wanted = requests(asked, at)
    before, log = written(contract), services.contract_edits(contract.pk)
    said = preview(contract, wanted, person, at)
    assert written(contract) == before, "a preview left something behind"
    done = record(contract, wanted, person, at, key)
    if isinstance(done, CommerceError) and done.code == "approval_required":
        assert written(contract) == before
        if isinstance(said, Preview):
            assert done.extra["why"] == said.approval
            reached["approval", "asked"] += 1
        done = record(contract, wanted, OPERATOR, at, key)
    elif isinstance(said, Preview):
        assert said.approval == []
    how = "single" if len(asked) == 1 else "batch"
    if isinstance(said, CommerceError):
        assert isinstance(done, CommerceError), f"refused in the preview only: {told(said)}"
        assert told(said) == told(done)
        assert written(contract) == before, "a refusal left something behind"
        reached[how, "refused"] += 1
        return
    assert isinstance(said, Preview)
    assert not isinstance(done, CommerceError), f"refused when recorded only: {told(done)}"
    reached.update((name, "recorded") for name in (how, *(operation for operation, _, _ in asked)))
    rows = done.edits if isinstance(done, BatchResult) else [done.edit]
    known_at = log[-1].recorded_at
    after = services.contract_edits(contract.pk)
    since = min(row.effective_at for row in rows)
    assert [(plan.edit.seq, plan.edit.operation, plan.edit.effective_at) for plan in said.planned] == [
        (row.seq, row.operation, row.effective_at) for row in rows
    ]
    old, new = fold.fold(after, valid_at=since, known_at=known_at), fold.fold(after, valid_at=since)
    assert said.effective_at == since
    assert (said.before.hash, said.after.hash) == (old.hash, new.hash)
    assert (said.changed_before, said.changed_after) == difference(old, new)
    for instants, known in ((said.was, known_at), (said.timeline, None)):
        folded = [(step.at, step.state.hash) for step in fold.timeline(after, known) if step.at >= since]
        assert [(step.at, step.state.hash) for step in instants] == folded
    assert said.bills == billed(contract, since, at, known_at)
    reached["bills", "changed"] += bool(said.bills)
    recorded = written(contract)
    again = record(contract, wanted, person, at, key)  # the version is stale by now: the key comes first
    assert not isinstance(again, CommerceError)
    assert again.replayed
    assert written(contract) == recorded


def agrees_with_its_log(contract: Contract, at: datetime) -> None:
    """The row, the segments, the schedule, the hashes and the events are those of the log."""
    contract.refresh_from_db()
    log = services.contract_edits(contract.pk)
    assert projection.differences(contract, fold.timeline(log)) == []
    assert contract.state_hash == fold.fold(log, valid_at=contract.projected_at).hash
    assert services.verify_log(contract.pk) is None
    assert schedule.differing(contract, log, at) == []
    rows = list(contract.edits.order_by("seq"))
    assert [row.seq for row in rows] == list(range(1, contract.version + 1))
    last = Counter({row.batch_id: row.seq for row in rows if row.batch_id})
    of_the_clock = ("contract.took_effect", "contract.expired")
    events = OutboxEvent.objects.filter(aggregate_id=str(contract.pk)).exclude(type__in=of_the_clock)
    payloads = [event.payload for event in events.order_by("sequence") if event.payload.get("edits")]
    assert [(one["edits"], one["operation"], one["from_version"], one["to_version"]) for one in payloads] == [
        ([row.seq], row.operation, row.seq - 1 - (row.batch_pos or 0), last[row.batch_id] or row.seq)
        for row in rows
    ]
