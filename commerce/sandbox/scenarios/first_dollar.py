"""One contract from signature to the seller's payout: the worked example, to the cent."""

from datetime import timedelta

from commerce.sandbox.scenarios import deal as deals
from commerce.sandbox.scenarios.world import World


def play(world: World) -> None:
    """One contract from signature to the seller's payout, in seven steps, to the cent."""
    with world.step("Onboarding: Acme (buyer), Northwind (seller) and Bridge (partner)"):
        buyer, seller, partner = deals.parties(world)
        world.say("counterparties, Acme's virtual account and two bank accounts exist at Modern Treasury")

    with world.step("1 Fund: a wire of 150,000.00 reaches Acme's virtual account"):
        deals.fund(world, buyer, 15_000_000)

    with world.step("2 Commit: the contract is signed, downpayment and the period's total are set aside"):
        deal = deals.draft(world, buyer, seller, partner)
        deals.sign(world, deal)
        deals.set_aside(world)

    with world.step("3 Subscribe, meter, invoice: OpenMeter cuts it, the contract's rating agrees"):
        deals.go_live(world, deal)
        deals.use(world, deal, 100)
        world.move_clock(deal.period_end + timedelta(hours=1))
        invoice = world.invoice_when(deal.contract, "paid")
        amounts = {name: invoice[name]["amount_minor"] for name in ("net", "tax", "total", "provider_net")}
        world.expect(
            "the invoice",
            amounts,
            {"net": 3_620_000, "tax": 298_650, "total": 3_918_650, "provider_net": 3_620_000},
        )
        world.expect("its differences from OpenMeter's", invoice["differences"], [])
        world.say(f"{invoice['number']}: net 36,200.00, tax 2,986.50, total 39,186.50, no difference")

    with world.step("4 Collect and disburse: paid from the wallet, tax, fee and holding credited"):
        world.posted(
            "collect",
            expect={
                ("Acme", "COMMITTED_DOWNPAYMENT"): 0,
                ("Acme", "COMMITTED"): 0,
                ("Acme", "AVAILABLE"): 11_081_350,
                ("Platform", "TAX_PAYABLE"): 298_650,
                ("Platform", "PLATFORM_FEES"): 429_875,
                ("Bridge", "PAY_IN_HOLDING"): 22_625,
                ("Northwind", "PAY_IN_HOLDING"): 3_167_500,
            },
        )
        world.until_status(deal.contract, "current")
        world.until("OpenMeter knows that it is paid", lambda: world.told_paid(invoice) == 1)
        world.say("the billing status is current; OpenMeter was told once")

    with world.step("5 Season: both payees' money rests for seven days"):
        settlement = world.until(
            "the settlement is planned", lambda: world.all("settlements", invoice_id=invoice["id"])
        )[0]
        world.until(
            "it is seasoning", lambda: world.get(f"settlements/{settlement['id']}")["status"] == "seasoning"
        )
        world.nothing_else_posted()
        world.say("two legs are seasoning, nothing is posted")

    with world.step("6 Release: what has seasoned becomes payable"):
        deals.release(world, 3_167_500, 22_625)

    with world.step("7 Cash out: paid to the sellers' and partner's bank accounts by Modern Treasury"):
        deals.order_payouts(world, 3_167_500, 22_625)
        world.posted(
            "confirm_payout",
            expect={
                ("Northwind", "PAYOUT_IN_TRANSIT"): 0,
                ("Bridge", "PAYOUT_IN_TRANSIT"): 0,
                ("Platform", "CASH_BANK"): 11_809_875,
            },
        )
        world.until(
            "the settlement is completed",
            lambda: world.get(f"settlements/{settlement['id']}")["status"] == "completed",
        )

    with world.step("Proof: 118,098.75 in the bank = 110,813.50 Acme + 2,986.50 tax + 4,298.75 fees"):
        world.nothing_else_posted()
        for organization in (buyer, seller, partner):
            world.expect_wallet(organization)
        kept = sum(
            world.balances[account]
            for account in (("Acme", "AVAILABLE"), ("Platform", "TAX_PAYABLE"), ("Platform", "PLATFORM_FEES"))
        )
        world.expect(
            "the bank against what is owed and earned", world.balances["Platform", "CASH_BANK"], kept
        )
        world.say("every account of the three parties agrees with the API's balances")
