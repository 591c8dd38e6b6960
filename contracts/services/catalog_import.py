"""Products and offers from files: all rows or none, every fault at once, and the same file twice is once.

What a row does not say is left alone.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction

from commerce.actor import Actor
from commerce.errors import CommerceError, FieldError, InvalidInput, PermissionDenied
from commerce.parties.models import Organization
from contracts.models import Offer, Product
from contracts.rules import schema
from contracts.rules.offers import Slug
from contracts.rules.schema import Pattern, Text
from contracts.services import offers
from contracts.services.catalog_files import COLUMNS, PRICE, TIERS_HINT, Json, Kind, Row, tiers_of

ADD, CHANGE = "contracts.add_product", "contracts.change_product"
FIXED = ("kind", "unit", "meter")

_CONTROL = re.compile(r"\\(?:u00[01][0-9a-f]|u007f|b|f)")  # as JSON writes them

What = Literal["added", "changed", "unchanged"]


@dataclass(frozen=True)
class Change:
    """What a row does. Of an offer also its seller's slug, the version it leads to, and whether it is
    published by this."""

    row: int
    code: str
    what: What
    fields: tuple[str, ...] = ()
    seller: str = ""
    version: int | None = None
    published: bool = False


@dataclass(frozen=True)
class Imported:
    """What a file did, row by row."""

    kind: Kind
    changes: list[Change] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        found = [change.what for change in self.changes]
        return {what: found.count(what) for what in ("added", "changed", "unchanged")}

    def to_json(self) -> Json:
        return {"kind": self.kind, **self.counts, "rows": [asdict(change) for change in self.changes]}


@dataclass(frozen=True)
class ProductRow:
    """A product as a file says it."""

    code: Slug
    name: Annotated[str, Pattern(r"[^\x00-\x1f]{1,120}", "1 to 120 characters")]
    kind: Literal["recurring", "usage", "one_off"]
    unit: Text
    description: Annotated[str, Pattern(r"[^\x00]{0,2000}", "at most 2,000 characters")] = ""
    meter: Annotated[str, Pattern(r"[^\x00-\x1f]{0,64}", "at most 64 characters")] = ""
    active: bool = True


@transaction.atomic
def import_catalogue(
    *, kind: Kind, rows: Sequence[Row], actor: Actor, at: datetime, publish: bool = False
) -> Imported:
    """Bring the catalogue to what the rows say. InvalidInput (import_invalid) lists every fault by row and
    column; then nothing is written. New offers and new versions are drafts unless `publish`.
    """
    faults = [fault for row in rows for fault in _unprintable(row)]
    if faults:
        raise InvalidInput("Some cells hold what is no text.", code="import_invalid", errors=faults)
    rows = _once(rows, kind, faults)
    if kind == "products":
        changes = _import_products(rows, faults, actor)
    else:
        changes = _import_offers(rows, faults, actor, at, publish)
    if faults:
        words = f"{len(faults)} faults; nothing was imported." if len(faults) > 1 else faults[0].detail
        raise InvalidInput(words, code="import_invalid", errors=faults)
    return Imported(kind, changes)


def preview_import(**arguments: Any) -> Imported:
    """`import_catalogue` with the same arguments and the same refusals, rolled back."""
    with transaction.atomic():
        result = import_catalogue(**arguments)
        transaction.set_rollback(True)
    return result


def _import_products(rows: Sequence[Row], faults: list[FieldError], actor: Actor) -> list[Change]:
    codes = [str(row.values.get("code")) for row in rows]
    known = Product.objects.select_for_update(no_key=True).in_bulk(codes, field_name="code")
    found = []
    for row, code in zip(rows, codes, strict=True):
        with _told_of(row, faults):
            found.append(_import_product(row, known.get(code), actor))
    return found


def _import_product(row: Row, product: Product | None, actor: Actor) -> Change:
    before = {name: getattr(product, name) for name in COLUMNS["products"]} if product else {}
    wanted = schema.parse(ProductRow, {**before, **row.values})
    values = {item.name: getattr(wanted, item.name) for item in fields(ProductRow)}
    changed = tuple(name for name in values if product and before[name] != values[name])
    if fixed := [name for name in changed if name in FIXED]:
        raise schema.invalid(
            [FieldError(f"/{name}", "product_fixed", "Lines were sold as it is.") for name in fixed]
        )
    actor.require(CHANGE if product else ADD)
    if product and not changed:
        return Change(row.number, wanted.code, "unchanged")
    saved = product or Product()
    for name, value in values.items():
        setattr(saved, name, value)
    try:
        saved.full_clean(validate_unique=False)
    except ValidationError as error:
        raise schema.invalid(
            [
                FieldError("/meter" if name == "__all__" else f"/{name}", "invalid", " ".join(words))
                for name, words in error.message_dict.items()
            ]
        ) from error
    saved.save()
    return Change(row.number, wanted.code, "changed" if product else "added", changed)


def _import_offers(
    rows: Sequence[Row], faults: list[FieldError], actor: Actor, at: datetime, publish: bool
) -> list[Change]:
    actor.require(offers.EDIT)
    sellers = _sellers(rows, actor)
    versions = Offer.objects.select_related("seller", "product", "stock").filter(
        seller_id__in={seller.pk for seller in sellers.values()},
        code__in={str(row.values.get("code")) for row in rows},
    )
    latest = {(offer.seller_id, offer.code): offer for offer in versions.order_by("version")}
    found = []
    for row in rows:
        with _told_of(row, faults):
            seller = sellers.get(_seller_of(row))
            if seller is None:
                name = "seller" if "seller" in row.values else "seller_id"
                raise InvalidInput("There is no such seller.", pointer=f"/{name}", code="unknown_seller")
            offer = latest.get((seller.pk, str(row.values.get("code"))))
            found.append(_import_offer(row, seller, offer, actor, at, publish))
    return found


def _import_offer(
    row: Row, seller: Organization, offer: Offer | None, actor: Actor, at: datetime, publish: bool
) -> Change:
    values = _said(row, offer)
    what: What
    changed: tuple[str, ...] = ()
    if offer is None:
        what = "added"
        offer = offers.create_offer(payload={**values, "seller_id": str(seller.pk)}, actor=actor, at=at)
    else:
        offer, changed = _revised(offer, values, actor, at)
        what = "changed" if changed else "unchanged"
    published = publish and offer.status == Offer.Status.DRAFT
    if published:
        offers.publish_offer(offer_id=offer.pk, actor=actor, at=at)
        what = "added" if what == "added" else "changed"
    return Change(row.number, offer.code, what, changed, seller.slug, offer.version, published)


def _revised(offer: Offer, values: Json, actor: Actor, at: datetime) -> tuple[Offer, tuple[str, ...]]:
    """The offer, or its next version, as the row says it, and what the row changed."""
    changed: list[str] = []
    values = {name: value for name, value in values.items() if name != "code"}
    if values.pop("product", offer.product.code) != offer.product.code:
        raise InvalidInput("Another product is another code.", pointer="/product", code="product_fixed")
    if "capacity" in values and (capacity := values.pop("capacity")) != offer.stock.capacity:
        offers.set_capacity(offer_id=offer.pk, capacity=capacity, actor=actor, at=at)
        changed.append("capacity")
    before = offers.as_json(offer)
    if offers.would_revise(offer, values):
        offer = offers.revise_offer(offer_id=offer.pk, changes=values, actor=actor, at=at)
    after = offers.as_json(offer)
    return offer, (*changed, *(name for name in after if after[name] != before[name]))


def _said(row: Row, offer: Offer | None) -> Json:
    """What the row says, as the payload of an offer."""
    values = {name: value for name, value in row.values.items() if name not in ("seller", "seller_id")}
    if values.get("valid_from", "") is None:
        del values["valid_from"]
    if not row.flat:
        return values
    price = offers.as_json(offer)["price"] if offer else {}
    for name in PRICE:
        if name in values:
            price[name] = values.pop(name)
    if isinstance(text := price.get("tiers"), str):
        price["tiers"] = tiers_of(text)
        if price["tiers"] is None:
            raise InvalidInput(TIERS_HINT, pointer="/price/tiers", code="tiers_unreadable")
    return {**values, "price": {name: value for name, value in price.items() if value is not None}}


def _sellers(rows: Sequence[Row], actor: Actor) -> dict[str, Organization]:
    """By slug and by id; to a seller's own key there is no other, and it need not be named."""
    if actor.organization_id and not offers.for_platform(actor):
        own = Organization.objects.get(pk=actor.organization_id)
        return {"": own, own.slug: own, str(own.pk): own}
    named = {_seller_of(row) for row in rows}
    found = Organization.objects.filter(slug__in=named)
    ids = [id_ for name in named if (id_ := _uuid(name))]
    return {seller.slug: seller for seller in found} | {
        str(seller.pk): seller for seller in Organization.objects.filter(pk__in=ids)
    }


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _seller_of(row: Row) -> str:
    return str(row.values.get("seller") or row.values.get("seller_id") or "")


def _once(rows: Sequence[Row], kind: Kind, faults: list[FieldError]) -> list[Row]:
    """The rows without those that say again what one before them says."""
    seen: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (_seller_of(row) if kind == "offers" else "", str(row.values.get("code")))
        first = seen.setdefault(key, row)
        if first is not row:
            words = f"{key[1]} stands in row {first.number} already."
            faults.append(FieldError(row.place("/code"), "row_repeated", words))
    return list(seen.values())


def _unprintable(row: Row) -> Iterator[FieldError]:
    """Control characters, which no column can hold; a line may end and a tab may stand in any."""
    for name, value in row.values.items():
        if _CONTROL.search(json.dumps(value).replace("\\\\", "")):
            yield FieldError(
                row.place(f"/{name}"), "control_character", "There is a control character in it."
            )


@contextmanager
def _told_of(row: Row, faults: list[FieldError]) -> Iterator[None]:
    """Add what the row is refused for to the faults, in the row's own columns."""
    try:
        with transaction.atomic():
            yield
    except PermissionDenied:
        raise
    except CommerceError as error:
        told = error.errors or [FieldError("", error.code, error.detail)]
        faults += [FieldError(row.place(fault.pointer), fault.code, fault.detail) for fault in told]
