"""What an offer says, and which prices hold together: shared by offers and by lines sold without one."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from commerce.errors import FieldError
from commerce.money import CURRENCIES
from contracts.rules.schema import Between, Pattern, Text
from contracts.rules.state import Currency, Price

MAX_CAPACITY = 1_000_000_000

Slug = Annotated[str, Pattern(r"[a-z0-9][a-z0-9_-]{0,59}", "1 to 60 lower-case letters, digits, - and _")]
Code = Annotated[str, Pattern(r"[A-Za-z0-9_.-]{0,60}", "at most 60 letters, digits, dots, - and _")]
Prose = Annotated[str, Pattern(r"(?:[^\x00-\x08\x0b-\x1f]){0,5000}", "at most 5,000 characters")]
Months = Annotated[int, Between(1, 120)]
Capacity = Annotated[int, Between(0, MAX_CAPACITY)]

TIERED = frozenset({"graduated", "volume"})


@dataclass(frozen=True, kw_only=True)
class OfferTerms:
    """What a version of an offer says. Lines may be added from `valid_from` (now) until `valid_to`."""

    currency: Currency
    price: Price
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    min_term_months: Months | None = None
    sla_policy: Code = ""
    tax_code: Code = ""
    terms: Prose = ""


@dataclass(frozen=True, kw_only=True)
class NewOffer(OfferTerms):
    """An offer as it is first made. `code` is the seller's own name for it; without `capacity` there is no
    limit; a seller's key may leave `seller_id` out."""

    seller_id: UUID | None = None
    code: Slug
    product: Text
    capacity: Capacity | None = None


def offer_faults(terms: OfferTerms, kind: str, *, pointer: str = "") -> Iterator[FieldError]:
    """What does not hold together in an offer of a product of that kind."""
    if terms.currency not in CURRENCIES:
        yield FieldError(
            f"{pointer}/currency", "unknown_currency", f"{terms.currency} is not a currency we handle."
        )
    if terms.price.currency not in ("", terms.currency):
        yield FieldError(
            f"{pointer}/price/currency",
            "currency_mismatch",
            f"The offer is in {terms.currency}, the price in {terms.price.currency}.",
        )
    if terms.valid_from and terms.valid_to and terms.valid_to <= terms.valid_from:
        yield FieldError(f"{pointer}/valid_to", "validity_empty", "It ends before it begins.")
    yield from price_faults(terms.price, kind, pointer=f"{pointer}/price")


def price_faults(price: Price, kind: str, *, pointer: str) -> Iterator[FieldError]:
    """What of a price does not fit the product's kind, or itself."""
    if (price.model == "one_off") != (kind == "one_off") or (price.model == "flat" and kind == "usage"):
        yield FieldError(
            f"{pointer}/model", "price_model_unfit", f"A {kind} product cannot be priced {price.model}."
        )
    if price.model in TIERED:
        yield from _tier_faults(price, pointer)
        if price.rate:
            yield FieldError(f"{pointer}/rate", "tiers_invalid", "Each tier has its own rate.")
    elif price.tiers:
        yield FieldError(f"{pointer}/tiers", "tiers_invalid", f"A {price.model} price has no tiers.")
    if (price.model == "package") != bool(price.package_size):
        yield FieldError(
            f"{pointer}/package_size",
            "package_size_invalid",
            "A package price has a package_size above zero, others have none.",
        )
    if price.min_minor is not None and price.max_minor is not None and price.min_minor > price.max_minor:
        yield FieldError(f"{pointer}/max_minor", "bounds_invalid", "The maximum is below the minimum.")


def _tier_faults(price: Price, pointer: str) -> Iterator[FieldError]:
    if not price.tiers:
        yield FieldError(f"{pointer}/tiers", "tiers_invalid", f"A {price.model} price needs tiers.")
    last = len(price.tiers) - 1
    reached = Decimal(0)
    for i, tier in enumerate(price.tiers):
        at = f"{pointer}/tiers/{i}/up_to"
        if (tier.up_to is None) != (i == last):
            words = "The last tier is open" if i == last else "Only the last tier is open"
            yield FieldError(at, "tiers_invalid", f"{words}: leave its up_to empty.")
        elif tier.up_to is not None:
            if tier.up_to <= reached:
                yield FieldError(at, "tiers_invalid", f"Tiers ascend: more than {reached} is expected.")
            reached = tier.up_to
