"""Products, and looking up what a payload names: products and the parties of a contract."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from django.db import connection

from commerce.actor import Actor
from commerce.errors import FieldError
from commerce.parties.models import Organization
from contracts.models import Contract, Product
from contracts.rules import schema
from contracts.rules.operations.create import Create
from contracts.rules.operations.products import AddProduct
from contracts.rules.operations.terms import ChangeTerms, with_defaults
from contracts.rules.operations.transfer import TransferOwnership
from contracts.rules.state import Kind
from contracts.services.terms import platform_terms


def ensure_product(*, code: str, name: str, kind: str, unit: str, actor: Actor, meter: str = "") -> Product:
    """The product with that code, made when there is none; an existing one is left as it is."""
    actor.require("contracts.add_product")
    return Product.objects.get_or_create(
        code=code, defaults={"name": name, "kind": kind, "unit": unit, "meter": meter}
    )[0]


def resolve(payload: Any, *, at: datetime) -> Any:
    """Fill in what the server knows. InvalidInput names every product and party that is unknown."""
    if isinstance(payload, AddProduct):
        line, faults = _resolve_lines((payload,), "")
        _refuse(faults)
        return line[0]
    if isinstance(payload, TransferOwnership):
        _refuse(_successor_faults(payload))
        return payload
    if isinstance(payload, ChangeTerms):
        partner_id = payload.settlement.values.get("partner_id")
        _refuse(_party_faults([("/settlement/partner_id", partner_id, "partner")] if partner_id else []))
        return with_defaults(payload, platform_terms(at))
    if not isinstance(payload, Create):
        return payload
    lines, faults = _resolve_lines(payload.lines, "/lines/{}")
    parties = [("/buyer_id", payload.buyer_id, "buyer")]
    settlement = payload.terms.settlement
    if settlement.partner_id:
        parties.append(("/terms/settlement/partner_id", settlement.partner_id, "partner"))
    _refuse([*_party_faults(parties), *faults])
    return replace(
        payload,
        number=payload.number or next_number(at.year),
        lines=lines,
    )


def next_number(year: int) -> str:
    """The next free contract number, e.g. C-2027-0001."""
    while True:
        with connection.cursor() as cursor:
            cursor.execute("SELECT nextval('contracts_number')")
            number = f"C-{year}-{cursor.fetchone()[0]:04d}"
        if not Contract.objects.filter(number=number).exists():
            return number


def _resolve_lines(
    lines: tuple[AddProduct, ...], pointer: str
) -> tuple[tuple[AddProduct, ...], list[FieldError]]:
    products = Product.objects.in_bulk({line.product for line in lines}, field_name="code")
    faults: list[FieldError] = []
    resolved = []
    for i, line in enumerate(lines):
        at = f"{pointer.format(i)}/product"
        product = products.get(line.product)
        if product is None:
            faults.append(FieldError(at, "unknown_product", f"There is no product {line.product!r}."))
        elif not product.active:
            faults.append(FieldError(at, "product_inactive", f"{product.name} is no longer offered."))
        else:
            line = replace(line, kind=cast(Kind, product.kind), unit=product.unit, meter=product.meter)
        resolved.append(line)
    sellers = [(f"{pointer.format(i)}/seller_id", line.seller_id, "seller") for i, line in enumerate(lines)]
    return tuple(resolved), [*faults, *_party_faults(sellers)]


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


def _refuse(faults: list[FieldError]) -> None:
    if faults:
        raise schema.invalid(faults)
