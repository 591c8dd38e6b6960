"""Line segments: what each line earned when, as known when, is the same in SQL as in the fold."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import DatabaseError, IntegrityError, transaction

from contracts import services
from contracts.models import Contract, LineSegment
from contracts.rules.segments import billable_segments
from tests.contracts.conftest import MARCH, OPERATOR, edit

pytestmark = pytest.mark.django_db

TENTH, TWENTIETH = MARCH + timedelta(days=9), MARCH + timedelta(days=19)
LATER = MARCH + timedelta(days=25)


def in_sql(contract: Contract, at: datetime, known_at: datetime | None = None) -> dict[UUID, int]:
    rows = LineSegment.objects.filter(contract=contract, valid__contains=at)
    rows = rows.filter(known__contains=known_at) if known_at else rows.filter(known__upper_inf=True)
    return dict(rows.values_list("line_id", "quantity"))


def in_the_fold(contract: Contract, at: datetime, known_at: datetime | None = None) -> dict[UUID, int]:
    log = services.contract_edits(contract.pk)
    end = at + timedelta(microseconds=1)
    found = billable_segments(log, start=at, end=end, known_at=known_at)
    return {segment.line_id: segment.quantity for segment in found}


def story(contract: Contract, line: UUID) -> Any:
    """An upgrade, a hold that stops billing, a back-dated delta, and a correction of the upgrade."""
    body = {"line_id": str(line)}
    edit(contract, "change_quantity", body | {"quantity": 5}, at=TENTH)
    edit(contract, "suspend", {"reason": "buyer", "billing": "stop"}, at=TWENTIETH)
    edit(contract, "resume", {"reason": "buyer"}, at=TWENTIETH + timedelta(days=2))
    early = MARCH + timedelta(days=4)
    edit(contract, "change_quantity", body | {"delta": 1}, at=LATER, effective_at=early, reason="Forgotten")
    edit(contract, "correct", {"target_seq": 5, "mode": "void"}, at=LATER, reason="Never agreed")
    return edit(contract, "terminate", {"cause": "mutual"}, at=LATER, reason="Over").contract


def test_at_any_two_instants_sql_says_what_the_fold_says(active: Contract, servers: UUID) -> None:
    story(active, servers)
    learned = [row.recorded_at for row in active.edits.order_by("seq")]
    days = [MARCH + timedelta(days=n, hours=h) for n in range(-1, 30) for h in (0, 12)]
    for known_at in learned:
        for day in days:
            assert in_sql(active, day, known_at) == in_the_fold(active, day, known_at), (day, known_at)
    assert {in_sql(active, day).get(servers) for day in days} == {None, 2, 3}


def test_what_was_believed_is_superseded_and_never_changed(active: Contract, servers: UUID) -> None:
    before = set(LineSegment.objects.filter(contract=active).values_list("pk", "valid", "quantity"))
    story(active, servers)
    assert before <= set(LineSegment.objects.filter(contract=active).values_list("pk", "valid", "quantity"))
    row = LineSegment.objects.filter(contract=active).last()
    assert row is not None
    with pytest.raises(DatabaseError), transaction.atomic():
        LineSegment.objects.filter(pk=row.pk).update(quantity=99)
    with pytest.raises(DatabaseError), transaction.atomic():
        row.delete()


def test_a_line_has_no_two_segments_at_one_instant_of_both_clocks(active: Contract, servers: UUID) -> None:
    row = LineSegment.objects.get(contract=active, line_id=servers, known__upper_inf=True)
    row.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save(force_insert=True)
    row.pk, row.line_id = None, UUID(int=7)
    row.save(force_insert=True)


def test_a_segment_that_disagrees_with_the_log_is_found_and_superseded(
    active: Contract, servers: UUID
) -> None:
    false = LineSegment.objects.get(contract=active, line_id=servers, known__upper_inf=True)
    false.pk, false.line_id = None, UUID(int=7)
    false.save(force_insert=True)
    found = services.rebuild_contract(contract_id=active.pk, actor=OPERATOR, dry_run=True)
    assert found.changed == ["segments"]
    assert UUID(int=7) in in_sql(active, LATER)
    services.rebuild_contract(contract_id=active.pk, actor=OPERATOR, accept="A test wrote it")
    assert UUID(int=7) not in in_sql(active, LATER)
    assert services.rebuild_contract(contract_id=active.pk, actor=OPERATOR, dry_run=True).changed == []
