"""Billing periods and prices, exactly: pure functions on instants, fractions and decimals.

Periods repeat from the anchor by the cadence; a month that is too short clamps, and the anchor's day
comes back. A line is rounded once, half up, to the currency's minor unit.
"""

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from typing import Any

from commerce.sandbox.clock import parse

EXPONENTS = {"JPY": 0, "KRW": 0, "CLP": 0, "VND": 0, "BHD": 3, "KWD": 3, "TND": 3}
CADENCES = ("P1D", "P1W", "P2W", "P4W", "P1M", "P3M", "P6M", "P12M", "P1Y")
Interval = tuple[datetime, datetime]


def add_duration(start: datetime, duration: str, times: int = 1) -> datetime:
    """`start` plus a multiple of an ISO 8601 duration; ValueError when it is none."""
    match = re.fullmatch(
        r"P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", duration
    )
    if not match or duration.endswith(("P", "T")):
        raise ValueError(f"{duration!r} is not an ISO 8601 duration")
    years, months, weeks, days, hours, minutes, seconds = (int(part or 0) * times for part in match.groups())
    months += years * 12
    rest = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    day = min(start.day, calendar.monthrange(year, month + 1)[1])
    return start.replace(year=year, month=month + 1, day=day) + rest


def period_at(anchor: datetime, cadence: str, at: datetime) -> Interval:
    """The period [from, to) of the recurrence that holds `at`."""
    length = add_duration(anchor, cadence) - anchor
    number = (at - anchor) // length
    while add_duration(anchor, cadence, number) > at:
        number -= 1
    while add_duration(anchor, cadence, number + 1) <= at:
        number += 1
    return add_duration(anchor, cadence, number), add_duration(anchor, cadence, number + 1)


@dataclass(frozen=True)
class Due:
    """What one version of a subscription item owes for one period, and when that is invoiced."""

    subscription: dict[str, Any]
    phase: dict[str, Any]
    item: dict[str, Any]
    billing_period: Interval
    service_period: Interval
    share: Fraction  # of the full price
    invoice_at: datetime

    @property
    def key(self) -> str:
        start = max(self.service_period[0], self.billing_period[0])
        return f"{self.subscription['id']}/{self.item['id']}/{start.isoformat()}"

    @property
    def metered(self) -> bool:
        return bool(self.item["_rateCard"]["price"]["type"] != "flat")


def dues(
    subscription: dict[str, Any], until: datetime, end_mode: str = "bill_actual_period"
) -> Iterator[Due]:
    """Every charge of a subscription whose invoice instant is at or before `until`."""
    for phase in subscription["_phases"]:
        for item in phase["_items"]:
            if item["_rateCard"].get("price"):
                yield from _item_dues(subscription, phase, item, until, end_mode)


