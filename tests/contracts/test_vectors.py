"""Published worked examples of prices, proration, tiers, loans, calendars and splits.

Those that need a log of edits are in test_vectors_edits.py; together the two leave none out.
"""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from commerce.money import allocate, round_half_up
from contracts.rules import charges, commitments
from contracts.rules.amortisation import amortise, due_dates, payoff, row_rates
from contracts.rules.daycount import month_share, months_between
from contracts.rules.periods import anchored, billing_period, periods_between
from contracts.rules.pricing import prorate, tax_on
from contracts.rules.sla import Availability, Charged, sla_credit
from contracts.rules.splits import split_invoice
from contracts.rules.state import Price, Tier
from contracts.rules.terms import SettlementTerms, Sla, SlaTier
from tests.contracts import test_vectors_edits
from tests.contracts.vectors import ELSEWHERE, TESTED, VECTORS, Vector, examples

PLAIN = (
    "KB-01", "KB-02", "KB-03", "KB-04", "KB-05", "KB-06", "KB-07", "KB-10", "KB-11", "KB-12", "KB-13",
    "KB-14", "KB-15", "KB-18", "LA-01", "LA-03", "LA-04", "LA-06", "ME-01", "OM-04",
)  # fmt: skip
# Where the anchored period follows from an anchor day: the rest is only told which one it was.
ANCHORED = {"KB-01": 31, "KB-03": 31, "KB-06": 31, "KB-13": 9, "KB-15": 15, "KB-18": 31, "OM-04": 1}
MONTHLY = Fraction(1, 12)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=UTC)


def whole(amount: str | int | float) -> Decimal:
    return Decimal(str(amount))


def proration(vector: Vector) -> int:
    served = at(vector["service_to"]) - at(vector["service_from"])
    return prorate(abs(vector["amount_minor"]), served, at(vector["full_to"]) - at(vector["full_from"]))


def priced(model: Any, tiers: list[Any] = [], **given: Any) -> Price:  # noqa: B006
    """A price in yen: the examples' units are whole."""
    return Price(model, currency="JPY", tiers=tuple(tiers), **given)


def per_unit(tiers: list[list[Any]]) -> list[Tier]:
    return [Tier(None if up_to is None else Decimal(up_to), whole(rate)) for up_to, rate in tiers]


def test_every_example_is_tested_here_or_is_somebody_elses() -> None:
    assert test_vectors_edits.__name__
    assert set(VECTORS) == TESTED
    assert not TESTED & set(ELSEWHERE)


@examples(*PLAIN)
def test_a_line_is_charged_or_credited_for_the_time_of_its_period(vector: Vector) -> None:
    assert proration(vector) == abs(vector["expected"])


@examples("KB-19")
def test_after_a_pause_the_period_keeps_its_thirty_days_where_kill_bill_takes_thirty_one(
    vector: Vector,
) -> None:
    assert proration(vector) == vector["ours"] == 33_333
    assert vector["expected"] == 32_258


def test_the_anchored_period_of_an_example_follows_from_the_anchor_day() -> None:
    for id_, anchor_day in ANCHORED.items():
        vector = VECTORS[id_]
        since = at(vector["service_from"])
        period = billing_period(anchor_day, since, since)
        assert (period.full_start, period.full_end) == (at(vector["full_from"]), at(vector["full_to"])), id_


@examples("FX-01")
def test_a_change_of_plan_credits_the_old_and_charges_the_new_each_rounded_once(vector: Vector) -> None:
    for name, (old, new, left) in vector["inputs"].items():
        part, full = (timedelta(days=int(days)) for days in left.split("/"))
        credit, charge = -prorate(old, part, full), prorate(new, part, full)
        assert [credit, charge, credit + charge] == vector["expected"][name]


@examples("OW-01")
def test_four_servers_from_the_tenth_of_march(vector: Vector) -> None:
    period = billing_period(1, at("2026-03-10"), at("2026-03-10"))
    price = Price("unit", Decimal(vector["inputs"]["rate_minor"]), "JPY")
    month = charges.charge(price, vector["inputs"]["qty"])
    assert prorate(month, period.end - period.start, period.full) == vector["expected"] == 5_109_677


@examples("SF-01")
def test_ten_months_and_a_stub_of_eight_days(vector: Vector) -> None:
    start, end = at(vector["inputs"]["from"]), at(vector["inputs"]["to_inclusive"]) + timedelta(days=1)
    periods = list(periods_between(vector["inputs"]["anchor_day"], start, end))
    served = [Fraction((period.end - period.start).days, period.full.days) for period in periods]
    assert (served[0], len(served[1:]), set(served[1:])) == (Fraction(8, 31), 10, {1})
    prices = [prorate(vector["inputs"]["list"], p.end - p.start, p.full) for p in periods]
    assert sum(prices) == vector["expected"]["price"]


