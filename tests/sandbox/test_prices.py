"""What OpenMeter's rate cards come to: worked examples, by price and end to end on an invoice."""

from decimal import Decimal
from fractions import Fraction

import pytest

from commerce.sandbox.openmeter.prices import rate
from tests.sandbox.conftest import BURST, FLAT, PLAN


def tier(top, *, unit=None, flat=None):
    prices = {
        "unitPrice": {"type": "unit", "amount": unit} if unit else None,
        "flatPrice": {"type": "flat", "amount": flat} if flat else None,
    }
    return {**({"upToAmount": top} if top else {}), **prices}


def rated(price, quantity, currency="USD", **discounts):
    return rate(price, Decimal(quantity), Fraction(1), discounts, currency)


PUBLISHED = [tier("5", flat="100"), tier("10", flat="50"), tier("15", unit="5"), tier(None, unit="1")]


def test_a_graduated_price_has_a_line_for_each_tier_that_is_reached():
    """OM-09 of the published examples."""
    found = rated({"type": "tiered", "mode": "graduated", "tiers": PUBLISHED}, "22")
    assert [part.total for part in found.parts] == [100, 50, 25, 7]
    assert found.total == 182


@pytest.mark.parametrize(("quantity", "packages"), [("98", 50), ("0", 0), ("20", 10), ("20.1", 20)])
def test_a_started_package_is_paid_in_full(quantity, packages):
    """OM-12 of the published examples."""
    price = {"type": "package", "amount": "10", "quantityPerPackage": "20"}
    assert rated(price, quantity).total == packages


def test_a_minimum_adds_what_is_missing_as_a_commitment():
    """OM-11 of the published examples: 100 for the tier and 50 more without any usage."""
    tiers = [tier("10", flat="100"), tier(None, unit="1")]
    found = rated({"type": "tiered", "mode": "volume", "tiers": tiers, "minimumAmount": "150"}, "0")
    assert (found.amount, found.charges, found.total) == (100, 50, 150)
    assert [part.commitment for part in found.parts] == [False, True]


def test_a_maximum_takes_off_what_is_above_it_and_a_discount_comes_first():
    price = {"type": "unit", "amount": "10", "maximumAmount": "80"}
    found = rated(price, "10", percentage={"percentage": 10})
    [part] = found.parts
    assert (part.percentage, part.over_maximum, found.total) == (10, 10, 80)
    assert rated(price, "8", percentage={"percentage": 10}).total == 72


def test_a_minimum_counts_what_is_left_after_the_discount():
    price = {"type": "unit", "amount": "10", "minimumAmount": "95"}
    found = rated(price, "10", percentage={"percentage": 10})
    assert (found.amount, found.discount, found.charges, found.total) == (100, 10, 5, 95)


def test_free_units_are_taken_off_before_tiers_and_packages():
    package = {"type": "package", "amount": "10", "quantityPerPackage": "20"}
    found = rated(package, "41", usage={"quantity": "21"})
    assert (found.free, found.total) == (21, 10)
    graduated = {"type": "tiered", "mode": "graduated", "tiers": PUBLISHED}
    assert rated(graduated, "12", usage={"quantity": "8"}).total == 100
    assert rated(graduated, "3", usage={"quantity": "8"}).free == 3, "no more is free than was used"


def test_every_detailed_line_is_rounded_by_itself():
    tiers = [tier("1.5", unit="0.333"), tier(None, unit="0.333")]
    graduated = {"type": "tiered", "mode": "graduated", "tiers": tiers}
    assert rated(graduated, "3").total == Decimal("1.00")
    assert rated({"type": "unit", "amount": "0.333"}, "3").total == Decimal("1.00")
    tenth = {"percentage": {"percentage": 12.5}}
    assert rated({"type": "unit", "amount": "0.335"}, "1", **tenth).discount == Decimal("0.04")
    assert rated({"type": "unit", "amount": "0.5"}, "1", "JPY").total == 1


def test_a_flat_price_is_prorated_before_its_discount():
    """OM-04 of the published examples, and ten per cent off it."""
    share = Fraction(871482, 2678400)
    flat = {"type": "flat", "amount": "20"}
    assert rate(flat, Decimal(1), share, {}, "USD").total == Decimal("6.51")
    assert rate(flat, Decimal(1), share, {"percentage": {"percentage": 10}}, "USD").total == Decimal("5.86")