def _item_dues(
    subscription: dict[str, Any], phase: dict[str, Any], item: dict[str, Any], until: datetime, end_mode: str
) -> Iterator[Due]:
    anchor, cadence = parse(subscription["billingAnchor"]), subscription["billingCadence"]
    start, card = parse(item["activeFrom"]), item["_rateCard"]
    ends = [parse(row["activeTo"]) for row in (subscription, phase, item) if row.get("activeTo")]
    end = min(ends, default=None)
    in_advance = (
        card["price"]["type"] == "flat" and card["price"].get("paymentTerm", "in_advance") == "in_advance"
    )
    if end is not None and end <= start:
        return
    if card.get("billingCadence") is None:
        if start <= until:
            whole = _clip(period_at(anchor, cadence, start), subscription, phase)
            yield Due(subscription, phase, item, whole, (start, whole[1]), Fraction(1), start)
        return
    full = period_at(anchor, cadence, start)
    while full[0] <= until and (end is None or full[0] < end):
        billing = _clip(full, subscription, phase)
        service = max(full[0], start), min(full[1], end or full[1])
        invoice_at = service[0] if in_advance else max(billing[1], service[1])
        if invoice_at <= until:
            ended = subscription.get("activeTo") and service[1] == parse(subscription["activeTo"])
            counted = full[1] if ended and end_mode == "bill_full_period" else service[1]
            share = Fraction((counted - service[0]) // _TICK, (full[1] - full[0]) // _TICK)
            prorated = subscription["proRatingConfig"]["enabled"]
            yield Due(
                subscription, phase, item, billing, service, share if prorated else Fraction(1), invoice_at
            )
        full = period_at(anchor, cadence, full[1])


_TICK = timedelta(microseconds=1)


def _clip(period: Interval, *bounds: dict[str, Any]) -> Interval:
    start, end = period
    for bound in bounds:
        start = max(start, parse(bound["activeFrom"]))
        end = min(end, parse(bound["activeTo"])) if bound.get("activeTo") else end
    return start, end


@dataclass(frozen=True)
class Rated:
    amount: Decimal
    discount: Decimal

    @property
    def total(self) -> Decimal:
        return self.amount - self.discount


def rate(
    price: dict[str, Any], quantity: Decimal, share: Fraction, discounts: dict[str, Any], currency: str
) -> Rated:
    """Price times quantity; only flat prices are prorated. Rounded once, before the percentage discount."""
    with localcontext() as context:
        context.prec = 60
        free = Decimal((discounts.get("usage") or {}).get("quantity", "0"))
        exact = (
            _flat(price, share)
            if price["type"] == "flat"
            else _usage(price, max(quantity - free, Decimal(0)))
        )
        amount = round_minor(exact, currency)
        percentage = Fraction(str((discounts.get("percentage") or {}).get("percentage", 0)))
        return Rated(amount, round_minor(Fraction(amount) * percentage / 100, currency))


def round_minor(value: Fraction, currency: str) -> Decimal:
    exponent = EXPONENTS.get(currency, 2)
    scaled = value * 10**exponent
    with localcontext() as context:
        context.prec = 60
        units = (Decimal(scaled.numerator) / Decimal(scaled.denominator)).quantize(Decimal(1), ROUND_HALF_UP)
        return units.scaleb(-exponent)


def _flat(price: dict[str, Any], share: Fraction) -> Fraction:
    return Fraction(price["amount"]) * share


def _usage(price: dict[str, Any], quantity: Decimal) -> Fraction:
    units, kind = Fraction(quantity), price["type"]
    if kind == "unit":
        value = units * Fraction(price["amount"])
    elif kind == "package":
        packages = -(-units // Fraction(price["quantityPerPackage"]))
        value = packages * Fraction(price["amount"])
    elif kind == "dynamic":
        value = units * Fraction(price.get("multiplier", "1"))
    elif price["mode"] == "volume":
        value = _volume(price["tiers"], units)
    else:
        value = _graduated(price["tiers"], units)
    if price.get("minimumAmount"):
        value = max(value, Fraction(price["minimumAmount"]))
    if price.get("maximumAmount"):
        value = min(value, Fraction(price["maximumAmount"]))
    return value


def _volume(tiers: list[dict[str, Any]], units: Fraction) -> Fraction:
    for tier in tiers:
        if tier.get("upToAmount") is None or units <= Fraction(tier["upToAmount"]):
            return _tier(tier, units)
    return Fraction(0)


def _graduated(tiers: list[dict[str, Any]], units: Fraction) -> Fraction:
    value, below = Fraction(0), Fraction(0)
    for tier in tiers:
        top = units if tier.get("upToAmount") is None else min(units, Fraction(tier["upToAmount"]))
        if top > below or (below == 0 and units == 0):
            value += _tier(tier, top - below)
        below = max(below, top)
        if top == units:
            break
    return value


def _tier(tier: dict[str, Any], units: Fraction) -> Fraction:
    flat, unit = (tier.get(name) or {"amount": "0"} for name in ("flatPrice", "unitPrice"))
    return Fraction(flat["amount"]) + units * Fraction(unit["amount"])


def number(value: Decimal) -> str:
    """A decimal string without a fixed scale, as OpenMeter writes them: 36200, 0.5."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
