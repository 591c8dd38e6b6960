"""OpenMeter's billing: what a period costs, when its invoice moves, and what it never does twice."""

from decimal import Decimal

import pytest

PERIOD_END, COLLECTED = "2027-04-01T00:00:00Z", "2027-04-01T01:00:00Z"


def totals(invoice):
    return {line["name"]: Decimal(line["totals"]["total"]) for line in invoice["lines"]}


def test_the_worked_example_is_36_200_00(sandbox, billed, use, invoices):
    subscription = billed()
    use("u1", "60", "2027-03-10T00:00:00Z")
    use("u2", "40", "2027-03-31T23:59:59Z")
    use("u3", "7", "2027-04-01T00:00:00Z")
    use("u4", "9", "2027-03-10T00:00:00Z", line="L9")
    sandbox.at(COLLECTED)
    [invoice] = invoices()
    assert totals(invoice) == {"2 H100 servers": Decimal("36000"), "Burst hours": Decimal("200")}
    assert Decimal(invoice["totals"]["total"]) == Decimal("36200.00")
    assert invoice["statusDetails"]["extendedStatus"] == "issuing.syncing"
    for line in invoice["lines"]:
        assert line["period"] == {"from": "2027-03-01T00:00:00Z", "to": PERIOD_END}
        assert line["subscription"]["subscription"]["id"] == subscription["id"]