@pytest.mark.parametrize(
    "card",
    [
        {**BURST, "price": {"type": "tiered", "mode": "graduated", "tiers": []}},
        {**BURST, "price": {"type": "tiered", "tiers": PUBLISHED}},
        {**BURST, "price": {"type": "tiered", "mode": "volume", "tiers": PUBLISHED[:-1]}},
        {**BURST, "price": {"type": "tiered", "mode": "volume", "tiers": [PUBLISHED[3], PUBLISHED[3]]}},
        {**BURST, "price": {"type": "tiered", "mode": "volume", "tiers": [PUBLISHED[1], *PUBLISHED[:1]]}},
        {
            **BURST,
            "price": {
                "type": "tiered",
                "mode": "volume",
                "tiers": [PUBLISHED[1], PUBLISHED[0], PUBLISHED[3]],
            },
        },
        {**BURST, "price": {"type": "tiered", "mode": "volume", "tiers": [tier("5"), PUBLISHED[3]]}},
        {
            **BURST,
            "price": {
                "type": "tiered",
                "mode": "volume",
                "tiers": [{"unitPrice": {"type": "unit", "amount": "1"}}],
            },
        },
        {**BURST, "price": {"type": "package", "amount": "10", "quantityPerPackage": "0"}},
        {**BURST, "price": {"type": "package", "amount": "10"}},
        {**BURST, "price": {"type": "unit", "amount": "1", "minimumAmount": "9", "maximumAmount": "8"}},
        {**BURST, "discounts": {"usage": {"quantity": "0"}}},
        {**BURST, "discounts": {"fixed": {"amount": "1"}}},
        {**BURST, "price": None, "discounts": {"percentage": {"percentage": 5}}},
        {**FLAT, "discounts": {"usage": {"quantity": "5"}}},
        {**FLAT, "discounts": {"percentage": {"percentage": "10"}}},
        {**FLAT, "price": {"type": "unit", "amount": "1"}},
        {**FLAT, "featureKey": "h100"},
        {**FLAT, "key": "k" * 65},
    ],
)
def test_a_card_that_breaks_a_rule_creates_nothing(sandbox, billed, card):
    phases = [{"key": "default", "name": "Default", "duration": None, "rateCards": [card]}]
    body = {"customerKey": "acme", "timing": "immediate", "customPlan": {**PLAN, "phases": phases}}
    assert sandbox.om.post("/subscriptions", json=body).status_code in (400, 404)
    assert sandbox.effects()["openmeter"]["subscription"] == []


def plan(*cards):
    return [{"key": "default", "name": "Default", "duration": None, "rateCards": list(cards)}]


def test_an_invoice_shows_free_units_discounts_and_the_minimum(sandbox, billed, use, invoices):
    price = {"type": "tiered", "mode": "graduated", "tiers": PUBLISHED, "minimumAmount": "200"}
    discounts = {"percentage": {"percentage": 10}, "usage": {"quantity": "3"}}
    card = {**BURST, "price": price, "discounts": discounts}
    subscription = billed(phases=plan(card))
    use("u1", "25", "2027-03-02T00:00:00Z")
    [shown] = sandbox.om.get(f"/subscriptions/{subscription['id']}").json()["phases"][0]["items"]
    assert (shown["price"], shown["discounts"]) == (price, discounts)
    sandbox.at("2027-04-01T01:00:00Z")
    [invoice] = invoices()
    [line] = invoice["lines"]
    assert (line["meteredQuantity"], line["quantity"]) == ("25", "22")
    assert line["discounts"]["usage"][0]["quantity"] == "3"
    names = ("amount", "discountsTotal", "chargesTotal", "total")
    assert [line["totals"][name] for name in names] == ["182", "18.2", "36.2", "200"]
    assert invoice["totals"] == line["totals"]
    assert [child["category"] for child in line["children"]] == ["regular"] * 4 + ["commitment"]
    assert len({child["id"] for child in line["children"]}) == 5
    [discount] = line["children"][0]["discounts"]["amount"]
    assert (discount["reason"]["type"], discount["amount"]) == ("ratecard_percentage", "10")


def test_a_fee_in_advance_is_invoiced_at_once_and_one_that_is_once_never_again(sandbox, billed, invoices):
    ahead = {**FLAT, "price": {**FLAT["price"], "paymentTerm": "in_advance"}}
    setup = {**FLAT, "key": "setup", "name": "Setup", "billingCadence": None}
    setup["price"] = {"type": "flat", "amount": "1500"}
    billed(phases=plan(ahead, setup))
    sandbox.settle()
    [first] = invoices()
    assert first["totals"]["total"] == "37500"
    sandbox.at("2027-05-01T00:00:00Z")
    assert [invoice["totals"]["total"] for invoice in invoices()] == ["37500", "36000", "36000"]


def test_what_was_invoiced_in_advance_is_not_credited_when_the_price_changes(sandbox, billed, invoices):
    """OM-08 of the published examples: 6.00 for January, then 10.00 from the second day on."""
    ahead = {**FLAT, "price": {"type": "flat", "amount": "6.00", "paymentTerm": "in_advance"}}
    subscription = billed(phases=plan(ahead))
    sandbox.at("2027-03-02T00:00:00Z")
    dearer = {**ahead, "price": {**ahead["price"], "amount": "10.00"}}
    body = {
        "timing": "immediate",
        "customizations": [
            {"op": "remove_item", "phaseKey": "default", "itemKey": "h100"},
            {"op": "add_item", "phaseKey": "default", "rateCard": dearer},
        ],
    }
    assert sandbox.om.patch(f"/subscriptions/{subscription['id']}", json=body).status_code == 200
    sandbox.settle()
    assert [invoice["totals"]["total"] for invoice in invoices()] == ["6", "9.68"]
