"""What `manage.py verify` asks of contracts: the row is the fold of its log, the log is whole.

The fold runs over at most 500 contracts, all of them when there are no more, else the newest and a
random stretch; what SQL can say is asked of every row.
"""

import random
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from django.db import connection, models
from django.db.models import Exists, OuterRef

from commerce import clock
from commerce.invariants import Finding, invariant
from contracts.models import Contract, Reservation, ScheduledCommand, UnitStatus
from contracts.rules import fold
from contracts.rules.fold import Edit
from contracts.rules.operations.base import RUNNING
from contracts.rules.upcasting import UnknownVersion
from contracts.services import projection, reservations, schedule, service_status, terms

SAMPLE = 500
OVERDUE = timedelta(days=1)

M = TypeVar("M", bound=models.Model)


@invariant("I7", "A contract's row and its line segments are the fold of its log")
def projections_are_folds() -> Iterator[Finding]:
    for contract, log in _logs():
        if wrong := projection.differences(contract, fold.timeline(log)):
            yield Finding(
                f"contract:{contract.pk}",
                f"{contract.number} differs from its log in {', '.join(wrong)}; run contracts_rebuild.",
                {"columns": wrong},
            )


@invariant("I7", "This release can read every log")
def logs_can_be_read() -> Iterator[Finding]:
    for contract in _sample():
        try:
            projection.load_edits(contract.pk)
        except UnknownVersion as newer:
            yield Finding(f"contract:{contract.pk}", f"{contract.number}: {newer}")


@invariant("I7", "A contract's version counts its edits, without gaps")
def logs_have_no_gaps() -> Iterator[Finding]:
    for id_, number, version, edits, last in _rows(
        """SELECT c.id, c.number, c.version, count(e.seq), COALESCE(max(e.seq), 0)
           FROM contracts_contract c LEFT JOIN contracts_contractedit e ON e.contract_id = c.id
           GROUP BY c.id HAVING count(e.seq) <> c.version OR COALESCE(max(e.seq), 0) <> c.version LIMIT 100"""
    ):
        yield Finding(
            f"contract:{id_}", f"{number} is at version {version} with {edits} edits up to #{last}."
        )


@invariant("I10", "Every edit matches its hash and the hash before it")
def logs_are_untouched() -> Iterator[Finding]:
    for contract in _sample():
        if seq := projection.verify_log(contract.pk):
            yield Finding(f"contract:{contract.pk}", f"Edit #{seq} of {contract.number} was tampered with.")


@invariant("I10", "Every version of the platform's terms matches its hash, and none is missing")
def platform_terms_are_untouched() -> Iterator[Finding]:
    if broken := terms.broken_version():
        yield Finding("platform_terms", broken)


@invariant("I5", "What is due has taken effect")
def overdue_contracts() -> Iterator[Finding]:
    for contract in Contract.objects.due(clock.now() - OVERDUE)[:100]:
        yield Finding(f"contract:{contract.pk}", f"{contract.number} should have changed and has not.")


@invariant("I7", "A stock's counts are the sums of its reservations, and within its capacity")
def stocks_are_counted() -> Iterator[Finding]:
    for id_, capacity, held, committed, sum_held, sum_committed in _rows(
        """SELECT s.id, s.capacity, s.held, s.committed, t.held, t.committed
           FROM contracts_stock s CROSS JOIN LATERAL (
             SELECT COALESCE(sum(r.quantity) FILTER (WHERE r.status = 'held'), 0) AS held,
                    COALESCE(sum(r.quantity) FILTER (WHERE r.status = 'committed'), 0) AS committed
             FROM contracts_offer o JOIN contracts_reservation r ON r.offer_id = o.id
             WHERE o.stock_id = s.id AND r.status IN ('held', 'committed')) t
           WHERE (s.held, s.committed) <> (t.held, t.committed) OR t.held + t.committed > s.capacity
           LIMIT 100"""
    ):
        yield Finding(
            f"stock:{id_}",
            f"{held} held and {committed} committed of {capacity} are counted, "
            f"{sum_held} and {sum_committed} are reserved.",
        )


