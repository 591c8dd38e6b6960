"""What goes wrong in a marketplace, and how it ends: nothing lost, nothing twice."""

from datetime import timedelta

from commerce.sandbox.scenarios import deal as deals
from commerce.sandbox.scenarios.deal import Deal
from commerce.sandbox.scenarios.world import Json, World

FAILING_BANK = {"account_number": "111111110", "routing_number": "121141822"}
RETURNING_BANK = {"account_number": "10003", "routing_number": "121141822"}


def short_wallet(world: World) -> None:
    """The wallet is short: past due by the clock, delinquent, suspended; a wire clears it and resumes."""
    with world.step("A wire of 20,000.00 covers the downpayment and half of what the period costs"):
        buyer, seller, partner = deals.parties(world)
        deals.fund(world, buyer, 2_000_000)
        deal = deals.draft(world, buyer, seller, partner)
        deals.sign(world, deal)
        world.posted(
            "commit",
            expect={
                ("Acme", "AVAILABLE"): 0,
                ("Acme", "COMMITTED_DOWNPAYMENT"): 1_000_000,
                ("Acme", "COMMITTED"): 1_000_000,
            },
        )
        deals.go_live(world, deal)

    with world.step("The invoice is issued and stays unpaid"):
        world.move_clock(deal.period_end + timedelta(hours=1))
        invoice = world.invoice_when(deal.contract, "issued")
        world.expect("its total", invoice["total"]["amount_minor"], 3_897_000)
        world.until_status(deal.contract, "invoiced")
        world.nothing_else_posted()

    with world.step("Days go by: in grace, past due, delinquent; the contract is suspended"):
        due = deal.period_end + timedelta(days=14, hours=1)
        for status, days in (("in_grace", 0), ("past_due", 3), ("delinquent", 13)):
            world.move_clock(due + timedelta(days=days, hours=1))
            world.until_status(deal.contract, status)
            world.say(f"{status.replace('_', ' ')} {days} days after the due date")
        _until_contract(world, deal, "suspended")
        world.until_synced(deal.contract)
        world.expect("the invoice", world.get(f"invoices/{invoice['id']}")["status"], "overdue")
        world.nothing_else_posted()

    with world.step("A wire of 30,000.00 pays the invoice and resumes the contract"):
        deals.fund(world, buyer, 3_000_000)
        world.invoice_when(deal.contract, "paid")
        world.posted(
            "collect",
            expect={
                ("Acme", "COMMITTED_DOWNPAYMENT"): 0,
                ("Acme", "COMMITTED"): 0,
                ("Acme", "AVAILABLE"): 1_103_000,
                ("Platform", "TAX_PAYABLE"): 297_000,
                ("Platform", "PLATFORM_FEES"): 427_500,
                ("Bridge", "PAY_IN_HOLDING"): 22_500,
                ("Northwind", "PAY_IN_HOLDING"): 3_150_000,
            },
        )
        world.until_status(deal.contract, "current")
        _until_contract(world, deal, "active")
        world.until_synced(deal.contract)
        world.nothing_else_posted()
        world.expect_wallet(buyer)


def failed_payout(world: World) -> None:
    """The bank refuses the payout: the money is payable again and waits for a better account."""
    with world.step("An invoice is paid and its money has seasoned"):
        deal = _paid_month(world, FAILING_BANK)

    with world.step("The payout fails and the money is payable again, once"):
        deals.order_payouts(world, 3_150_000, 22_500)
        world.posted(
            "fail_payout", expect={("Northwind", "PAYOUT_IN_TRANSIT"): 0, ("Northwind", "PAYABLE"): 3_150_000}
        )
        payout = _payout(world, deal.seller)
        world.expect("the payout", payout["status"], "failed")
        world.posted(
            "confirm_payout",
            expect={
                ("Bridge", "PAYOUT_IN_TRANSIT"): 0,
                ("Platform", "CASH_BANK"): world.balances["Platform", "CASH_BANK"] - 22_500,
            },
        )
        world.nothing_else_posted()
        world.expect("how often it was tried", _orders(world, payout), 1)
        world.expect_wallet(deal.seller)


def returned_payout(world: World) -> None:
    """The payee's bank returns the payout two days later: the cash is back, and so is the debt."""
    with world.step("An invoice is paid and its money has seasoned"):
        deal = _paid_month(world, RETURNING_BANK)
        before = world.balances["Platform", "CASH_BANK"]

    with world.step("The payout is paid"):
        deals.order_payouts(world, 3_150_000, 22_500)
        world.posted(
            "confirm_payout",
            expect={
                ("Northwind", "PAYOUT_IN_TRANSIT"): 0,
                ("Bridge", "PAYOUT_IN_TRANSIT"): 0,
                ("Platform", "CASH_BANK"): before - 3_172_500,
            },
        )

    with world.step("Days later it comes back with R03; the money is payable again, once"):
        world.move_clock(world.now + timedelta(days=4))
        world.posted(
            "return_payout",
            expect={("Platform", "CASH_BANK"): before - 22_500, ("Northwind", "PAYABLE"): 3_150_000},
        )
        payout = _payout(world, deal.seller)
        world.expect("the payout", (payout["status"], payout["failure_code"]), ("returned", "R03"))
        world.nothing_else_posted()
        world.expect("how often it was tried", _orders(world, payout), 1)
        world.expect_wallet(deal.seller)