@examples("AL-01")
def test_a_split_gives_the_odd_units_to_the_largest_remainders(vector: Vector) -> None:
    assert [allocate(total, weights) for total, weights in vector["inputs"]["cases"]] == vector["expected"]


@examples("OW-06")
def test_a_hundred_and_a_cent_in_three_parts(vector: Vector) -> None:
    assert allocate(vector["inputs"]["total"], vector["inputs"]["weights"]) == vector["expected"]


def rows(principal: int, rates: list[Fraction]) -> list[list[int]]:
    return [
        [row.payment_minor, row.interest_minor, row.principal_minor, row.balance_minor]
        for row in amortise(principal, rates)
    ]


@examples("AM-02")
def test_the_level_loan_of_24_months(vector: Vector) -> None:
    given, expected = vector["inputs"], vector["expected"]
    found = rows(given["principal_minor"], [Fraction(given["apr"]) / 12] * given["n"])
    assert [[k, *row] for k, row in enumerate(found, 1)] == expected["schedule"]
    assert found[0][0] == expected["payment"]
    assert sum(row[1] for row in found) == expected["interest"]


# What each table's text says of its rate: the yearly one, and the part of a year of one row.
EVEN = {
    "AM-03": (Fraction("0.094822"), MONTHLY, 6),
    "AM-05": (Fraction("0.094822"), Fraction(7, 364), 6),
    "AM-07": (Fraction("0.094822"), Fraction(15, 360), 6),
    "AM-08": (Fraction(0), MONTHLY, 4),
}


@examples(*EVEN)
def test_loans_in_rows_of_even_length(vector: Vector) -> None:
    apr, part, count = EVEN[vector["id"]]
    assert rows(vector["inputs"]["principal_minor"], [apr * part] * count) == vector["expected"]


@examples("AM-04")
def test_a_loan_by_actual_days_of_365(vector: Vector) -> None:
    dues = due_dates(date(2024, 2, 1), 6)
    rates = row_rates(Decimal("0.15678"), date(2024, 1, 1), dues, "actual_365")
    assert rows(vector["inputs"]["principal_minor"], rates) == vector["expected"]


@examples("AM-06")
def test_the_level_payment_is_not_shifted_to_please_the_last_row_as_fineract_does(vector: Vector) -> None:
    found = rows(vector["inputs"]["principal_minor"], [Fraction("0.094822") * Fraction(14, 364)] * 3)
    assert found == vector["ours"]
    assert found != vector["expected"]


@examples("AM-12")
def test_a_payoff_is_the_balance_and_the_interest_of_the_days_that_have_passed(vector: Vector) -> None:
    rate = Fraction("0.07") * MONTHLY
    table = amortise(vector["inputs"]["principal_minor"], [rate] * 6)
    after_one = payoff(table[0].balance_minor, rate, elapsed=14, days=29)
    before = payoff(vector["inputs"]["principal_minor"], rate, elapsed=14, days=31)
    expected = vector["expected"]
    for found, name in ((after_one, "02-15"), (before, "01-15 (row 1 unpaid)")):
        assert (found.balance_minor, found.interest_minor, found.total_minor) == (
            expected[name]["balance"], expected[name]["accrued"], expected[name]["payoff"],
        )  # fmt: skip


@examples("FX-02")
def test_a_commitment_of_hours_is_topped_up_and_what_exceeds_it_costs_more(vector: Vector) -> None:
    given = vector["inputs"]
    rate = given["rate"]

    def total(used: int, committed: int, true_up: bool) -> Fraction:
        units = commitments.units_of(Fraction(used), Fraction(committed))
        short = units.short if true_up else 0
        return (units.within + short) * rate + units.over * rate * Fraction(str(given["overage"]))

    cases = zip(given["use"], given["true_up"], strict=True)
    assert [total(used, given["commit_hours"], up) for used, up in cases] == vector["expected"]["totals"]
    windowed = [total(used, given["windowed"]["commit"], True) for used in given["windowed"]["use"]]
    assert windowed == vector["expected"]["windowed"]
    assert sum(windowed) == vector["expected"]["windowed_total"]


@examples("LA-07")
def test_the_true_up_of_a_stub_asks_for_the_stubs_part_of_the_commitment(vector: Vector) -> None:
    given = vector["inputs"]
    stub, full = timedelta(days=2), timedelta(days=29)
    window = commitments.window(at("2024-02-28"), at("2024-03-01"), full)
    used = prorate(given["plan"], stub, full) + given["usage"]
    assert commitments.shortfall(given["commit"], used, window.share) == vector["expected"]["true_up"]


