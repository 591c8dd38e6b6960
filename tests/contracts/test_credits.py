"""Credits for missed uptime as desired lines: of what, when, to whom, and by which terms."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commerce.ids import uuid7
from contracts.rules.fold import Edit
from contracts.rules.line_service import LineService
from contracts.rules.lines import DesiredLine
from contracts.rules.operations.commitment import SetCommitment
from contracts.rules.operations.discounts import ApplyDiscount, Funding
from contracts.rules.operations.holds import Resume, Suspend
from contracts.rules.operations.prices import ChangePrice
from contracts.rules.operations.products import AddProduct, ChangeQuantity, RemoveProduct
from contracts.rules.operations.terminate import Terminate
from contracts.rules.operations.terms import ChangeTerms
from contracts.rules.operations.transfer import TransferOwnership
from contracts.rules.pricing import tax_on
from contracts.rules.schema import Patch
from contracts.rules.service import CONTRACT, RESTORED, VOID, Report
from contracts.rules.state import Amount
from contracts.rules.terms import Billing, Sla, SlaTier, Tax, Terms
from tests.contracts.logs import (
    BUYER,
    HOURS,
    SELLER,
    SERVERS,
    SETUP,
    Step,
    at,
    contract,
    desired,
    hours,
    report,
    servers,
    usd,
)
from tests.contracts.vectors import Vector, examples

NEW_BUYER, NEW_SELLER, DEAL = UUID(int=11), UUID(int=12), UUID(int=50)
APRIL = "2026-04-01", "2026-05-01"
EVER = at("2030-01-01")
PRO_RATA = Sla(credit="pro_rata")
TIERED = Sla()
NINE_HOURS = (("in_service", "2026-03-01"), ("down", "2026-04-10T00:00"), ("in_service", "2026-04-10T09:00"))


def units(*reports: Report, until: datetime = EVER, known_at: datetime | None = None) -> LineService:
    return LineService(lambda: reports, until=until, known_at=known_at)


def said(*pairs: tuple[str, str], unit: str = "u-1", line: UUID = SERVERS) -> list[Report]:
    return [report(state, when, unit, line) for state, when in pairs]


def live(
    *then: Step,
    sla: Sla = PRO_RATA,
    start: str = "2026-03-01",
    quantity: int = 1,
    tax: str = "0",
    **given: Any,
) -> list[Edit]:
    """A server at 18,000.00 a month; April has 720 hours."""
    terms = Terms(sla=sla, tax=Tax(rate=Decimal(tax)))
    return contract(start, [servers(quantity=quantity)], *then, terms=terms, **given)


def credits(edits: Sequence[Edit], reports: Iterable[Report], *asked: str, **given: Any) -> list[DesiredLine]:
    start, end = asked or APRIL
    lines = desired(edits, start, end, service=units(*reports, **given))
    return [line for line in lines if line.kind == "sla_credit"]


def nets(*args: Any, **given: Any) -> list[int]:
    return [line.net_minor for line in credits(*args, **given)]


# How much


@examples("OW-07")
def test_nine_hours_down_in_a_month_are_a_credit_of_1_800_00_or_pro_rata_of_225_00(vector: Vector) -> None:
    inputs, expected = vector["inputs"], vector["expected"]
    assert (inputs["mrc"], inputs["down_hours"]) == (1_800_000, 9)
    assert timedelta(hours=inputs["month_hours"]) == at(APRIL[1]) - at(APRIL[0])
    down = said(*NINE_HOURS)
    assert nets(live(sla=TIERED), down) == [-expected["tier_10pct"]] == [-180_000]
    assert nets(live(sla=PRO_RATA), down) == [-expected["pro_rata_1h"]] == [-22_500]


def test_a_credit_says_whose_it_is_of_which_line_and_that_the_seller_bears_it() -> None:
    (line,) = credits(live(), said(*NINE_HOURS))
    assert (line.line_id, line.source_id, line.product) == (SERVERS, SERVERS, "h100-server")
    assert (line.seller_id, line.buyer_id, line.owner_epoch, line.funded_by) == (SELLER, BUYER, 1, "seller")
    assert (line.quantity, line.rate) == (1, -225)
    assert (line.start, line.end, line.period_start) == (at(APRIL[0]), at(APRIL[1]), at(APRIL[0]))


def test_without_outages_or_without_anything_known_of_units_there_is_no_credit() -> None:
    assert nets(live(), said(("in_service", "2026-03-01"))) == []
    assert nets(live(), []) == []
    assert [line.kind for line in desired(live(), *APRIL)] == ["recurring"]


def test_the_worst_tier_reached_counts_and_a_credit_stops_at_its_cap() -> None:
    dead = said(("in_service", "2026-03-01"), ("down", "2026-04-01"))
    assert nets(live(sla=TIERED), dead) == [-540_000]
    assert nets(live(), dead) == [-1_800_000]
    assert nets(live(sla=replace(TIERED, cap=Decimal("0.25"))), dead) == [-450_000]
    assert nets(live(sla=replace(PRO_RATA, cap=Decimal("0.25"))), dead) == [-450_000]


def test_degraded_time_counts_by_its_weight() -> None:
    slow = said(
        ("in_service", "2026-03-01"), ("degraded", "2026-04-10T00:00"), ("in_service", "2026-04-10T18:00")
    )
    assert nets(live(), slow) == [-22_500]
    assert nets(live(sla=replace(PRO_RATA, degraded_weight=Decimal(0))), slow) == []


def test_one_of_four_units_down_gives_back_its_quarter_pro_rata_and_a_tier_of_all_by_the_uptime_of_all() -> (
    None
):
    dead = [
        *said(*NINE_HOURS),
        *(one for unit in ("u-2", "u-3", "u-4") for one in said(("in_service", "2026-03-01"), unit=unit)),
    ]
    assert nets(live(quantity=4), dead) == [-22_500]
    # 9 of 2,880 hours are 99.69 %: 5 % of 72,000.00.
    assert nets(live(quantity=4, sla=TIERED), dead) == [-360_000]


def test_a_stub_gives_back_its_own_charge_by_the_time_that_it_billed() -> None:
    """8,709.68 for 15 of 31 days; 9 of their 360 hours down are 217.74 of it, and not a half of that."""
    stub = live(start="2026-04-01", billing=Billing(anchor_day=16))
    down = said(("in_service", "2026-04-01"), *NINE_HOURS[1:])
    (charge, credit) = desired(stub, "2026-04-01", "2026-04-16", service=units(*down))
    assert (charge.net_minor, credit.net_minor) == (870_968, -21_774)
    assert credit.net_minor == -round(charge.net_minor * 9 / 360)


def test_each_price_gives_back_the_part_that_failed_under_it() -> None:
    halved = live(("change_price", ChangePrice(SERVERS, usd("9000.00")), "2026-04-16"))
    assert nets(halved, said(*NINE_HOURS)) == [-22_500]
    later = said(
        ("in_service", "2026-03-01"), ("down", "2026-04-20T00:00"), ("in_service", "2026-04-20T09:00")
    )
    assert nets(halved, later) == [-11_250]


def test_more_units_down_than_are_billed_give_back_no_more_than_the_charge_of_that_time() -> None:
    both = [
        one
        for unit in ("u-1", "u-2")
        for one in said(
            ("in_service", "2026-03-01"), ("down", "2026-04-01"), ("in_service", "2026-04-16"), unit=unit
        )
    ]
    halved = live(("change_price", ChangePrice(SERVERS, usd("9000.00")), "2026-04-16"))
    assert nets(halved, both) == [-900_000]


def test_a_sum_is_rounded_once_half_up() -> None:
    """Two charges of 0.05 with a tenth of each: 0.01 for both together, not 0.01 for each."""
    cents = contract(
        "2026-03-01", [servers("0.10", 1)],
        ("change_price", ChangePrice(SERVERS, usd("0.10", max_minor=9)), "2026-04-16"),
        terms=Terms(sla=Sla(tiers=(SlaTier(Decimal(1), Decimal("0.1")),))),
    )  # fmt: skip
    assert nets(cents, said(*NINE_HOURS)) == [-1]


# Of what


def test_the_base_is_what_the_buyer_pays_after_discounts_whoever_bears_them() -> None:
    for funder in ("seller", "platform"):
        off = ApplyDiscount(
            UUID(int=100), kind="percent", percent=Decimal("0.2"), funded_by=Funding(funder)  # type: ignore[arg-type]
        )  # fmt: skip
        assert nets(live(("apply_discount", off, "2026-03-01")), said(*NINE_HOURS)) == [-18_000]


def test_what_was_free_gives_nothing_back() -> None:
    off = ApplyDiscount(UUID(int=100), kind="fixed_per_period", amount=Amount(9_000_000, "USD"))
    assert nets(live(("apply_discount", off, "2026-03-01"), tax="0.0825"), said(*NINE_HOURS)) == []


def test_use_and_what_is_charged_once_are_no_base() -> None:
    setup = AddProduct(SETUP, "install", SELLER, usd("500.00", "one_off"), 1, kind="one_off", unit="install")
    edits = contract("2026-04-01", [servers(quantity=1), hours(), setup], terms=Terms(sla=PRO_RATA))
    dead = [
        one
        for line in (SERVERS, HOURS, SETUP)
        for one in said(("in_service", "2026-04-01"), *NINE_HOURS[1:], unit=f"u-{line}", line=line)
    ]
    lines = desired(edits, *APRIL, {HOURS: [("2026-04-02", "100")]}, service=units(*dead))
    assert sorted(line.kind for line in lines) == ["one_off", "recurring", "sla_credit", "usage"]
    assert [(line.line_id, line.net_minor) for line in lines if line.kind == "sla_credit"] == [
        (SERVERS, -22_500)
    ]


def test_tax_is_that_of_what_is_left_of_each_charge() -> None:
    edits = live(("change_quantity", ChangeQuantity(SERVERS, quantity=2), "2026-04-08"), tax="0.0825")
    lines = desired(edits, *APRIL, service=units(*said(*NINE_HOURS)))
    first, second, credit = lines
    left = [first.net_minor, second.net_minor + credit.net_minor]
    assert sum(line.tax_minor for line in lines) == sum(tax_on(net, Decimal("0.0825")) for net in left)
    # Of 0.10 the tax of 5 % is 0.01, and of the half that is left 0.00: all of it is given back.
    cents = contract("2026-03-01", [servers("0.10", 1)], terms=Terms(sla=PRO_RATA, tax=Tax(Decimal("0.05"))))
    half = said(("in_service", "2026-03-01"), ("down", "2026-04-16"))
    assert [(one.net_minor, one.tax_minor) for one in desired(cents, *APRIL, service=units(*half))] == [
        (10, 1), (-5, -1),
    ]  # fmt: skip
    dead = said(("in_service", "2026-03-01"), ("down", "2026-04-01"))
    also = said(("in_service", "2026-03-01"), ("down", "2026-04-01"), unit="u-2")
    lines = desired(edits, *APRIL, service=units(*dead, *also))
    assert (sum(one.net_minor for one in lines), sum(one.tax_minor for one in lines)) == (0, 0)


def test_a_credit_does_not_lower_what_counts_as_spent() -> None:
    spend = SetCommitment(DEAL, kind="minimum_spend", amount_minor=2_000_000)
    edits = live(("set_commitment", spend, "2026-03-01"))
    lines = desired(edits, *APRIL, service=units(*said(*NINE_HOURS)))
    assert [(line.kind, line.net_minor) for line in lines] == [
        ("recurring", 1_800_000), ("sla_credit", -22_500), ("true_up", 200_000),
    ]  # fmt: skip


# When


def test_a_credit_is_due_when_its_period_ends_whatever_part_of_it_is_asked_for() -> None:
    edits, down = live(), said(*NINE_HOURS)
    assert nets(edits, down, "2026-04-01", "2026-04-30T23:59") == []
    assert nets(edits, down, "2026-04-20", "2026-05-01") == [-22_500]
    assert nets(edits, down, "2026-04-20", "2026-05-02") == [-22_500]
    assert nets(edits, down, "2026-05-01", "2026-06-01") == []


def test_of_a_period_that_is_not_over_nothing_is_credited() -> None:
    edits, down = live(), said(("in_service", "2026-03-01"), ("down", "2026-04-10"))
    assert nets(edits, down, until=at("2026-04-30T23:59")) == []
    assert nets(edits, down, until=at("2026-05-01")) == [-1_260_000]


def test_the_window_is_the_whole_period_of_the_cadence() -> None:
    """9 of the 2,160 hours of a quarter are 99.58 %: 5 % of three months."""
    quarterly = live(start="2026-01-01", sla=TIERED, billing=Billing(cadence="P3M"))
    down = said(
        ("in_service", "2026-01-01"), ("down", "2026-02-10T00:00"), ("in_service", "2026-02-10T09:00")
    )
    assert nets(quarterly, down, "2026-01-01", "2026-03-01") == []
    assert nets(quarterly, down, "2026-01-01", "2026-04-01") == [-270_000]


def test_a_contract_that_ends_gives_its_credit_at_its_end() -> None:
    edits = live(("terminate", Terminate("date"), "2026-04-16"))
    (credit,) = credits(edits, said(*NINE_HOURS), "2026-04-01", "2026-04-16")
    assert (credit.net_minor, credit.end) == (-22_500, at("2026-04-16"))
    gone = live(("remove_product", RemoveProduct(SERVERS), "2026-04-16"))
    assert nets(gone, said(*NINE_HOURS)) == [-22_500]


# Whose


def test_each_owner_is_credited_for_his_own_days_when_they_end() -> None:
    edits = live(("transfer_ownership", TransferOwnership("buyer", NEW_BUYER), "2026-04-16"), sla=TIERED)
    before, after = said(*NINE_HOURS), said(
        ("in_service", "2026-03-01"), ("down", "2026-04-20T00:00"), ("in_service", "2026-04-20T09:00")
    )  # fmt: skip
    (old,) = credits(edits, before)
    (new,) = credits(edits, after)
    # 9 of 360 hours are 97.5 %: a tenth of his half month.
    assert (old.buyer_id, old.owner_epoch, old.net_minor) == (BUYER, 1, -90_000)
    assert (new.buyer_id, new.owner_epoch, new.net_minor) == (NEW_BUYER, 2, -90_000)
    assert (old.end, new.start) == (at("2026-04-16"), at("2026-04-16"))
    assert nets(edits, before, "2026-04-01", "2026-04-16") == [-90_000]
    assert nets(edits, before, "2026-04-16", "2026-05-01") == []


def test_each_seller_bears_the_credit_of_his_own_days() -> None:
    taken = TransferOwnership("seller", NEW_SELLER, old_party_id=SELLER)
    found = credits(live(("transfer_ownership", taken, "2026-04-10T03:00")), said(*NINE_HOURS))
    assert [(line.seller_id, line.net_minor) for line in found] == [(SELLER, -7_500), (NEW_SELLER, -15_000)]


# By which terms


def test_the_terms_in_force_when_the_period_ends_decide() -> None:
    better = ChangeTerms(sla=Patch({"tiers": (SlaTier(Decimal("0.99"), Decimal("0.5")),)}))
    for day, expected in (("2026-04-30", 900_000), ("2026-05-01", 180_000)):
        assert nets(live(("change_terms", better, day), sla=TIERED), said(*NINE_HOURS)) == [-expected]


@pytest.mark.parametrize(
    "sla",
    [replace(TIERED, auto_credit=False), replace(TIERED, tiers=()), replace(PRO_RATA, cap=Decimal(0))],
    ids=["not by itself", "no tiers", "capped at nothing"],
)
def test_terms_that_promise_nothing_give_nothing_and_nobody_asks_what_units_did(sla: Sla) -> None:
    def asked() -> list[Report]:
        raise AssertionError("Reports were asked for.")

    lines = desired(live(sla=sla), *APRIL, service=LineService(asked, until=EVER))
    assert [line.kind for line in lines] == ["recurring"]


def test_what_units_did_is_asked_for_once_and_only_when_a_period_ends() -> None:
    asked = []

    def reports() -> list[Report]:
        asked.append(1)
        return said(*NINE_HOURS)

    edits = contract("2026-03-01", [servers(), servers(line_id=SETUP)])
    desired(edits, "2026-04-01", "2026-04-30", service=LineService(reports, until=EVER))
    assert asked == []
    desired(edits, "2026-03-01", "2026-12-01", service=LineService(reports, until=EVER))
    assert asked == [1]


# What is no outage


def test_announced_maintenance_gives_nothing_and_unannounced_does() -> None:
    window = [("maintenance", "2026-04-10T00:00"), ("in_service", "2026-04-10T09:00")]
    for told, expected in (("2026-04-07", []), ("2026-04-09", [-22_500])):
        reports = [report("in_service", "2026-03-01"), *(report(s, w, told=told) for s, w in window)]
        assert nets(live(), reports) == expected


def test_access_that_a_hold_blocks_gives_nothing_though_the_unit_is_down() -> None:
    held = [
        report("access_blocked", "2026-04-09", source=CONTRACT),
        report(RESTORED, "2026-04-11", source=CONTRACT),
    ]
    assert nets(live(), [*said(*NINE_HOURS), *held]) == []


def test_what_was_never_in_service_was_not_down() -> None:
    late = said(("provisioning", "2026-03-01"), ("down", "2026-04-02"), ("in_service", "2026-04-10"))
    assert nets(live(), late) == []
    gone = said(("in_service", "2026-03-01"), ("deprovisioning", "2026-04-09"), ("down", "2026-04-10"))
    assert nets(live(), gone) == []


def test_time_that_a_suspension_left_unbilled_gives_nothing() -> None:
    edits = live(
        ("suspend", Suspend("buyer", billing="stop", access="keep"), "2026-04-09"),
        ("resume", Resume("buyer"), "2026-04-11"),
    )
    assert nets(edits, said(*NINE_HOURS)) == []
    # What fails before it is a part of the 28 days that were billed.
    down = said(
        ("in_service", "2026-03-01"), ("down", "2026-04-08T00:00"), ("in_service", "2026-04-08T09:00")
    )
    assert nets(edits, down) == [-22_500]


def test_a_line_that_bills_from_service_is_credited_for_the_units_it_bills() -> None:
    line = AddProduct(
        SERVERS, "h100-server", SELLER, usd("18000.00"), 4, unit="server_month", bill_from="in_service"
    )
    edits = contract("2026-03-01", [line], terms=Terms(sla=PRO_RATA))
    reports = [
        *said(("in_service", "2026-04-01"), *NINE_HOURS[1:]),
        report("in_service", "2026-04-16", "u-2"),
    ]
    lines = desired(edits, *APRIL, service=units(*reports))
    assert [(line.kind, line.net_minor) for line in lines] == [
        ("recurring", 900_000), ("recurring", 1_800_000), ("sla_credit", -22_500),
    ]  # fmt: skip


# As known


def test_a_credit_follows_what_was_known_and_goes_with_a_correction() -> None:
    down, up = report("down", "2026-04-10T00:00"), report("in_service", "2026-04-10T09:00")
    late = [report("in_service", "2026-03-01"), replace(down, recorded_at=at("2026-05-03")), up]
    fixed = [*late, report(VOID, "2026-04-10T00:00", corrects=down, recorded="2026-05-20")]
    assert nets(live(), fixed, known_at=at("2026-05-02")) == []
    assert nets(live(), fixed, known_at=at("2026-05-04")) == [-22_500]
    assert nets(live(), fixed) == []


# Any history of a line and its units


def days(month: st.SearchStrategy[int]) -> st.SearchStrategy[str]:
    return st.builds(
        "2026-{:02}-{:02}T{:02}:{:02}".format,
        month,
        st.integers(1, 28),
        st.integers(0, 23),
        st.integers(0, 59),
    )


STATES = ["down", "degraded", "maintenance", "in_service", "provisioning", "deprovisioning", "access_blocked"]
REPORTS = st.lists(
    st.builds(
        report, st.sampled_from(STATES), days(st.integers(3, 5)), st.sampled_from(["u-1", "u-2", "u-3"])
    ),
    max_size=12,
)
SHARES = st.integers(0, 100).map(lambda whole: Decimal(whole) / 100)
SLAS = st.builds(
    Sla,
    credit=st.sampled_from(["tiered", "pro_rata"]),
    tiers=st.lists(st.builds(SlaTier, SHARES, SHARES), max_size=3).map(tuple),
    cap=SHARES,
    degraded_weight=SHARES,
)
STEPS = st.one_of(
    st.builds(lambda q: ("change_quantity", ChangeQuantity(SERVERS, quantity=q)), st.integers(0, 5)),
    st.builds(lambda r: ("change_price", ChangePrice(SERVERS, usd(f"{r}.01"))), st.integers(0, 20_000)),
    st.builds(
        lambda p: ("apply_discount", ApplyDiscount(UUID(int=100), kind="percent", percent=p)), SHARES
    ),
    st.just(("suspend", Suspend("buyer", billing="stop"))),
    st.just(("resume", Resume("buyer"))),
    st.just(("transfer_ownership", TransferOwnership("buyer", NEW_BUYER))),
    st.just(("terminate", Terminate("date"))),
)  # fmt: skip
HISTORIES = st.lists(st.tuples(STEPS, days(st.integers(3, 6))), max_size=5).map(
    lambda steps: [(*step, when) for step, when in steps]
)


@settings(deadline=None, max_examples=150)
@given(HISTORIES, REPORTS, SLAS, st.lists(days(st.integers(2, 7)), max_size=4), st.randoms())
def test_a_credit_never_exceeds_its_line_and_is_one_however_it_is_asked_for(
    history: list[Step], reports: list[Report], sla: Sla, cuts: list[str], random: Random
) -> None:
    delivered = said(("in_service", "2026-03-01")) + said(("in_service", "2026-03-01"), unit="u-2")
    edits = live(*history, sla=sla, start="2026-02-20", quantity=2, tax="0.0825")
    told = [*delivered, *reports]
    marks = ["2026-02-01", *sorted(cuts), "2026-08-01"]
    whole = desired(edits, marks[0], marks[-1], service=units(*told))

    for credit in (line for line in whole if line.kind == "sla_credit"):
        of_it = [
            line
            for line in whole
            if (line.line_id, line.owner_epoch, line.period_start)
            == (credit.line_id, credit.owner_epoch, credit.period_start)
        ]
        assert credit.net_minor < 0
        assert credit.tax_minor <= 0
        assert sum(line.net_minor for line in of_it) >= 0
        assert sum(line.tax_minor for line in of_it) >= 0
    parts = [
        line for start, end in pairwise(marks) if start < end for line in credits(edits, told, start, end)
    ]
    assert parts == [line for line in whole if line.kind == "sla_credit"]

    replayed = random.sample(told, len(told))
    assert desired(edits, marks[0], marks[-1], service=units(*replayed)) == whole
    voided = [
        replace(one, id=uuid7(), state=VOID, corrects=one.id, recorded_at=at("2026-06-01")) for one in reports
    ]
    assert credits(edits, [*told, *voided], marks[0], marks[-1]) == []
    untouched = desired(edits, marks[0], marks[-1])
    assert [line for line in whole if line.kind != "sla_credit"] == untouched


def test_what_is_forfeited_gives_no_credit_for_nobody_serves_it() -> None:
    removed = ("remove_product", RemoveProduct(SERVERS, when="date", unused="forfeit"), "2026-04-07")
    sold = ("transfer_ownership", TransferOwnership("buyer", NEW_BUYER), "2026-04-16")
    never_up = said(("in_service", "2026-03-01"), ("down", "2026-03-20"))
    for then in ([removed], [removed, sold]):
        edits = live(*then)
        assert nets(edits, never_up) == [-360_000], "the six days in which it should have been served"
    assert nets(edits, never_up, "2026-04-01", "2026-04-16") == [-360_000]
    assert nets(edits, never_up, "2026-04-16", "2026-05-01") == []
