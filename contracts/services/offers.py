"""Offers: made as drafts, published, withdrawn, revised as another version, and looked up for a line.

A seller's key and the platform's may do so; who may not learn of an offer is told that there is none.
"""

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from commerce import states
from commerce.actor import Actor
from commerce.errors import Conflict, FieldError, InvalidInput, NotFound, PermissionDenied, StateConflict
from commerce.outbox import append
from commerce.parties.models import Organization
from contracts.models import Offer, Product, Stock
from contracts.rules import schema
from contracts.rules.offers import Capacity, NewOffer, OfferTerms, offer_faults

EDIT, PUBLISH, WITHDRAW = "contracts.edit_offer", "contracts.publish_offer", "contracts.withdraw_offer"
TERMS = tuple(field.name for field in fields(OfferTerms))
BLOCKED = ("suspended", "rejected")

Json = dict[str, Any]
Body = Json | list[Any]


@transaction.atomic
def create_offer(*, payload: Body, actor: Actor, at: datetime) -> Offer:
    """A draft, version 1. `payload` is a `NewOffer`; InvalidInput names every fault at once.

    Conflict (offer_code_taken) when the seller has an offer of that code.
    """
    actor.require(EDIT)
    new = schema.parse(NewOffer, payload)
    seller_id = new.seller_id or (None if for_platform(actor) else actor.organization_id)
    seller = Organization.objects.filter(pk=seller_id).first() if seller_id else None
    if seller and not for_platform(actor) and seller.pk != actor.organization_id:
        raise PermissionDenied("An offer is made by its seller or by the platform.")
    product = Product.objects.filter(code=new.product).first()
    faults = [
        *seller_faults(seller, "/seller_id"),
        *product_faults(product, new.product, "/product"),
        *offer_faults(new, product.kind if product else ""),
    ]
    refuse(faults if product else [fault for fault in faults if fault.code != "price_model_unfit"])
    stock = Stock.objects.create(capacity=new.capacity)
    offer = Offer(
        seller=seller, product=product, stock=stock, code=new.code, **_columns(new, at), created_at=at
    )
    try:
        with transaction.atomic():
            offer.save(force_insert=True)
    except IntegrityError as error:
        raise Conflict(
            f"{seller} has an offer {new.code}; revise it.", pointer="/code", code="offer_code_taken"
        ) from error
    return offer


@transaction.atomic
def revise_offer(*, offer_id: UUID, changes: Body, actor: Actor, at: datetime) -> Offer:
    """The next version, a draft, with these fields of `OfferTerms` changed; a draft it replaces is withdrawn.

    Only the latest version is revised (StateConflict). InvalidInput (no_effect) when nothing would change.
    """
    actor.require(EDIT)
    offer = own_offer(offer_id, actor)
    stock = Stock.objects.select_for_update(no_key=True).get(pk=offer.stock_id)
    offer.refresh_from_db()
    if (latest := stock.offers.order_by("-version")[0]) != offer:
        raise StateConflict(
            f"{offer} was revised already; revise {latest}.", code="offer_superseded", latest=str(latest.pk)
        )
    columns = _revised(offer, changes)
    if not _differs(offer, columns):
        raise InvalidInput("Nothing would change.", code="no_effect")
    if offer.status == Offer.Status.DRAFT:
        _withdraw(offer, actor, at, f"Revised as version {offer.version + 1}.")
    return Offer.objects.create(
        seller_id=offer.seller_id,
        product=offer.product,
        stock=stock,
        code=offer.code,
        version=offer.version + 1,
        supersedes=offer,
        **columns,
        created_at=at,
    )


@transaction.atomic
def publish_offer(*, offer_id: UUID, actor: Actor, at: datetime, reason: str = "") -> Offer:
    """Let lines be sold on it; the version that was live until now is withdrawn."""
    actor.require(PUBLISH)
    offer = own_offer(offer_id, actor)
    Stock.objects.select_for_update(no_key=True).get(pk=offer.stock_id)
    refuse([*seller_faults(offer.seller, ""), *product_faults(offer.product, offer.product.code, "")])
    if offer.valid_to and offer.valid_to <= at:
        raise Conflict(f"{offer} was valid until {offer.valid_to:%Y-%m-%d %H:%M} UTC.", code="offer_expired")
    before = Offer.objects.filter(stock=offer.stock_id, status=Offer.Status.LIVE).exclude(pk=offer.pk).first()
    if before and offer.status == Offer.Status.DRAFT:
        _withdraw(before, actor, at, f"Superseded by version {offer.version}.")
    return states.transition(offer, "publish", actor=actor, at=at, reason=reason, published_at=at)


@transaction.atomic
def withdraw_offer(*, offer_id: UUID, actor: Actor, at: datetime, reason: str) -> Offer:
    """No new line may use it; what was sold or is held on it goes on."""
    return _withdraw(own_offer(offer_id, actor), actor, at, reason)