@examples("OM-11")
def test_a_minimum_is_charged_on_top_of_what_no_usage_costs(vector: Vector) -> None:
    given = vector["inputs"]
    tier = Tier(None, Decimal(0), flat_minor=given["tier1_flat"])
    price = priced("volume", [tier], min_minor=given["minimum"])
    usage = charges.charge(price, given["qty"])
    assert usage == vector["expected"]["usage"]
    assert charges.within_bounds(price, usage) - usage == vector["expected"]["commitment_line"]


@examples("OM-09")
def test_graduated_tiers_charge_each_unit_in_its_own_tier(vector: Vector) -> None:
    tiers = []
    for up_to, text in vector["inputs"]["tiers"]:
        flat = text.removeprefix("flat ") if text.startswith("flat") else "0"
        rate = text.removesuffix("/unit") if text.endswith("/unit") else "0"
        tiers.append(Tier(None if up_to is None else Decimal(up_to), Decimal(rate), int(flat)))
    parts = charges.graduated(priced("graduated", tiers), Fraction(vector["inputs"]["qty"]))
    assert [part.minor for part in parts] == vector["expected"]["parts"]
    assert charges.charge(priced("graduated", tiers), 22) == vector["expected"]["total"] == 182


@examples("ST-02")
def test_volume_tiers_charge_all_units_at_the_tier_that_they_reach(vector: Vector) -> None:
    price = priced("volume", per_unit(vector["inputs"]["volume"]))
    for units, expected in vector["expected"].items():
        assert charges.charge(price, Decimal(units)) == expected


@examples("ST-03")
def test_the_same_tiers_read_as_volume_and_as_graduated(vector: Vector) -> None:
    tiers = per_unit(vector["inputs"]["tiers"])
    for model in ("volume", "graduated"):
        for units, expected in vector["expected"][model].items():
            assert charges.charge(priced(model, tiers), Decimal(units)) == expected


@examples("OM-12")
def test_a_started_package_is_charged_whole(vector: Vector) -> None:
    given = vector["inputs"]
    price = priced("package", rate=Decimal(given["amount"]), package_size=Decimal(given["size"]))
    for units, expected in vector["expected"].items():
        assert charges.charge(price, Decimal(units)) == expected


@examples("OW-05")
def test_hours_beyond_the_commitment_cost_the_rate_times_the_factor(vector: Vector) -> None:
    given = vector["inputs"]
    price = Price("unit", Decimal(given["rate"]), "USD")
    units = commitments.units_of(Fraction(given["hours"]), Fraction(given["commit_hours"]))
    assert round_half_up(charges.charge(price, units.within)) == vector["expected"]["commit"]
    over = charges.charge(price, units.over) * Fraction(given["overage_factor"])
    assert round_half_up(over) == vector["expected"]["overage"]


@examples("KB-20")
def test_a_line_never_gives_back_more_than_is_left_of_it(vector: Vector) -> None:
    """241.89 of service is unused, yet 10.00 of the line was given back before: 239.95."""
    given, expected = vector["inputs"], vector["expected"]
    day, month = timedelta(days=1), timedelta(days=31)
    retained = prorate(given["line_minor"], day, month)
    new_line = prorate(given["new_rate_minor"], month - day, month)
    credit = charges.credit(given["line_minor"], retained, given["item_adj_minor"])
    assert charges.credit(given["line_minor"], retained) == -24_189
    assert credit == expected["credit_minor"]
    assert new_line == expected["new_line_minor"]
    assert -(credit + new_line) == expected["credit_balance_minor"]


@examples("KB-27")
def test_an_annual_line_given_up_on_its_first_day_pays_for_months(vector: Vector) -> None:
    given = vector["inputs"]
    balance, left = -charges.credit(given["annual"], 0), []
    for period in periods_between(1, at("2012-05-01"), at("2012-08-01")):
        balance -= prorate(given["monthly"], period.end - period.start, period.full)
        left.append(balance)
    assert left == list(vector["expected"].values())


@examples("OM-08")
def test_an_edit_credits_the_line_already_issued_where_openmeter_bills_january_twice(vector: Vector) -> None:
    """OpenMeter leaves the issued 6.00 beside the new 9.68; we give back what January no longer owes."""
    expected, issued = vector["expected"], vector["inputs"]["issued_paid_line_minor"]
    day, january = timedelta(days=1), timedelta(days=31)
    assert prorate(1000, january - day, january) == expected["openmeter_new_line_minor"]
    credit = charges.credit(issued, prorate(issued, day, january))
    assert credit == expected["OUR_credit_minor"]
    assert credit != expected["openmeter_credit_minor"]


