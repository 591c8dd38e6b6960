"""Units that contracts take of offers: held while a contract is drawn up, committed once it is signed.

What a line needs is the most that it has in any state to come, so that units planned for later are there
and those of a line that ends later are not given away before. Stocks are locked in the order of their ids.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from celery.exceptions import SoftTimeLimitExceeded
from django.db import transaction

from commerce import states
from commerce.actor import Actor
from commerce.errors import Conflict, NotFound, StateConflict
from commerce.outbox import append
from contracts.models import Contract, Offer, Reservation, ReservedUnit, Stock
from contracts.rules import fold
from contracts.rules.fold import Instant
from contracts.rules.state import FINAL
from contracts.services import projection
from contracts.services.offers import sale_fault

log = logging.getLogger(__name__)

HOLD = timedelta(days=14)
SIGNED = frozenset({"pending_activation", "active", "suspended"})
RELEASE = "contracts.release_reservation"
CLOCK = Actor.system("contracts.reservations")

Key = tuple[UUID, UUID]
"""A line and an offer."""


@dataclass(frozen=True)
class Need:
    """Units that a line takes of an offer, and those of them that it names."""

    quantity: int = 0
    unit_ids: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Needs:
    """Of a contract from an instant on, with its status then."""

    status: str = ""
    units: dict[Key, Need] = field(default_factory=dict)


def hold_for_edit(
    *,
    contract: Contract,
    was: Sequence[Instant],
    will: Sequence[Instant],
    planned: Sequence[Any],
    actor: Actor,
    at: datetime,
    **_: Any,
) -> None:
    """Take for a locked contract what an edit asks for, and give back what it frees.

    Conflict: capacity_unavailable, unit_unavailable; for a line that holds nothing yet, or no more, also
    offer_withdrawn, offer_not_yet_valid, offer_expired, product_inactive, seller_blocked. Lines that the
    edit leaves as they were are asked for again only when the contract's status moves.
    """
    had, now = _needs(was, at), _needs(will, at)
    if had == now or not (had.units or now.units):
        return
    moved = had.status != now.status
    asked = {key for key, need in now.units.items() if moved or need != had.units.get(key)}
    places = _places(planned)
    _fit(contract, now, asked, places, actor=actor, at=at, moved=moved)


@transaction.atomic
def refit_reservations(*, contract_id: UUID, actor: Actor, at: datetime) -> None:
    """Give back what a contract needs no longer and commit what was signed; nothing more is taken."""
    if not Reservation.objects.open().filter(contract=contract_id).exists():
        return
    contract = projection.lock(contract_id)
    _fit(
        contract, _needs(fold.timeline(projection.load_edits(contract.pk)), at), set(), {}, actor=actor, at=at
    )


@transaction.atomic
def release_hold(*, reservation_id: UUID, actor: Actor, at: datetime, reason: str) -> Reservation:
    """Free held units before their time. StateConflict for committed ones: edits free those."""
    actor.require(RELEASE)
    row = Reservation.objects.select_related("offer").filter(pk=reservation_id).first()
    if row is None:
        raise NotFound(f"There is no reservation {reservation_id}.")
    _lock([row.offer])
    row.refresh_from_db()
    if row.status != Reservation.Status.HELD:
        raise StateConflict(f"The units are {row.status}.", code="units_not_held", state=row.status)
    return _release(row, actor, at, reason)


def release_expired_holds(*, at: datetime, limit: int = 200) -> int:
    """Free holds whose time is over, each in its own transaction; returns how many."""
    count = 0
    for row in Reservation.objects.expired(at).select_related("offer")[:limit]:
        try:
            with transaction.atomic():
                _lock([row.offer])
                row.refresh_from_db()
                if row.status == Reservation.Status.HELD and row.expires_at and row.expires_at <= at:
                    _release(row, CLOCK, at, "The hold expired.")
                    count += 1
        except SoftTimeLimitExceeded:  # the next one would be killed with its worker
            raise
        except Exception:  # the tick's edge: one broken row must not hold up the others
            log.exception("a hold could not be released", extra={"reservation": str(row.pk)})
    return count


def _needs(steps: Sequence[Instant], at: datetime) -> Needs:
    if not steps or not any(line.offer_id for line in steps[-1].state.lines.values()):
        return Needs()
    present = fold.at_instant(steps, at)
    units: dict[Key, Need] = {}
    for state in (present, *(step.state for step in steps if step.at > at)):
        if state.status in FINAL:
            continue
        for line in state.live_lines:
            if line.offer_id and line.quantity:
                key = (line.line_id, line.offer_id)
                known = units.get(key, Need())
                units[key] = Need(
                    max(known.quantity, line.quantity), known.unit_ids | frozenset(line.unit_ids)
                )
    return Needs(present.status, units)


def _places(planned: Sequence[Any]) -> dict[UUID, str]:
    """By line, the pointer to what asks for its units."""
    found: dict[UUID, str] = {}
    for i, plan in enumerate(planned):
        payload = plan.edit.payload
        prefix = f"/operations/{i}/payload" if len(planned) > 1 else "/payload"
        if plan.edit.operation == "create":
            found |= {line.line_id: f"/lines/{n}/quantity" for n, line in enumerate(payload.lines)}
        elif line_id := getattr(payload, "line_id", None):
            by_delta = getattr(payload, "delta", None) is not None
            found[line_id] = f"{prefix}/{'delta' if by_delta else 'quantity'}"
    return found


def _fit(
    contract: Contract,
    needs: Needs,
    asked: set[Key],
    places: dict[UUID, str],
    *,
    actor: Actor,
    at: datetime,
    moved: bool = False,
) -> None:
    """Give back first, so that units may move from one line to another in one edit."""
    ids = set(Reservation.objects.open().filter(contract=contract).values_list("offer_id", flat=True))
    offers = Offer.objects.select_related("seller", "product").in_bulk(ids | {key[1] for key in needs.units})
    stocks = _lock(offers.values())
    rows = {
        (row.line_id, row.offer_id): row
        for row in Reservation.objects.open().filter(contract=contract).select_related("offer")
    }
    for key, row in sorted(rows.items()):
        need = needs.units.get(key, Need())
        stock = stocks[row.offer.stock_id]
        if need.quantity < row.quantity:
            _taken(stock, row, need.quantity - row.quantity)
            _shrink(row, need.quantity, actor, at)
        ReservedUnit.objects.filter(reservation=row).exclude(unit_id__in=need.unit_ids).delete()
    for key, need in sorted(needs.units.items(), key=lambda item: item[0]):
        held = rows.get(key)
        if key in asked:
            place = places.get(key[0], "")
            held = _take(contract, key, need, held, offers, stocks, place, actor=actor, at=at)
        if held is None:
            continue
        if held.status == Reservation.Status.HELD:
            if needs.status in SIGNED:
                states.transition(held, "commit", actor=actor, at=at, committed_at=at)
            elif moved:
                held.expires_at = at + HOLD
                held.save(update_fields=["expires_at"])


def _take(
    contract: Contract,
    key: Key,
    need: Need,
    row: Reservation | None,
    offers: dict[UUID, Offer],
    stocks: dict[UUID, Stock],
    place: str,
    *,
    actor: Actor,
    at: datetime,
) -> Reservation:
    """The reservation with at least what is needed."""
    line_id, offer_id = key
    offer = offers[offer_id]
    more = need.quantity - (row.quantity if row else 0)
    if row is None and not _was_committed(contract, key) and (fault := sale_fault(offer, at, place)):
        raise Conflict(
            fault.detail, code=fault.code, pointer=place, line_id=str(line_id), offer_id=str(offer_id)
        )
    stock = stocks[offer.stock_id]
    if more > 0 and stock.free is not None and stock.free < more:
        raise Conflict(
            f"{stock.free} units of {offer.code} are free, {more} more are asked for.",
            code="capacity_unavailable",
            pointer=place,
            line_id=str(line_id),
            offer_id=str(offer_id),
            free=stock.free,
        )
    if row is None:
        row = Reservation.objects.create(
            offer=offer,
            contract=contract,
            line_id=line_id,
            quantity=need.quantity,
            held_at=at,
            expires_at=at + HOLD,
        )
    elif more > 0:
        row.quantity = need.quantity
        row.save(update_fields=["quantity"])
    if more > 0:
        _taken(stock, row, more)
        _announce("units.reserved", row, more, "", actor, at)
    _take_units(row, need, place)
    return row


def _was_committed(contract: Contract, key: Key) -> bool:
    """Whether the line was signed on the offer: then it may come back, on sale or not."""
    line_id, offer_id = key
    was = Reservation.objects.filter(contract=contract, line_id=line_id, offer_id=offer_id)
    return was.filter(committed_at__isnull=False).exists()


def _take_units(row: Reservation, need: Need, place: str) -> None:
    """Name units as the line's; one that another line has, or that was taken at once, is refused."""
    if not need.unit_ids:
        return
    seller_id = row.offer.seller_id
    known = set(row.units.values_list("unit_id", flat=True))
    ReservedUnit.objects.bulk_create(
        [
            ReservedUnit(reservation=row, seller_id=seller_id, unit_id=id_)
            for id_ in sorted(need.unit_ids - known)
        ],
        ignore_conflicts=True,
    )
    named = set(row.units.values_list("unit_id", flat=True))
    if missing := sorted(need.unit_ids - named):
        raise Conflict(
            f"Taken already: {', '.join(missing)}.",
            code="unit_unavailable",
            pointer=place.rpartition("/")[0],
            line_id=str(row.line_id),
            units=missing,
        )


