"""A contract in the course of a year: what is agreed, undone, taken back and found out too late.

Acme rents H100 servers from Northwind at 18,000.00 each and month, in arrears, tax and fee ten per cent.
The story is told in months of known lengths; every number below follows from rates and days.
"""

from datetime import datetime, timedelta
from uuid import uuid4

from commerce.sandbox.scenarios.lease import (
    APRIL,
    AUGUST,
    DECEMBER,
    FEBRUARY,
    JANUARY,
    JULY,
    JUNE,
    MARCH,
    MAY,
    NEXT_MAY,
    NOVEMBER,
    OCTOBER,
    SEPTEMBER,
    Lease,
    first_of_may,
)
from commerce.sandbox.scenarios.world import GOOD_BANK, Json, World

WALLET = 100_000_000
# 180,000.00 at 9 % in 24 instalments of 8,223.25: a twelfth of 9 % of what is owed, the rest repays.
INTEREST = (
    135_000,
    129_845,
    124_651,
    119_419,
    114_147,
    108_836,
    103_485,
    98_093,
    92_662,
    87_189,
    81_676,
    76_121,
)
INSTALMENT = 822_325
LATE = "back-dated quantity from {} November, seq {}"
CORRECTED = "back-dated correction of seq {} from 6 November, seq {}"


def play(world: World) -> None:
    """Upgraded, discounted, suspended, back-dated, credited, corrected, transferred, renewed, paid off."""
    with world.step("Onboarding: Acme and Borealis rent, Northwind owns; both wallets are full"):
        buyer, heir, seller = _parties(world)
    with world.step("1 May: two servers for a year, signed and live"):
        lease = _live(world, buyer, seller)
    with world.step("1 May: financed with 180,000.00 over two years; two people agree"):
        _financed(lease)
    with world.step("11 June: upgraded to three servers"):
        _upgraded(lease)
    with world.step("21 June: ten per cent off for three months"):
        _discounted(lease)
    with world.step("1 September: the discount is over, by the clock"):
        _at_full_price_again(lease)
    with world.step("11 September: suspended, billing stopped"):
        _suspended(lease)
    with world.step("21 September: resumed"):
        _resumed(lease)
    with world.step("11 November: a fourth server, in use since the 6th"):
        _back_dated(lease)
    with world.step("12 November: told that a server was down in October"):
        _failed(lease)
    with world.step("16 November: corrected, it came on the 9th; two people agree"):
        _corrected(lease)
    with world.step("11 December: Borealis takes Acme's place; two people agree"):
        _transferred(lease, buyer, heir)
    with world.step("1 April: told that another term comes"):
        _told(lease)
    with world.step("1 May: renewed by itself, 3.5 per cent dearer"):
        _renewed(lease)
    with world.step("16 May: terminated, the loan is paid off"):
        _terminated(lease)
    with world.step("Proof: every wallet agrees, and nothing was posted that no step names"):
        _proved(lease, buyer, heir, seller)


def loan(row: int) -> tuple[tuple[str, int], tuple[str, int]]:
    """The lines of an instalment."""
    interest = INTEREST[row - 1]
    return ("interest", interest), ("principal", INSTALMENT - interest)


def _parties(world: World) -> tuple[Json, Json, Json]:
    made = [
        world.register("Acme", "buyer"),
        world.register("Borealis", "buyer"),
        world.register("Northwind", "seller", bank=GOOD_BANK),
    ]
    buyer, heir, seller = (world.onboarded(organization) for organization in made)
    for organization in (buyer, heir):
        world.wire(organization, WALLET)
    world.posted(
        "fund_wallet",
        expect={
            ("Platform", "CASH_BANK"): 2 * WALLET,
            ("Acme", "AVAILABLE"): WALLET,
            ("Borealis", "AVAILABLE"): WALLET,
        },
    )
    return buyer, heir, seller


def _live(world: World, buyer: Json, seller: Json) -> Lease:
    start, servers = first_of_may(world), str(uuid4())
    world.move_clock(start)
    contract = world.post("contracts", _agreed(start, servers, buyer, seller))
    lease = Lease(world, start, seller, servers, contract)
    world.operate(contract, "activate", {"stage": "submit"})
    world.operate(
        contract, "activate", {"stage": "signed", "signatures": [_signed(p, start) for p in (buyer, seller)]}
    )
    # A month of both servers and its tax: 36,000.00 + 3,600.00.
    world.posted("commit", expect={("Acme", "AVAILABLE"): 96_040_000, ("Acme", "COMMITTED"): 3_960_000})
    lease.change("activate", {"stage": "live"})
    lease.learned(
        start, {"status": "pending_activation"}, {"status": "active", "servers": 2, "buyer": "Acme"}
    )
    lease.owes(MAY, ("recurring", 3_600_000))
    lease.bills_at_openmeter(("36000", "0"))
    return lease