@transaction.atomic
def set_capacity(*, offer_id: UUID, capacity: int | None, actor: Actor, at: datetime) -> Stock:
    """How many units there are in all, for every version; None for no limit.

    Conflict (capacity_in_use) when more are reserved.
    """
    actor.require(EDIT)
    offer = own_offer(offer_id, actor)
    wanted = schema.parse(Capacity | None, capacity, pointer="/capacity")  # type: ignore[arg-type]
    stock = Stock.objects.select_for_update(no_key=True).get(pk=offer.stock_id)
    taken = stock.held + stock.committed
    if wanted is not None and wanted < taken:
        raise Conflict(
            f"{taken} units of {offer.code} are reserved.",
            pointer="/capacity",
            code="capacity_in_use",
            taken=taken,
        )
    if wanted == stock.capacity:
        raise InvalidInput("Nothing would change.", code="no_effect")
    payload = {**offer.event_payload(), "capacity_before": stock.capacity, "capacity": wanted}
    stock.capacity = wanted
    stock.save(update_fields=["capacity"])
    append("offer", offer.pk, "offer.capacity_changed", payload, at=at, actor=actor)
    return stock


def for_platform(actor: Actor) -> bool:
    """Whether the actor is of the platform, or no organization's."""
    return actor.organization_id is None or actor.organization_id == Organization.objects.platform().pk


def own_offer(offer_id: UUID, actor: Actor) -> Offer:
    """The offer, for its seller or the platform. NotFound where the actor may not know of it."""
    offer = Offer.objects.select_related("seller", "product", "stock").filter(pk=offer_id).first()
    own = offer is not None and (for_platform(actor) or offer.seller_id == actor.organization_id)
    if offer is None or not (own or offer.status == Offer.Status.LIVE):
        raise NotFound(f"There is no offer {offer_id}.")
    if not own:
        raise PermissionDenied("An offer is changed by its seller or by the platform.")
    return offer


def would_revise(offer: Offer, changes: Body) -> bool:
    """Whether another version would come of these changes. InvalidInput as `revise_offer`."""
    return _differs(offer, _revised(offer, changes))


def as_json(offer: Offer) -> Json:
    """The terms of a version as somebody would send them."""
    columns = {name: getattr(offer, name) for name in TERMS}
    price = {name: value for name, value in offer.price.items() if name != "currency"}
    return {name: schema.dump(value) for name, value in {**columns, "price": price}.items()}


def sale_fault(offer: Offer, at: datetime, pointer: str) -> FieldError | None:
    """Why no new line may be sold on the offer at `at`."""
    if offer.status != Offer.Status.LIVE:
        words = "has been withdrawn" if offer.status == Offer.Status.WITHDRAWN else "is not published"
        return FieldError(pointer, "offer_withdrawn", f"{offer} {words}.")
    if at < offer.valid_from:
        return FieldError(
            pointer, "offer_not_yet_valid", f"{offer} is valid from {offer.valid_from:%Y-%m-%d %H:%M}."
        )
    if offer.valid_to and at >= offer.valid_to:
        return FieldError(
            pointer, "offer_expired", f"{offer} was valid until {offer.valid_to:%Y-%m-%d %H:%M} UTC."
        )
    if not offer.product.active:
        return FieldError(pointer, "product_inactive", f"{offer.product} is no longer offered.")
    return next(iter(seller_faults(offer.seller, pointer)), None)


def seller_faults(seller: Organization | None, pointer: str) -> list[FieldError]:
    if seller is None or not seller.has_role("seller"):
        return [FieldError(pointer, "unknown_seller", "There is no such seller.")]
    if seller.onboarding_status in BLOCKED:
        return [FieldError(pointer, "seller_blocked", f"{seller} is {seller.onboarding_status}.")]
    return []


def product_faults(product: Product | None, code: str, pointer: str) -> list[FieldError]:
    if product is None:
        return [FieldError(pointer, "unknown_product", f"There is no product {code!r}.")]
    if not product.active:
        return [FieldError(pointer, "product_inactive", f"{product.name} is no longer offered.")]
    return []


def refuse(faults: list[FieldError]) -> None:
    """InvalidInput with all of them, if there are any."""
    if faults:
        raise schema.invalid(faults)


def _withdraw(offer: Offer, actor: Actor, at: datetime, reason: str) -> Offer:
    return states.transition(offer, "withdraw", actor=actor, at=at, reason=reason, withdrawn_at=at)


def _revised(offer: Offer, changes: Body) -> Mapping[str, Any]:
    if not isinstance(changes, dict):
        raise InvalidInput("Must be an object.", code="invalid_type")
    unknown = [
        FieldError(f"/{name}", "unknown_field", "Not a known field.") for name in changes.keys() - {*TERMS}
    ]
    refuse(unknown)
    terms = schema.parse(OfferTerms, {**as_json(offer), **changes})
    refuse(list(offer_faults(terms, offer.product.kind)))
    return _columns(terms, offer.valid_from)


def _differs(offer: Offer, columns: Mapping[str, Any]) -> bool:
    return any(getattr(offer, name) != value for name, value in columns.items())


def _columns(terms: OfferTerms, since: datetime) -> Mapping[str, Any]:
    return {
        **{name: getattr(terms, name) for name in TERMS},
        "price": schema.dump(terms.price) | {"currency": terms.currency},
        "valid_from": terms.valid_from or since,
    }
