"""The first dollar, step by step: every balance to the cent after each posting."""

from datetime import timedelta

from commerce.invariants import REGISTRY
from ledger.rules import recipes
from ledger.services import release_due, schedule_release
from tests.ledger.conftest import ACTOR, AT, holds, usd

KINDS = {
    "acme": ("AVAILABLE", "COMMITTED", "COMMITTED_DOWNPAYMENT"),
    "northwind": ("PAY_IN_HOLDING", "PAYABLE", "PAYOUT_IN_TRANSIT"),
    "bridge": ("PAY_IN_HOLDING", "PAYABLE", "PAYOUT_IN_TRANSIT"),
    "platform": ("CASH_BANK", "TAX_PAYABLE", "PLATFORM_FEES"),
}


def assert_balances(people, **expected):
    """All twelve accounts of the example; what is not named is zero."""
    for name, kinds in KINDS.items():
        stated = [usd(text) for text in expected.get(name, ("0", "0", "0"))]
        assert [holds(getattr(people, name), kind) for kind in kinds] == stated, name


def assert_sound():
    findings = [f for i in REGISTRY if i.check.__module__ == "ledger.invariants" for f in i.check()]
    assert findings == []


def test_the_seven_steps(people, posted):
    p = people
    posted(
        "fund_wallet", recipes.fund_wallet(platform=p.platform, buyer=p.acme, amount=usd("150000")), "fund"
    )
    assert_balances(p, acme=("150000", "0", "0"), platform=("150000", "0", "0"))

    posted("commit", recipes.commit(buyer=p.acme, downpayment=usd("10000"), expected=usd("28970")), "commit")
    assert_balances(p, acme=("111030", "28970", "10000"), platform=("150000", "0", "0"))

    posted(
        "collect",
        recipes.collect(
            platform=p.platform,
            buyer=p.acme,
            from_downpayment=usd("10000"),
            from_committed=usd("28970"),
            from_available=usd("216.50"),
            tax=usd("2986.50"),
            fee=usd("4298.75"),
            payees={p.bridge: usd("226.25"), p.northwind: usd("31675")},
        ),
        "collect",
    )
    collected = {"acme": ("110813.50", "0", "0"), "platform": ("150000", "2986.50", "4298.75")}
    assert_balances(p, **collected, northwind=("31675", "0", "0"), bridge=("226.25", "0", "0"))

    due = AT + timedelta(days=7)
    for payee, amount in ((p.northwind, usd("31675")), (p.bridge, usd("226.25"))):
        schedule_release(
            owner=payee,
            amount=amount,
            due_at=due,
            source="settlement:1",
            key=f"leg:{payee}",
            at=AT,
            actor=ACTOR,
        )
    assert release_due(at=due - timedelta(seconds=1), actor=ACTOR) == 0
    assert_balances(p, **collected, northwind=("31675", "0", "0"), bridge=("226.25", "0", "0"))

    assert release_due(at=due, actor=ACTOR) == 2
    assert release_due(at=due, actor=ACTOR) == 0
    assert_balances(p, **collected, northwind=("0", "31675", "0"), bridge=("0", "226.25", "0"))

    for name, payee, amount in (("n", p.northwind, usd("31675")), ("b", p.bridge, usd("226.25"))):
        posted("request_payout", recipes.request_payout(payee=payee, amount=amount), f"out:{name}")
    assert_balances(p, **collected, northwind=("0", "0", "31675"), bridge=("0", "0", "226.25"))

    for name, payee, amount in (("n", p.northwind, usd("31675")), ("b", p.bridge, usd("226.25"))):
        posted(
            "confirm_payout",
            recipes.confirm_payout(platform=p.platform, payee=payee, amount=amount),
            f"confirm:{name}",
        )
    assert_balances(p, acme=("110813.50", "0", "0"), platform=("118098.75", "2986.50", "4298.75"))
    assert usd("118098.75") == usd("110813.50") + usd("2986.50") + usd("4298.75")
    assert_sound()


def test_a_failed_and_a_returned_payout_give_the_money_back_to_payable(people, posted):
    p, amount = people, usd("31675")
    posted("fund_wallet", recipes.fund_wallet(platform=p.platform, buyer=p.acme, amount=amount), "fund")
    nothing = usd("0")
    posted(
        "collect",
        recipes.collect(
            platform=p.platform,
            buyer=p.acme,
            from_downpayment=nothing,
            from_committed=nothing,
            from_available=amount,
            tax=nothing,
            fee=nothing,
            payees={p.northwind: amount},
        ),
        "collect",
    )
    posted("release", recipes.release(payee=p.northwind, amount=amount), "release")
    posted("request_payout", recipes.request_payout(payee=p.northwind, amount=amount), "out:1")
    posted("fail_payout", recipes.fail_payout(payee=p.northwind, amount=amount), "fail:1")
    assert_balances(p, northwind=("0", "31675", "0"), platform=("31675", "0", "0"))

    posted("request_payout", recipes.request_payout(payee=p.northwind, amount=amount), "out:2")
    confirm = recipes.confirm_payout(platform=p.platform, payee=p.northwind, amount=amount)
    posted("confirm_payout", confirm, "confirm:2")
    assert_balances(p)
    back = recipes.return_payout(platform=p.platform, payee=p.northwind, amount=amount)
    posted("return_payout", back, "return:2")
    assert_balances(p, northwind=("0", "31675", "0"), platform=("31675", "0", "0"))
    assert_sound()


def test_uncommit_and_return_of_a_pay_in_undo_commit_and_funding(people, posted):
    p = people
    posted("fund_wallet", recipes.fund_wallet(platform=p.platform, buyer=p.acme, amount=usd("100")), "fund")
    posted("commit", recipes.commit(buyer=p.acme, downpayment=usd("10"), expected=usd("20")), "commit")
    posted("uncommit", recipes.uncommit(buyer=p.acme, downpayment=usd("10"), expected=usd("20")), "uncommit")
    assert_balances(p, acme=("100", "0", "0"), platform=("100", "0", "0"))
    back = recipes.return_pay_in(platform=p.platform, buyer=p.acme, amount=usd("100"))
    posted("return_pay_in", back, "return")
    assert_balances(p)
    assert_sound()
