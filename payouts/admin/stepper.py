"""The settlement's legs as steps, and the line that proves in = out + fees + held."""

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString

from commerce.console.charts import table
from commerce.console.format import NOTHING, badge, instant, link, money
from commerce.money import Money
from payouts.models import Payout, Settlement, SettlementLeg

PAYEE_STEPS = ("planned", "funded", "seasoning", "released", "in transit", "paid out")
PLATFORM_STEPS = ("planned", "funded", "kept")
_REACHED = {
    "pending": 0,
    "funded": 1,
    "seasoning": 2,
    "held": 2,
    "releasable": 3,
    "released": 3,
    "paid_out": 5,
    "reversed": 1,
    "clawed_back": 3,
}
_TROUBLE = ("failed", "returned", "unknown", "needs_approval")


@dataclass(frozen=True)
class Step:
    """`mark` is done, now or todo."""

    name: str
    mark: str


@dataclass(frozen=True)
class Row:
    leg: SettlementLeg
    steps: list[Step]
    state: SafeString
    payout: Payout | None
    attempts: int
    error: str


def rows_of(settlement: Settlement) -> list[Row]:
    legs = settlement.legs.select_related("payee").prefetch_related("items__payout").order_by("id")
    return [_row(leg) for leg in legs]


def _row(leg: SettlementLeg) -> Row:
    payouts = sorted((item.payout for item in leg.items.all()), key=lambda payout: payout.pk)
    last = payouts[-1] if payouts else None
    reached = _REACHED[leg.status]
    names = PAYEE_STEPS if leg.is_for_payee else PLATFORM_STEPS
    if not leg.is_for_payee and leg.status == "released":
        reached = len(names) - 1
    elif last and leg.status == "released" and last.status in ("submitted", "in_transit", "unknown", "paid"):
        reached = 4
    finished = reached == len(names) - 1
    steps = [
        Step(name, "done" if i < reached or finished else "now" if i == reached else "todo")
        for i, name in enumerate(names)
    ]
    told = badge(leg.status) if leg.is_for_payee or leg.status != "released" else badge("kept", "good")
    if last and leg.status == "released" and last.status in _TROUBLE:
        told = badge(last.status)
    error = f"{last.failure_code} {last.failure_reason or last.last_error}".strip() if last else ""
    return Row(leg, steps, told, last, len(payouts), error)


def proof(settlement: Settlement, rows: list[Row]) -> dict[str, object]:
    """What came in, and where all of it is."""

    def total(*chosen: Row) -> Money:
        return Money(sum(row.leg.amount_minor for row in chosen), settlement.currency)

    fees = total(*(row for row in rows if not row.leg.is_for_payee))
    payees = [row for row in rows if row.leg.is_for_payee]
    out = total(*(row for row in payees if row.leg.status == "paid_out"))
    held = total(*(row for row in payees if row.leg.status != "paid_out"))
    return {
        "total": settlement.total,
        "out": out,
        "fees": fees,
        "held": held,
        "difference": settlement.total - out - fees - held,
    }


def render_legs(settlement: Settlement, request: HttpRequest) -> SafeString:
    rows = rows_of(settlement)
    context = {"settlement": settlement, "rows": rows, **proof(settlement, rows)}
    return render_to_string("payouts/stepper.html", context)


def render_settlements(*, empty: str, **chosen: Any) -> SafeString:
    """The latest settlements of a contract or an invoice."""
    found = Settlement.objects.filter(**chosen).order_by("-id")[:24]
    return table(
        ("Settlement of", "State", "Paid", ">Amount"),
        [
            (
                link(row, row.invoice_number),
                badge(row.status),
                instant(row.paid_at),
                money(row.total_minor, row.currency),
            )
            for row in found
        ],
        empty=empty,
    )


def render_items(payout: Payout, request: HttpRequest) -> SafeString:
    """The panel on a payout's page: what it pays."""
    items = payout.items.select_related("leg__settlement").order_by("id")
    rest = payout.amount_minor - sum(item.amount_minor for item in items)
    rows = [
        (
            link(item.leg.settlement, item.leg.settlement.invoice_number),
            format_html(
                "{} of {}", link(item.leg, item.leg.kind), money(item.leg.amount_minor, item.leg.currency)
            ),
            badge(item.leg.status),
            money(item.amount_minor, payout.currency),
        )
        for item in items
    ]
    if rest:
        rows.append((SafeString("not from a settlement"), NOTHING, NOTHING, money(rest, payout.currency)))
    return table(
        ("Settlement of", "Leg", "State of the leg", ">Paid by this payout"),
        rows,
        total=("Amount of the payout", "", "", money(payout.amount_minor, payout.currency)),
    )


def render_payouts(leg: SettlementLeg, request: HttpRequest) -> SafeString:
    """The panel on a leg's page: what has paid it, or tried to."""
    items = leg.items.select_related("payout__account").order_by("-id")
    return table(
        ("Payout", "State", "Requested", "Paid", ">Of this leg"),
        [
            (
                link(item.payout),
                badge(item.payout.status),
                instant(item.payout.requested_at),
                instant(item.payout.paid_at),
                money(item.amount_minor, leg.currency),
            )
            for item in items
        ],
        empty="A payout is made when the leg is released and the payee's policy allows it."
        if leg.is_for_payee
        else "Tax and fees stay with the platform.",
    )