def _shrink(row: Reservation, quantity: int, actor: Actor, at: datetime) -> None:
    if quantity == 0:
        _release(row, actor, at, "The line needs them no longer.")
        return
    freed = row.quantity - quantity
    row.quantity = quantity
    row.save(update_fields=["quantity"])
    _announce("units.released", row, freed, "The line needs fewer.", actor, at)


def _release(row: Reservation, actor: Actor, at: datetime, reason: str) -> Reservation:
    released = states.transition(row, "release", actor=actor, at=at, reason=reason, released_at=at)
    released.units.all().delete()
    _announce("units.released", released, released.quantity, reason, actor, at)
    return released


def _lock(offers: Iterable[Offer]) -> dict[UUID, Stock]:
    ids = {offer.stock_id for offer in offers}
    rows = Stock.objects.select_for_update(no_key=True).filter(pk__in=ids).order_by("pk")
    return {row.pk: row for row in rows}


def _taken(stock: Stock, row: Reservation, more: int) -> None:
    """Follow in memory what the database counts."""
    if row.status == Reservation.Status.HELD:
        stock.held += more
    else:
        stock.committed += more


def _announce(type_: str, row: Reservation, units: int, reason: str, actor: Actor, at: datetime) -> None:
    open_ = row.status in Reservation.OPEN
    append(
        "reservation",
        row.pk,
        type_,
        {
            "reservation_id": str(row.pk),
            "offer_id": str(row.offer_id),
            "seller_id": str(row.offer.seller_id),
            "contract_id": str(row.contract_id),
            "line_id": str(row.line_id),
            "units": units,
            "reserved": row.quantity if open_ else 0,
            "reason": reason,
        },
        at=at,
        actor=actor,
    )
