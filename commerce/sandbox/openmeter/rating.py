"""Billing periods, exactly: which charges of a subscription fall due, for what time, and when.

Periods repeat from the anchor by the cadence; a month that is too short clamps, and the anchor's day
comes back. What a charge comes to is for `prices`.
"""

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from commerce.sandbox.clock import parse

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