def _agreed(start: datetime, servers: str, buyer: Json, seller: Json) -> Json:
    uplift = {"kind": "percent", "value": "0.035", "cap": "0.05"}
    return {
        "buyer_id": buyer["id"],
        "currency": "USD",
        "start_at": start.isoformat(),
        "term": {"kind": "fixed", "months": 12},
        "end_policy": "renew",
        "billing": {"anchor_day": 1, "cadence": "P1M", "when": "in_arrears"},
        "terms": {
            "payment": {"net_days": 14, "grace_days": 3, "collection": "wallet_auto"},
            "renewal": {"auto": True, "notice_days": 30, "opt_out_days": 14, "uplift": uplift},
            "tax": {"rate": "0.1"},
            # What sellers get rests for a year: no payout comes in between.
            "settlement": {"fee_rate": "0.1", "seasoning_days": 365},
        },
        "lines": [
            {
                "line_id": servers,
                "product": "h100-server",
                "seller_id": seller["id"],
                "quantity": 2,
                "price": {"model": "unit", "rate": "18000.00"},
            }
        ],
    }


def _signed(party: Json, at: datetime) -> Json:
    return {"party": party["id"], "name": f"For {party['name']}", "at": at.isoformat()}


def _financed(lease: Lease) -> None:
    terms = {
        "principal_minor": 18_000_000,
        "apr": "0.09",
        "term_months": 24,
        "first_due_on": f"{lease.on(JUNE):%Y-%m-%d}",
    }
    lease.change_together(
        "attach_financing", {"financing_id": str(uuid4()), **terms}, "Acme builds its hall with it."
    )
    lease.learned(lease.start, {"loans": []}, {"loans": ["running"]})
    lease.owes(MAY, ("recurring", 3_600_000))
    lease.owes(JUNE, ("recurring", 3_600_000), *loan(1))
    lease.bills_at_openmeter(("36000", "0"))


def _upgraded(lease: Lease) -> None:
    lease.world.move_clock(lease.on(JUNE, 11))
    lease.invoiced(lease.on(MAY), 3_600_000)
    lease.paid("Acme", 3_600_000)
    lease.change("change_quantity", {"line_id": lease.servers, "quantity": 3})
    lease.learned(lease.on(JUNE, 11), {"servers": 2}, {"servers": 3})
    lease.learned(lease.on(JUNE, 10), {"servers": 2}, {"servers": 2})
    # 36,000.00 × 10/30 and 54,000.00 × 20/30.
    lease.owes(JUNE, ("recurring", 1_200_000), ("recurring", 3_600_000), *loan(1))
    lease.bills_at_openmeter(("54000", "0"))


def _discounted(lease: Lease) -> None:
    lease.world.move_clock(lease.on(JUNE, 21))
    lease.change(
        "apply_discount",
        {
            "discount_id": str(uuid4()),
            "kind": "percent",
            "percent": "0.1",
            "duration": {"kind": "periods", "periods": 3},
        },
    )
    lease.learned(lease.on(JULY), {"off": []}, {"off": ["0.1"]})
    lease.learned(lease.on(SEPTEMBER), {"off": []}, {"off": []})
    # A tenth of 54,000.00 × 10/30.
    june = ("recurring", 1_200_000), ("recurring", 3_600_000), ("discount", -180_000)
    lease.owes(JUNE, *june, *loan(1))
    lease.owes(JULY, ("recurring", 5_400_000), ("discount", -540_000), *loan(2))
    lease.owes(AUGUST, ("recurring", 5_400_000), ("discount", -540_000), *loan(3))
    lease.bills_at_openmeter(("54000", "10"))


def _at_full_price_again(lease: Lease) -> None:
    lease.world.move_clock(lease.on(SEPTEMBER))
    nets = 4_620_000, 4_860_000, 4_860_000
    for month, net in zip((JUNE, JULY, AUGUST), nets, strict=True):
        lease.invoiced(lease.on(month), net)
    lease.paid("Acme", *nets)
    lease.bills_at_openmeter(("54000", "0"))
    lease.owes(SEPTEMBER, ("recurring", 5_400_000), *loan(4))


def _suspended(lease: Lease) -> None:
    lease.world.move_clock(lease.on(SEPTEMBER, 11))
    lease.change("suspend", {"reason": "maintenance", "billing": "stop"})
    lease.learned(
        lease.on(SEPTEMBER, 11),
        {"status": "active", "held for": []},
        {"status": "suspended", "held for": ["maintenance"]},
    )
    # 54,000.00 × 10/30; a loan goes on.
    lease.owes(SEPTEMBER, ("recurring", 1_800_000), *loan(4))
    lease.bills_at_openmeter()


