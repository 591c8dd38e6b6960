"""Products, and looking up what a payload names: products and the parties of a contract."""

from collections.abc import Iterable, Set
from dataclasses import replace
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from django.db import connection

from commerce.actor import Actor
from commerce.errors import FieldError
from commerce.parties.models import Organization
from contracts.models import Contract, Offer, Product
from contracts.rules.offers import price_faults
from contracts.rules.operations.create import Create
from contracts.rules.operations.products import AddProduct
from contracts.rules.operations.terminate import Terminate
from contracts.rules.operations.terms import ChangeTerms, with_defaults
from contracts.rules.operations.transfer import TransferOwnership
from contracts.rules.state import NOBODY, Kind
from contracts.services.offers import product_faults, refuse, sale_fault
from contracts.services.terms import platform_terms


def ensure_product(*, code: str, name: str, kind: str, unit: str, actor: Actor, meter: str = "") -> Product:
    """The product with that code, made when there is none; an existing one is left as it is."""
    actor.require("contracts.add_product")
    return Product.objects.get_or_create(
        code=code, defaults={"name": name, "kind": kind, "unit": unit, "meter": meter}
    )[0]


def resolve(payload: Any, *, at: datetime, sold: Set[UUID] = frozenset()) -> Any:
    """Fill in what the server knows. InvalidInput names every product, offer and party that is unknown.

    `sold` are offers that need not be on sale: an edit that is corrected was sold on them.
    """
    if isinstance(payload, AddProduct):
        line, faults = _resolve_lines((payload,), "", at, sold)
        refuse(faults)
        return line[0]
    if isinstance(payload, TransferOwnership):
        refuse(_successor_faults(payload))
        return payload
    if isinstance(payload, ChangeTerms):
        partner_id = payload.settlement.values.get("partner_id")
        refuse(_party_faults([("/settlement/partner_id", partner_id, "partner")] if partner_id else []))
        return with_defaults(payload, platform_terms(at))
    if isinstance(payload, Terminate):
        return replace(payload, recorded_at=at)
    if not isinstance(payload, Create):
        return payload
    lines, faults = _resolve_lines(payload.lines, "/lines/{}", at, sold, payload.currency)
    parties = [("/buyer_id", payload.buyer_id, "buyer")]
    settlement = payload.terms.settlement
    if settlement.partner_id:
        parties.append(("/terms/settlement/partner_id", settlement.partner_id, "partner"))
    refuse([*_party_faults(parties), *faults])
    return replace(payload, number=payload.number or next_number(at.year), lines=lines)


def offers_of(payload: Any) -> frozenset[UUID]:
    """The offers that lines of a stored payload were sold on."""
    lines = getattr(payload, "lines", (payload,))
    return frozenset(line.offer_id for line in lines if getattr(line, "offer_id", None))


def next_number(year: int) -> str:
    """The next free contract number, e.g. C-2027-0001."""
    while True:
        with connection.cursor() as cursor:
            cursor.execute("SELECT nextval('contracts_number')")
            number = f"C-{year}-{cursor.fetchone()[0]:04d}"
        if not Contract.objects.filter(number=number).exists():
            return number


def _resolve_lines(
    lines: tuple[AddProduct, ...], pointer: str, at: datetime, sold: Set[UUID], currency: str = ""
) -> tuple[tuple[AddProduct, ...], list[FieldError]]:
    offers = Offer.objects.select_related("product", "seller").in_bulk(
        {line.offer_id for line in lines if line.offer_id}
    )
    products = Product.objects.in_bulk(
        {line.product for line in lines if not line.offer_id}, field_name="code"
    )
    faults: list[FieldError] = []
    resolved = []
    sellers = []
    for i, line in enumerate(lines):
        place = pointer.format(i)
        if line.offer_id:
            offer = offers.get(line.offer_id)
            line, found = _from_offer(line, offer, place, at, currency, sold)
            product = offer.product if offer else None
        else:
            product = products.get(line.product)
            found = _missing(line, place) or product_faults(product, line.product, f"{place}/product")
            if line.seller_id != NOBODY:
                sellers.append((f"{place}/seller_id", line.seller_id, "seller"))
        if product:
            line = replace(line, kind=cast(Kind, product.kind), unit=product.unit, meter=product.meter)
            if line.price:
                found = [*found, *price_faults(line.price, product.kind, pointer=f"{place}/price")]
        faults += found
        resolved.append(line)
    return tuple(resolved), [*faults, *_party_faults(sellers)]


def _missing(line: AddProduct, place: str) -> list[FieldError]:
    given = {
        "product": line.product != "",
        "seller_id": line.seller_id != NOBODY,
        "price": line.price is not None,
    }
    words = "Needed where no offer is named."
    return [FieldError(f"{place}/{name}", "required", words) for name, there in given.items() if not there]


def _from_offer(
    line: AddProduct, offer: Offer | None, place: str, at: datetime, currency: str, sold: Set[UUID]
) -> tuple[AddProduct, list[FieldError]]:
    """The line as the offer says. What is said beside it has to be the same."""
    if offer is None or offer.status == Offer.Status.DRAFT:
        return line, [FieldError(f"{place}/offer_id", "unknown_offer", f"There is no offer {line.offer_id}.")]
    asked = offer.asked
    own = {name: getattr(offer, name) for name in ("min_term_months", "sla_policy", "tax_code")}
    own = {name: said for name, said in own.items() if said}
    fault = None if offer.pk in sold else sale_fault(offer, at, f"{place}/offer_id")
    faults = [fault] if fault else []
    if currency not in ("", offer.currency):
        words = f"The contract is in {currency}, the offer in {offer.currency}."
        faults.append(FieldError(f"{place}/offer_id", "currency_mismatch", words))
    price = replace(line.price, currency=line.price.currency or offer.currency) if line.price else asked
    differing = {
        "product": line.product not in ("", offer.product.code),
        "seller_id": line.seller_id not in (NOBODY, offer.seller_id),
        "price": price != asked,
        **{name: bool(getattr(line, name)) and getattr(line, name) != said for name, said in own.items()},
    }
    faults += [
        FieldError(
            f"{place}/{name}",
            f"offer_{name.removesuffix('_id')}_differs",
            f"{offer} has another; leave it out.",
        )
        for name, differs in differing.items()
        if differs
    ]
    taken: dict[str, Any] = {
        "product": offer.product.code, "seller_id": offer.seller_id, "price": asked, **own,
    }  # fmt: skip
    return replace(line, **taken), faults


def _party_faults(wanted: Iterable[tuple[str, UUID, str]]) -> list[FieldError]:
    wanted = list(wanted)
    found = Organization.objects.in_bulk({id_ for _, id_, _ in wanted})
    faults = []
    for pointer, id_, role in wanted:
        organization = found.get(id_)
        if organization is None or not organization.has_role(role):
            faults.append(FieldError(pointer, f"unknown_{role}", f"There is no {role} {id_}."))
        elif organization.onboarding_status in ("suspended", "rejected"):
            faults.append(
                FieldError(pointer, f"{role}_blocked", f"{organization} is {organization.onboarding_status}.")
            )
    return faults


def _successor_faults(payload: TransferOwnership) -> list[FieldError]:
    """Who takes a party's place is verified: there is no time left to do it in once it bills or is paid."""
    pointer, id_ = "/new_party_id", payload.new_party_id
    faults = _party_faults([(pointer, id_, payload.party)])
    if not faults and not Organization.objects.filter(pk=id_, onboarding_status="active").exists():
        faults.append(FieldError(pointer, "party_not_verified", f"The {payload.party} is not verified yet."))
    return faults
