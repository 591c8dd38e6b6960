"""Drafts of batches: an operator's own list of operations for one contract, kept until it is recorded."""

from collections.abc import Sequence

from django.db import transaction

from commerce.actor import Actor
from commerce.errors import InvalidInput, NotFound
from contracts.models import Contract, EditDraft
from contracts.rules.operations import named
from contracts.services.edits import MAX_BATCH, OperationRequest


def operations_of(*, contract: Contract, actor: Actor) -> list[OperationRequest]:
    """What the actor has collected for this contract, in order."""
    draft = EditDraft.objects.filter(contract=contract, owner=str(actor)).first()
    return [OperationRequest.from_json(item) for item in draft.operations] if draft else []


def size(*, contract: Contract, actor: Actor) -> int:
    return len(operations_of(contract=contract, actor=actor))


@transaction.atomic
def add(*, contract: Contract, request: OperationRequest, actor: Actor) -> EditDraft:
    """Put an operation at the end. Whether it may be recorded is asked when the whole is previewed."""
    actor.require(named(request.operation).permission)
    draft, _ = EditDraft.objects.select_for_update(no_key=True).get_or_create(
        contract=contract, owner=str(actor)
    )
    if len(draft.operations) >= MAX_BATCH:
        raise InvalidInput(f"A batch has at most {MAX_BATCH} operations.", code="limit_exceeded")
    return _kept(draft, [*draft.operations, request.to_json()])


@transaction.atomic
def move(*, contract: Contract, place: int, by: int, actor: Actor) -> EditDraft:
    """Move the operation at `place` (from 0) up or down by so many."""
    draft = _locked(contract, actor, place)
    operations = list(draft.operations)
    operations.insert(max(0, place + by), operations.pop(place))
    return _kept(draft, operations)


@transaction.atomic
def remove(*, contract: Contract, place: int, actor: Actor) -> EditDraft:
    draft = _locked(contract, actor, place)
    return _kept(draft, [*draft.operations[:place], *draft.operations[place + 1 :]])


def clear(*, contract: Contract, actor: Actor) -> None:
    EditDraft.objects.filter(contract=contract, owner=str(actor)).delete()


def _locked(contract: Contract, actor: Actor, place: int) -> EditDraft:
    rows = EditDraft.objects.select_for_update(no_key=True)
    draft = rows.filter(contract=contract, owner=str(actor)).first()
    if draft is None or not 0 <= place < len(draft.operations):
        raise NotFound("The draft has no such operation.")
    return draft


def _kept(draft: EditDraft, operations: Sequence[object]) -> EditDraft:
    draft.operations = list(operations)
    draft.save(update_fields=["operations", "updated_at"])
    return draft