def _resumed(lease: Lease) -> None:
    lease.world.move_clock(lease.on(SEPTEMBER, 21))
    lease.change("resume", {"reason": "maintenance"})
    lease.learned(lease.on(SEPTEMBER, 21), {"status": "suspended"}, {"status": "active", "held for": []})
    lease.learned(lease.on(SEPTEMBER, 20), {"status": "suspended"}, {"status": "suspended"})
    # 54,000.00 × 10/30 before and after.
    lease.owes(SEPTEMBER, ("recurring", 1_800_000), ("recurring", 1_800_000), *loan(4))
    lease.bills_at_openmeter(("54000", "0"))


def _back_dated(lease: Lease) -> None:
    lease.world.move_clock(lease.on(NOVEMBER, 11))
    lease.invoiced(lease.on(SEPTEMBER), 3_600_000)
    lease.invoiced(lease.on(OCTOBER), 5_400_000)
    lease.paid("Acme", 3_600_000, 5_400_000)
    known = lease.edit("resume")["recorded_at"]
    lease.change(
        "change_quantity",
        {"line_id": lease.servers, "delta": 1},
        effective_at=lease.on(NOVEMBER, 6),
        reason="In use since the 6th, reported on the 11th.",
    )
    lease.learned(lease.on(NOVEMBER, 8), {"servers": 3}, {"servers": 4})
    # 54,000.00 × 5/30 and 72,000.00 × 25/30; OpenMeter learns of it on the 11th: 18,000.00 and 48,000.00.
    lease.owes(NOVEMBER, ("recurring", 5_400_000), *loan(6), known_at=known)
    lease.owes(NOVEMBER, ("recurring", 900_000), ("recurring", 6_000_000), *loan(6))
    lease.owes(OCTOBER, ("recurring", 5_400_000), *loan(5))
    lease.bills_at_openmeter(("72000", "0"))
    late = LATE.format(6, lease.edit("change_quantity")["seq"])
    lease.differs_as_expected(6_900_000, 6_600_000, late)


def _failed(lease: Lease) -> None:
    """October is invoiced and paid: what it owes back stands beside that, and November is none the wiser."""
    lease.world.move_clock(lease.on(NOVEMBER, 12))
    down = lease.on(OCTOBER, 10)
    lease.reported(
        *((f"server-{no}", "in_service", lease.on(OCTOBER)) for no in (1, 2, 3)),
        ("server-1", "down", down),
        ("server-1", "in_service", down + timedelta(hours=9)),
    )
    # 9 of 3 × 744 hours are 99.60 %: below 99.9 % five per cent of 54,000.00 come back.
    known = lease.edit("change_quantity")["recorded_at"]
    lease.owes(OCTOBER, ("recurring", 5_400_000), *loan(5), known_at=known)
    lease.owes(OCTOBER, ("recurring", 5_400_000), ("sla_credit", -270_000), *loan(5))
    lease.owes(NOVEMBER, ("recurring", 900_000), ("recurring", 6_000_000), *loan(6))


def _corrected(lease: Lease) -> None:
    lease.world.move_clock(lease.on(NOVEMBER, 16))
    wrong = lease.edit("change_quantity")
    right = {
        "payload": {"line_id": lease.servers, "delta": 1},
        "effective_at": lease.on(NOVEMBER, 9).isoformat(),
    }
    lease.change_together(
        "correct",
        {"target_seq": wrong["seq"], "mode": "replace", "replacement": right},
        "The delivery note says the 9th.",
    )
    lease.learned(lease.on(NOVEMBER, 8), {"servers": 4}, {"servers": 3})
    lease.learned(lease.on(NOVEMBER, 9), {"servers": 4}, {"servers": 4})
    # 54,000.00 × 8/30 and 72,000.00 × 22/30; what was known before stays readable.
    lease.owes(
        NOVEMBER, *(("recurring", 900_000), ("recurring", 6_000_000), *loan(6)), known_at=wrong["recorded_at"]
    )
    lease.owes(NOVEMBER, ("recurring", 1_440_000), ("recurring", 5_280_000), *loan(6))
    lease.bills_at_openmeter(("72000", "0"))
    lease.differs_as_expected(6_720_000, 6_600_000, *_late_reasons(lease))


def _late_reasons(lease: Lease) -> tuple[str, ...]:
    """Why OpenMeter's November is another: both edits reached it after they had begun to count."""
    wrong, right = lease.edit("change_quantity"), lease.edit("correct")
    return LATE.format(9, wrong["seq"]), CORRECTED.format(wrong["seq"], right["seq"])


