"""What a renewal asks of the world outside the contract: time to opt out, supply, and others' guards."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from commerce.actor import Actor
from commerce.errors import Conflict
from commerce.parties.models import Organization
from contracts.models import Contract, Offer, ScheduledCommand
from contracts.rules.operations.renew import Renew
from contracts.rules.schema import dump
from contracts.rules.state import ContractState
from contracts.services import edits
from contracts.services.admission import Planned, acts_for_platform, place
from contracts.services.offers import BLOCKED
from contracts.services.terms import platform_terms

SCHEDULER = Actor.system("contracts.scheduler")

Json = dict[str, Any]
RenewalGuard = Callable[[Contract, ContractState, Renew, datetime], None]
_guards: list[RenewalGuard] = []


def register_renewal_guard(guard: RenewalGuard) -> None:
    """Ask `guard(contract, state, payload, effective_at)` before a contract is renewed; it raises to refuse.

    Not where the platform renews by hand: it may know better. A buyer that renews by its own key is asked.
    `state` is the contract's just before. What an automatic renewal is refused for is put before a person,
    and the contract's end policy holds.
    """
    if guard not in _guards:
        _guards.append(guard)


def at_list_prices(contract: Contract, payload: Json) -> Json:
    """The payload of a renewal that takes prices from the catalogue, with them; any other as it is.

    A line that was sold on an offer costs what that offer's live version asks; others keep their price.
    """
    state = contract.current
    if state.terms.renewal.uplift.kind != "catalog":
        return payload
    live = _live_offers(state)
    listed = [
        {"line_id": str(line.line_id), "price": dump(live[line.offer_id].asked)}
        for line in state.live_lines
        if line.offer_id in live
    ]
    return {**payload, "reprice": listed}


def _check_renewals(
    *, contract: Contract, planned: Sequence[Planned], actor: Actor, at: datetime, **_: Any
) -> None:
    for i, plan in enumerate(planned):
        payload = plan.edit.payload
        if not isinstance(payload, Renew) or payload.mode == "lapse":
            continue
        _check_reinstatement(contract, at)
        if payload.trigger == "auto" and actor != SCHEDULER:  # which does nothing before it is due
            _check_window(contract, payload, at, f"{place(planned, i)}/trigger")
        if payload.trigger == "manual" and acts_for_platform(actor):
            continue
        _check_supply(plan.before)
        for guard in _guards:
            guard(contract, plan.before, payload, plan.edit.effective_at)


def _check_reinstatement(contract: Contract, at: datetime) -> None:
    if contract.status != Contract.Status.EXPIRED or contract.end_at is None:
        return
    days = platform_terms(at).limits.reinstate_days
    if at > contract.end_at + timedelta(days=days):
        raise Conflict(
            f"It expired more than {days} days ago, on {contract.end_at:%Y-%m-%d}; make another contract.",
            code="reinstate_too_late",
        )


def _check_window(contract: Contract, payload: Renew, at: datetime, pointer: str) -> None:
    waiting = contract.schedule.filter(
        kind=ScheduledCommand.Kind.RENEWAL,
        status=ScheduledCommand.Status.PLANNED,
        payload__term_no=payload.term_no or contract.current.term_no + 1,
        due_at__gt=at,
    ).first()
    if waiting:
        raise Conflict(
            f"The buyer may opt out until {waiting.due_at:%Y-%m-%d %H:%M} UTC.",
            pointer=pointer,
            code="notice_window_open",
        )


def _check_supply(state: ContractState) -> None:
    blocked = Organization.objects.filter(pk__in=state.seller_ids, onboarding_status__in=BLOCKED)
    selling = {line.seller_id for line in state.live_lines}
    for seller in blocked:
        if seller.pk in selling:
            raise Conflict(
                f"{seller} is {seller.onboarding_status} and supplies no further term.",
                code="seller_declined",
            )
    live = _live_offers(state)
    for line in state.live_lines:
        if line.offer_id and line.offer_id not in live:
            raise Conflict(
                f"The offer on which {line.product_code} was sold is withdrawn.", code="capacity_withdrawn"
            )


def _live_offers(state: ContractState) -> Mapping[Any, Offer]:
    """By the offer on which a line was sold: the version of it that is live."""
    sold_on = {line.offer_id for line in state.live_lines if line.offer_id}
    if not sold_on:
        return {}
    found = Offer.objects.filter(status=Offer.Status.LIVE, stock__offers__in=sold_on)
    by_stock = {offer.stock_id: offer for offer in found}
    stocks = Offer.objects.filter(pk__in=sold_on).values_list("pk", "stock_id")
    return {pk: by_stock[stock_id] for pk, stock_id in stocks if stock_id in by_stock}


edits.register_edit_hook(_check_renewals)
