"""The deal that every scenario starts from: Acme rents two H100 servers from Northwind, through Bridge."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from commerce.sandbox.scenarios.world import GOOD_BANK, Json, World

SERVER_RATE = "18000.00"
BURST_RATE = "2.00"
DOWNPAYMENT = 1_000_000


@dataclass
class Deal:
    """The parties, the contract and its two lines; `start` is the first day of the first period."""

    buyer: Json
    seller: Json
    partner: Json
    contract: Json
    servers: str
    burst: str
    start: datetime

    @property
    def period_end(self) -> datetime:
        return (self.start + timedelta(days=32)).replace(day=1)


def parties(world: World, *, seller_bank: Json | None = None) -> tuple[Json, Json, Json]:
    """Register the three and wait until each is onboarded."""
    made = [
        world.register("Acme", "buyer"),
        world.register("Northwind", "seller", bank=seller_bank or GOOD_BANK),
        world.register("Bridge", "partner", bank=GOOD_BANK),
    ]
    buyer, seller, partner = (world.onboarded(organization) for organization in made)
    return buyer, seller, partner


def fund(world: World, buyer: Json, minor: int) -> None:
    """A wire reaches the buyer's virtual account, and the wallet shows it."""
    bank = world.balances.get(("Platform", "CASH_BANK"), 0)
    free = world.balances.get(("Acme", "AVAILABLE"), 0)
    world.wire(buyer, minor)
    world.posted(
        "fund_wallet", expect={("Platform", "CASH_BANK"): bank + minor, ("Acme", "AVAILABLE"): free + minor}
    )


def draft(world: World, buyer: Json, seller: Json, partner: Json, **terms: Any) -> Deal:
    """Write the contract, from the start of a month."""
    start = world.start_of_next_month()
    world.move_clock(start)
    servers, burst = str(uuid4()), str(uuid4())
    contract = world.post(
        "contracts",
        {
            "buyer_id": buyer["id"],
            "currency": "USD",
            "start_at": start.isoformat(),
            "term": {"kind": "fixed", "months": 12},
            "billing": {"anchor_day": 1, "cadence": "P1M", "when": "in_arrears"},
            "terms": {
                "payment": {"net_days": 14, "grace_days": 3, "collection": "wallet_auto"},
                "tax": {"rate": "0.0825"},
                "settlement": {
                    "fee_rate": "0.125",
                    "partner_id": partner["id"],
                    "partner_share": "0.05",
                    "seasoning_days": 7,
                },
                "commitment": {"downpayment": {"amount_minor": DOWNPAYMENT, "currency": "USD"}},
                **terms,
            },
            "lines": [
                {
                    "line_id": servers,
                    "product": "h100-server",
                    "seller_id": seller["id"],
                    "quantity": 2,
                    "price": {"model": "unit", "rate": SERVER_RATE},
                },
                {
                    "line_id": burst,
                    "product": "h100-burst",
                    "seller_id": seller["id"],
                    "quantity": 1,
                    "price": {"model": "unit", "rate": BURST_RATE},
                },
            ],
        },
    )
    return Deal(buyer, seller, partner, contract, servers, burst, start)


def sign(world: World, deal: Deal) -> None:
    """Submit the contract and have buyer and seller sign it."""
    world.operate(deal.contract, "activate", {"stage": "submit"})
    at = deal.start.isoformat()
    world.operate(
        deal.contract,
        "activate",
        {
            "stage": "signed",
            "signatures": [
                {"party": deal.buyer["id"], "name": "A. Buyer", "at": at},
                {"party": deal.seller["id"], "name": "S. Seller", "at": at},
            ],
        },
    )


def set_aside(world: World) -> None:
    """The downpayment of 10,000.00 and 28,970.00 for the period leave a funded wallet of 150,000.00."""
    world.posted(
        "commit",
        expect={
            ("Acme", "AVAILABLE"): 11_103_000,
            ("Acme", "COMMITTED_DOWNPAYMENT"): DOWNPAYMENT,
            ("Acme", "COMMITTED"): 2_897_000,
        },
    )


def order_payouts(world: World, seller_minor: int, partner_minor: int) -> None:
    """What was payable to both payees is on its way to their banks."""
    world.posted(
        "request_payout",
        expect={
            ("Northwind", "PAYABLE"): 0,
            ("Northwind", "PAYOUT_IN_TRANSIT"): seller_minor,
            ("Bridge", "PAYABLE"): 0,
            ("Bridge", "PAYOUT_IN_TRANSIT"): partner_minor,
        },
    )


def release(world: World, seller_minor: int, partner_minor: int) -> None:
    """Seven days later both payees' money is payable."""
    world.move_clock(world.now + timedelta(days=7))
    world.posted(
        "release",
        expect={
            ("Northwind", "PAY_IN_HOLDING"): 0,
            ("Northwind", "PAYABLE"): seller_minor,
            ("Bridge", "PAY_IN_HOLDING"): 0,
            ("Bridge", "PAYABLE"): partner_minor,
        },
    )


def go_live(world: World, deal: Deal) -> None:
    world.operate(deal.contract, "activate", {"stage": "live"})
    world.until_synced(deal.contract)


def use(world: World, deal: Deal, hours: int) -> None:
    """Meter `hours` device-hours in the first days of the period, an event an hour of ten devices."""
    world.move_clock(deal.start + timedelta(days=3))
    world.post(
        "usage-events",
        {
            "contract_id": deal.contract["id"],
            "events": [
                {
                    "specversion": "1.0",
                    "id": f"{deal.contract['id']}-{n}",
                    "source": "scenario/meter",
                    "time": (deal.start + timedelta(hours=1 + n)).isoformat(),
                    "data": {"line_id": deal.burst, "quantity": "10"},
                }
                for n in range(hours // 10)
            ],
        },
    )
    world.until(
        "the usage has reached OpenMeter",
        lambda: (
            sum(
                row["id"].startswith(deal.contract["id"])
                for row in world.control("effects")["openmeter"]["usage_event"]
            )
            == hours // 10
        ),
    )