def _transferred(lease: Lease, buyer: Json, heir: Json) -> None:
    world, at = lease.world, lease.on(DECEMBER, 11)
    world.move_clock(at)
    lease.invoiced(lease.on(NOVEMBER), 6_720_000, expected=_late_reasons(lease))
    lease.paid("Acme", 6_720_000)
    world.operate_together(
        lease.contract,
        "transfer_ownership",
        {"party": "buyer", "new_party_id": heir["id"], "consents": [_signed(p, at) for p in (buyer, heir)]},
        "Borealis buys Acme's hall.",
    )
    # What the month still costs Borealis, and its tax, are set aside: 48,774.19 + 4,877.42.
    world.posted(
        "commit", expect={("Borealis", "AVAILABLE"): 94_634_839, ("Borealis", "COMMITTED"): 5_365_161}
    )
    world.until_synced(lease.contract)
    lease.invoiced(lease.on(DECEMBER), 2_322_581)
    lease.paid("Acme", 2_322_581)
    lease.learned(at, {"buyer": "Acme"}, {"buyer": "Borealis", "servers": 4, "loans": ["running"]})
    lease.learned(lease.on(DECEMBER, 10), {"buyer": "Acme"}, {"buyer": "Acme"})
    # 72,000.00 × 10/31 and × 21/31; the instalment of the 1st was Acme's.
    lease.owes(DECEMBER, ("recurring", 2_322_581), ("recurring", 4_877_419), *loan(7))
    world.expect("whose they are", lease.buyers_of(DECEMBER), ["Acme", "Borealis", "Acme", "Acme"])
    world.expect("Acme's subscription", lease.subscription()["status"], "inactive")
    lease.bills_at_openmeter(("72000", "0"), owner_epoch=2)


def _told(lease: Lease) -> None:
    lease.world.move_clock(lease.on(APRIL))
    nets = 4_877_419, 7_200_000, 7_200_000, 7_200_000
    starts = lease.on(DECEMBER, 11), lease.on(JANUARY), lease.on(FEBRUARY), lease.on(MARCH)
    for start, net in zip(starts, nets, strict=True):
        lease.invoiced(start, net)
    lease.paid("Borealis", *nets)
    for row, month in enumerate((JANUARY, FEBRUARY, MARCH), 8):
        lease.owes(month, ("recurring", 7_200_000), *loan(row))
    lease.world.until("Borealis was told", lambda: _scheduled(lease) == ["opt_out", "renewal"])


def _scheduled(lease: Lease) -> list[str]:
    coming = lease.world.get(f"contracts/{lease.contract['id']}/schedule")["items"]
    return [item["kind"] for item in coming if item["key"]]


def _renewed(lease: Lease) -> None:
    lease.world.move_clock(lease.on(NEXT_MAY))
    lease.invoiced(lease.on(APRIL), 7_200_000)
    lease.paid("Borealis", 7_200_000)
    lease.world.until("it is renewed", lambda: lease.edits("renew"))
    lease.followed()
    # 18,000.00 × 1.035 = 18,630.00, times four.
    lease.learned(lease.on(NEXT_MAY), {"term": 1, "rate": "18000"}, {"term": 2, "rate": "18630"})
    lease.learned(lease.on(APRIL), {"rate": "18000"}, {"rate": "18000"})
    lease.owes(APRIL, ("recurring", 7_200_000), *loan(11))
    lease.owes(NEXT_MAY, ("recurring", 7_452_000), *loan(12))
    lease.bills_at_openmeter(("74520", "0"), owner_epoch=2)


def _terminated(lease: Lease) -> None:
    world = lease.world
    world.move_clock(lease.on(NEXT_MAY, 16))
    world.operate(
        lease.contract,
        "terminate",
        {"when": "immediate", "cause": "mutual", "financing": "payoff"},
        reason="Borealis moves out.",
    )
    world.until_synced(lease.contract)
    lease.invoiced(lease.on(NEXT_MAY), 3_605_806)
    lease.paid("Borealis", 3_605_806)
    lease.learned(
        lease.on(NEXT_MAY, 16),
        {"status": "active", "loans": ["running"]},
        {"status": "terminated", "loans": ["payoff"]},
    )
    # 74,520.00 × 15/31; 94,032.24 are left of the loan and 0.75 % × 15/31 of it are due: 341.25.
    ending = ("recurring", 3_605_806), ("financing_payoff", 9_437_349)
    lease.owes(NEXT_MAY, *ending, *loan(12))
    world.expect("the subscription", lease.subscription(2)["status"], "inactive")
    world.until("it is settled", lambda: lease.account(2)["billing_status"] == "settled")


def _proved(lease: Lease, *parties: Json) -> None:
    lease.world.nothing_else_posted()
    for organization in parties:
        lease.world.expect_wallet(organization)