@invariant("I7", "A signed contract's line has reserved what it has of an offer")
def lines_have_their_units() -> Iterator[Finding]:
    lines = {
        (contract.pk, line.line_id, line.offer_id): (contract.number, line.quantity)
        for contract in _sample()
        if contract.status in reservations.SIGNED
        for line in contract.current.live_lines
        if line.offer_id and line.quantity
    }
    rows = Reservation.objects.open().filter(contract_id__in={contract_id for contract_id, _, _ in lines})
    reserved = {
        (row.contract_id, row.line_id, row.offer_id): row.quantity
        for row in rows
        if row.status == "committed"
    }
    for key, (number, quantity) in lines.items():
        if reserved.get(key, 0) < quantity:
            yield Finding(
                f"contract:{key[0]}",
                f"Line {key[1]} of {number} has {quantity} units and reserved {reserved.get(key, 0)}.",
            )


@invariant("I7", "A unit's status is the fold of its reports")
def units_are_folds() -> Iterator[Finding]:
    for unit in service_status.differing(_some(UnitStatus)):
        yield Finding(
            f"unit_status:{unit.pk}", f"Unit {unit.unit_id} differs from its reports; run contracts_service."
        )
    for contract_id, unit_id in _rows(
        """SELECT DISTINCT e.contract_id, e.unit_id FROM contracts_serviceevent e
           WHERE NOT EXISTS (
             SELECT FROM contracts_unitstatus u
              WHERE (u.contract_id, u.line_id, u.unit_id) = (e.contract_id, e.line_id, e.unit_id))
           LIMIT 100"""
    ):
        yield Finding(
            f"contract:{contract_id}",
            f"Unit {unit_id} was reported and has no status; run contracts_service.",
        )


@invariant("I5", "What is due of units was folded")
def overdue_units() -> Iterator[Finding]:
    for unit in UnitStatus.objects.due(clock.now() - OVERDUE)[:100]:
        yield Finding(f"unit_status:{unit.pk}", f"Unit {unit.unit_id} should have changed and has not.")


@invariant("I5", "What was scheduled has been done")
def overdue_commands() -> Iterator[Finding]:
    overdue = ScheduledCommand.objects.due(clock.now() - OVERDUE).select_related("contract")
    for command in overdue.order_by("due_at")[:100]:
        said = f": {command.last_error}" if command.last_error else "."
        yield Finding(
            f"scheduled_command:{command.pk}", f"{command} was due {command.due_at:%Y-%m-%d %H:%M} UTC{said}"
        )


@invariant("I5", "A term that is over was renewed, or somebody is asked")
def forgotten_renewals() -> Iterator[Finding]:
    open_ones = ScheduledCommand.objects.filter(
        contract=OuterRef("pk"),
        kind=ScheduledCommand.Kind.RENEWAL,
        status__in=(ScheduledCommand.Status.PLANNED, ScheduledCommand.Status.BLOCKED),
    )
    over = Contract.objects.filter(
        status__in=RUNNING, end_at__lt=clock.now() - OVERDUE, state__terms__renewal__auto=True
    ).exclude(state__holds__contains=[{"extends_term": True}])
    for contract in over.filter(~Exists(open_ones))[:100]:
        yield Finding(f"contract:{contract.pk}", f"The term of {contract} is over, and nobody renews it.")


@invariant("I7", "The schedule of a contract is what its log implies")
def schedules_follow_logs() -> Iterator[Finding]:
    for contract, log in _logs():
        if keys := schedule.differing(contract, log, contract.projected_at):
            yield Finding(
                f"contract:{contract.pk}",
                f"{contract} is not scheduled as its log says; run contracts_schedule plan {contract}.",
                {"keys": keys},
            )


def _logs() -> Iterator[tuple[Contract, list[Edit]]]:
    """The sample's logs, but for those that only a newer release can read."""
    for contract in _sample():
        with suppress(UnknownVersion):
            yield contract, projection.load_edits(contract.pk)


def _sample() -> list[Contract]:
    return _some(Contract)


def _some(model: type[M]) -> list[M]:
    """All rows when they are few; else half the newest, half anywhere in the table."""
    rows = model._default_manager
    newest = list(rows.order_by("-id")[: SAMPLE + 1])
    if len(newest) <= SAMPLE:
        return newest
    oldest = rows.order_by("id").values_list("pk", flat=True)[0]
    # Ids are ordered by time.
    somewhere = UUID(int=random.randint(oldest.int, newest[-1].pk.int))  # noqa: S311
    return [*newest[: SAMPLE // 2], *rows.filter(pk__gte=somewhere).order_by("id")[: SAMPLE // 2]]


def _rows(sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()