@examples("LA-12")
def test_a_charge_and_its_tax_come_to_the_number_that_the_wallet_pays(vector: Vector) -> None:
    given = vector["inputs"]
    due = given["charge"] + tax_on(given["charge"], Decimal(given["tax_pct"]) / 100)
    assert due == vector["expected"]["applied"]
    assert given["wallet"] - due == vector["expected"]["wallet_after"]


@examples("OW-07")
def test_nine_hours_down_in_a_month_of_720(vector: Vector) -> None:
    given, expected = vector["inputs"], vector["expected"]
    down, month = timedelta(hours=given["down_hours"]), timedelta(hours=given["month_hours"])
    found = Availability(served=month, down=down)
    tiered = Sla(credit="tiered", tiers=(SlaTier(Decimal("0.99"), Decimal("0.1")),))
    assert found.uptime(tiered) == Fraction(expected["uptime"].removesuffix("%")) / 100
    charges = [Charged(given["mrc"], month, found)]
    assert sla_credit(charges, tiered) == [expected["tier_10pct"]]
    assert sla_credit(charges, Sla(credit="pro_rata")) == [expected["pro_rata_1h"]]


@examples("OW-08")
def test_an_uplift_of_three_and_a_half_percent(vector: Vector) -> None:
    given = vector["inputs"]
    raised = charges.uplifted(priced("unit", rate=Decimal(given["rate"])), Decimal(given["uplift_pct"]) / 100)
    assert raised.minor_rate == vector["expected"] == 1_863_000


@examples("OW-09")
def test_the_fee_comes_off_the_seller_and_the_tax_on_top_of_the_buyer(vector: Vector) -> None:
    given, expected = vector["inputs"], vector["expected"]
    seller, tax = UUID(int=1), tax_on(given["gross"], Decimal(given["tax_pct"]) / 100)
    split = split_invoice([(seller, given["gross"], tax)], SettlementTerms(Decimal(given["fee_pct"]) / 100))
    assert (split.fee_minor, split.sellers[seller], split.tax_minor) == (
        expected["fee"], expected["seller_net"], expected["tax"],
    )  # fmt: skip


@examples("OW-11")
def test_an_early_fee_is_a_share_of_the_months_that_remain(vector: Vector) -> None:
    given = vector["inputs"]
    months, share = Fraction(given["remaining_months"]), Decimal(given["fee_pct"]) / 100
    assert charges.early_fee(given["mrc"], months, share) == vector["expected"]


@examples("OW-13")
def test_monthly_terms_from_the_last_of_january_clamp_and_return(vector: Vector) -> None:
    """Which of these a scheduler catches up on after downtime is tested where the scheduler is."""
    start = at(vector["inputs"]["start"])
    ends = [period.end for period in periods_between(start.day, start, at("2026-04-30"))]
    assert [f"{end:%Y-%m-%d}" for end in ends] == vector["expected"]["term_ends"]
    assert ends[0] == anchored(2026, 2, 31)


@examples("CB-01")
def test_a_terms_value_is_the_same_in_each_of_its_cycles(vector: Vector) -> None:
    given, per_cycle = vector["inputs"], vector["expected"]["per_cycle"]
    start = at("2026-01-01")
    periods = list(periods_between(1, start, at("2027-01-01")))
    values = [prorate(per_cycle, period.end - period.start, period.full) for period in periods]
    assert (len(values), sum(values)) == (given["billing_cycle"], given["total_contract_value"])
    assert sum(values[1:]) == per_cycle * given["remaining"]


@examples("ZU-01")
def test_the_part_of_a_month_by_three_day_counts(vector: Vector) -> None:
    names = {"actual": "actual", "actual_30": "actual_360", "30_360": "strict_30_360"}
    for i, row in enumerate(vector["inputs"]["rows"]):
        start, last = (date.fromisoformat(day) for day in row)
        for count, name in names.items():
            found = month_share(start, last + timedelta(days=1), count)  # type: ignore[arg-type]
            assert found == Fraction(vector["expected"][name][i])


@examples("ZU-02")
def test_the_value_of_more_units_until_the_end_of_the_year(vector: Vector) -> None:
    given = vector["inputs"]
    start, end = date.fromisoformat(given["from"]), date.fromisoformat(given["to"]) + timedelta(days=1)
    monthly = given["delta_qty"] * given["list"] * 100
    for count, name in (("actual_30", "TCB_30day"), ("actual", "TCV_actual")):
        value = round_half_up(monthly * months_between(start, end, count))  # type: ignore[arg-type]
        assert value == Decimal(vector["expected"][name]) * 100