def changed_mid_period(world: World) -> None:
    """Suspended on the 11th, resumed on the 21st, a third server from then: billed for what was served."""
    with world.step("A contract runs for ten days"):
        deal = _live(world)

    with world.step("Suspended for ten days, then resumed with a third server"):
        world.move_clock(deal.start + timedelta(days=10))
        world.operate(deal.contract, "suspend", {"reason": "maintenance", "billing": "stop"})
        world.until_synced(deal.contract)
        world.move_clock(deal.start + timedelta(days=20))
        world.operate(deal.contract, "resume", {"reason": "maintenance"})
        world.operate(deal.contract, "change_quantity", {"line_id": deal.servers, "quantity": 3})
        world.until_synced(deal.contract)

    with world.step("OpenMeter's invoice and the contract's rating agree"):
        world.move_clock(deal.period_end + timedelta(hours=1))
        invoice = world.invoice_when(deal.contract, "paid")
        days = (deal.period_end - deal.start).days
        ten = _share(3_600_000, 10, days)
        rest = _share(5_400_000, days - 20, days)
        world.expect("its net", invoice["net"]["amount_minor"], ten + rest)
        world.expect("OpenMeter's net", invoice["provider_net"]["amount_minor"], ten + rest)
        world.expect("its differences", invoice["differences"], [])
        world.expect("its lines", len(invoice["lines"]), 2)


def terminated_mid_period(world: World) -> None:
    """Terminated on the 16th: a last invoice for fifteen days, what was set aside goes back, settled."""
    with world.step("A contract runs for fifteen days and is terminated"):
        deal = _live(world)
        world.move_clock(deal.start + timedelta(days=15))
        world.operate(
            deal.contract,
            "terminate",
            {"when": "immediate", "cause": "mutual"},
            reason="The buyer no longer needs the servers.",
        )
        world.until_synced(deal.contract)

    with world.step("The last invoice is paid and the rest of the commitment is free again"):
        world.move_clock(world.now + timedelta(hours=2))
        invoice = world.invoice_when(deal.contract, "paid")
        net = _share(3_600_000, 15, (deal.period_end - deal.start).days)
        world.expect("its net", invoice["net"]["amount_minor"], net)
        world.expect("its differences", invoice["differences"], [])
        world.until_status(deal.contract, "settled")
        total = invoice["total"]["amount_minor"]
        world.posted(
            "collect",
            "uncommit",
            expect={
                ("Acme", "COMMITTED_DOWNPAYMENT"): 0,
                ("Acme", "COMMITTED"): 0,
                ("Acme", "AVAILABLE"): 15_000_000 - total,
                ("Platform", "TAX_PAYABLE"): invoice["tax"]["amount_minor"],
                ("Platform", "PLATFORM_FEES"): _kept_fee(net),
                ("Bridge", "PAY_IN_HOLDING"): _partner_share(net),
                ("Northwind", "PAY_IN_HOLDING"): net - _fee(net),
            },
        )


def _live(world: World, bank: Json | None = None) -> Deal:
    buyer, seller, partner = deals.parties(world, seller_bank=bank)
    deals.fund(world, buyer, 15_000_000)
    deal = deals.draft(world, buyer, seller, partner)
    deals.sign(world, deal)
    deals.set_aside(world)
    deals.go_live(world, deal)
    return deal


def _paid_month(world: World, bank: Json) -> Deal:
    deal = _live(world, bank)
    world.move_clock(deal.period_end + timedelta(hours=1))
    world.invoice_when(deal.contract, "paid")
    world.posted(
        "collect",
        expect={
            ("Acme", "COMMITTED_DOWNPAYMENT"): 0,
            ("Acme", "COMMITTED"): 0,
            ("Acme", "AVAILABLE"): 11_103_000,
            ("Platform", "TAX_PAYABLE"): 297_000,
            ("Platform", "PLATFORM_FEES"): 427_500,
            ("Bridge", "PAY_IN_HOLDING"): 22_500,
            ("Northwind", "PAY_IN_HOLDING"): 3_150_000,
        },
    )
    world.until("the money is seasoning", lambda: _is_seasoning(world, deal))
    deals.release(world, 3_150_000, 22_500)
    return deal


def _is_seasoning(world: World, deal: Deal) -> bool:
    found = world.all("settlements", contract_id=deal.contract["id"])
    return bool(found) and found[0]["status"] == "seasoning"


def _until_contract(world: World, deal: Deal, status: str) -> None:
    world.until(
        f"the contract is {status}", lambda: world.get(f"contracts/{deal.contract['id']}")["status"] == status
    )


def _payout(world: World, payee: Json) -> Json:
    return world.one("payouts", payee_id=payee["id"])


def _orders(world: World, payout: Json) -> int:
    """How many payment orders the bank has for a payout, as the bank counts them."""
    orders = world.control("effects")["modern_treasury"]["payment_order"]
    return sum(order["external_id"] == payout["external_id"] for order in orders)


def _share(amount: int, served: int, full: int) -> int:
    """amount × served / full, half up."""
    return (2 * amount * served + full) // (2 * full)


def _fee(net: int) -> int:
    return (2 * net * 125 + 1000) // 2000


def _partner_share(net: int) -> int:
    return (2 * _fee(net) * 5 + 100) // 200


def _kept_fee(net: int) -> int:
    return _fee(net) - _partner_share(net)
