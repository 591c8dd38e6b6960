"""Which rate cards are accepted; a refused one is a 400 that names the card and the rule."""

from decimal import Decimal
from typing import Any

from commerce.sandbox.core import Sandbox
from commerce.sandbox.openmeter.base import amount, bad, one_of, required
from commerce.sandbox.openmeter.catalogue import KEY, find_feature
from commerce.sandbox.store import Row

PRICES = ("flat", "unit", "tiered", "dynamic", "package")


def check_card(sandbox: Sandbox, card: Any, cadence: str) -> None:
    if not isinstance(card, dict):
        raise bad("a rate card must be an object")
    required(card, "type", "key", "name")
    one_of(card, "type", ("flat_fee", "usage_based"))
    for name in ("billingCadence", "price"):
        if name not in card:
            raise bad(f"rate card {card['key']}: {name} is required, null when there is none")
    if not KEY.fullmatch(card["key"]) or len(card["key"]) > 64:
        raise bad(f"rate card key {card['key']} must match ^[a-z0-9]+(?:_[a-z0-9]+)*$, at most 64 of them")
    if card.get("featureKey") not in (None, card["key"]):
        raise bad(f"rate card {card['key']}: key must equal featureKey")
    if card.get("featureKey"):
        find_feature(sandbox, card["featureKey"])
    if card["billingCadence"] not in (None, cadence):
        raise bad(f"rate card {card['key']}: a cadence other than the subscription's is not simulated")
    price, head = card["price"], f"rate card {card['key']}:"
    _check_discounts(head, card, card.get("discounts") or {})
    if not price:
        return
    if card["type"] == "flat_fee" and price.get("type") in PRICES[1:]:
        raise bad(f"{head} a flat fee needs a flat price")
    if card["type"] == "usage_based":
        if price.get("type") == "flat" or card["billingCadence"] is None:
            raise bad(f"{head} a usage price needs a usage price type and a cadence")
        if not card.get("featureKey") or not find_feature(sandbox, card["featureKey"]).get("meterSlug"):
            raise bad(f"{head} a usage price needs a feature with a meter")
    _check_price(head, price)


def _check_discounts(head: str, card: Row, discounts: Row) -> None:
    if unknown := set(discounts) - {"percentage", "usage"}:
        raise bad(f"{head} discounts has no {min(unknown)}")
    if discounts and not card["price"]:
        raise bad(f"{head} discounts need a price")
    if discounts.get("percentage") is not None:
        percentage = discounts["percentage"].get("percentage")
        number = isinstance(percentage, int | float) and not isinstance(percentage, bool)
        if not number or not 0 <= percentage <= 100:
            raise bad(f"{head} discounts.percentage must lie between 0 and 100")
    if discounts.get("usage") is not None:
        if card["type"] == "flat_fee":
            raise bad(f"{head} a usage discount is not for flat fees")
        if not amount(discounts["usage"].get("quantity"), f"{head} discounts.usage.quantity"):
            raise bad(f"{head} discounts.usage.quantity must be positive")


def _check_price(head: str, price: Row) -> None:
    required(price, "type")
    one_of(price, "type", PRICES)
    one_of(price, "paymentTerm", ("in_advance", "in_arrears"))
    if price["type"] in ("flat", "unit", "package"):
        amount(price.get("amount"), f"{head} price.amount")
    if price["type"] == "package" and not amount(
        price.get("quantityPerPackage"), f"{head} price.quantityPerPackage"
    ):
        raise bad(f"{head} price.quantityPerPackage must be positive")
    bounds = {
        name: amount(price[name], f"{head} price.{name}")
        for name in ("minimumAmount", "maximumAmount", "multiplier")
        if price.get(name) is not None
    }
    if bounds.get("minimumAmount", 0) > bounds.get("maximumAmount", Decimal("Infinity")):
        raise bad(f"{head} minimum amount must be less than or equal to maximum amount")
    if price["type"] == "tiered":
        _check_tiers(head, price)


def _check_tiers(head: str, price: Row) -> None:
    one_of(price, "mode", ("graduated", "volume"))
    tiers = price.get("tiers")
    if not price.get("mode") or not tiers or not all(isinstance(tier, dict) for tier in tiers):
        raise bad(f"{head} a tiered price needs a mode and tiers")
    below = Decimal(0)
    for index, tier in enumerate(tiers):
        at, last = f"{head} tiers/{index}", index == len(tiers) - 1
        if (tier.get("upToAmount") is None) != last:
            raise bad(f"{at} the last tier is open, and only the last")
        if not last:
            top = amount(tier["upToAmount"], f"{at} upToAmount")
            if top <= below:
                raise bad(f"{at} upToAmount must be larger than that of the tier before")
            below = top
        for name in ("flatPrice", "unitPrice"):
            if name not in tier:
                raise bad(f"{at} {name} is required, null when there is none")
            if tier[name] is not None:
                required(tier[name], "type")
                one_of(tier[name], "type", ("flat",) if name == "flatPrice" else ("unit",))
                amount(tier[name].get("amount"), f"{at} {name}.amount")
        if tier["flatPrice"] is None and tier["unitPrice"] is None:
            raise bad(f"{at} at least one price component is required")
