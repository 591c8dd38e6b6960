"""Billing's rules: which pocket pays, what a difference is, how a status follows from facts."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.rules import drawing, status
from billing.rules.looks import next_look
from billing.rules.rating import RatedLine
from billing.rules.status import Facts
from billing.rules.verification import Difference, compare

DUE = datetime(2027, 4, 15, tzinfo=UTC)
LINE, OTHER = UUID(int=1), UUID(int=2)
minor = st.integers(0, 10**9)


def test_the_downpayment_is_drawn_first_then_the_commitment_then_the_free_wallet() -> None:
    """The worked example: 39,186.50 = 10,000.00 + 28,970.00 + 216.50."""
    draw = drawing.draw(3_918_650, downpayment=1_000_000, committed=2_897_000, available=11_103_000)
    assert draw == drawing.Draw(downpayment=1_000_000, committed=2_897_000, available=21_650, short=0)


@given(minor, minor, minor, minor)
def test_a_draw_adds_up_and_takes_no_more_than_a_pocket_holds(
    total: int, downpayment: int, committed: int, available: int
) -> None:
    draw = drawing.draw(total, downpayment=downpayment, committed=committed, available=available)
    assert draw.downpayment + draw.committed + draw.available + draw.short == total
    assert 0 <= draw.downpayment <= downpayment
    assert 0 <= draw.committed <= committed
    assert 0 <= draw.available <= available
    assert draw.short == max(0, total - downpayment - committed - available)


@given(minor, minor, minor)
def test_setting_aside_never_takes_more_than_is_there(
    downpayment: int, committed: int, available: int
) -> None:
    first, second = drawing.set_aside(
        downpayment_wanted=downpayment, committed_wanted=committed, available=available
    )
    assert first + second <= available
    assert first <= downpayment
    assert second <= committed
    assert second == 0 or first == downpayment


def facts(**changes: object) -> Facts:
    base = {"due": [DUE], "grace_days": 3, "ever_invoiced": True, "ended": False, "unbilled": False}
    return Facts(**{**base, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        (-1, "invoiced"),
        (0, "in_grace"),
        (2.9, "in_grace"),
        (3, "past_due"),
        (12.9, "past_due"),
        (13, "delinquent"),
        (23.9, "delinquent"),
        (24, "collections"),
        (400, "collections"),
    ],
)
def test_an_unpaid_invoice_ages_by_the_clock(days: float, expected: str) -> None:
    assert status.derive(facts(), DUE + timedelta(days=days)) == expected


def test_the_oldest_unpaid_invoice_counts() -> None:
    later = DUE + timedelta(days=30)
    assert status.derive(facts(due=[later, DUE]), DUE + timedelta(days=14)) == "delinquent"
    assert status.derive(facts(due=[later]), DUE + timedelta(days=14)) == "invoiced"


def test_without_debt_a_contract_is_current_and_an_ended_one_settled_once_all_is_billed() -> None:
    assert status.derive(facts(due=[], ever_invoiced=False), DUE) == "not_billing"
    assert status.derive(facts(due=[]), DUE) == "current"
    assert status.derive(facts(due=[], ended=True, unbilled=True), DUE) == "current"
    assert status.derive(facts(due=[], ended=True), DUE) == "settled"
    assert status.derive(facts(ended=True), DUE) == "in_grace"


@given(st.integers(-60, 60), st.integers(0, 10))
def test_the_next_change_is_when_the_status_changes_next(hours: int, grace: int) -> None:
    at = DUE + timedelta(hours=hours * 12)
    now = status.derive(facts(grace_days=grace), at)
    change = status.next_change(facts(grace_days=grace), at)
    if change is None:
        assert now == "collections"
        return
    assert change > at
    assert status.derive(facts(grace_days=grace), change - timedelta(seconds=1)) == now
    assert status.derive(facts(grace_days=grace), change) != now


def test_downtime_enters_every_rung_on_the_way_down_and_payment_climbs_at_once() -> None:
    assert status.path("current", "delinquent") == ["invoiced", "in_grace", "past_due", "delinquent"]
    assert status.path("not_billing", "in_grace") == ["invoiced", "in_grace"]
    assert status.path("delinquent", "current") == ["current"]
    assert status.path("delinquent", "in_grace") == ["in_grace"]
    assert status.path("current", "current") == []


def line(net: int, *, kind: str = "recurring", line_id: UUID = LINE, days: int = 31) -> RatedLine:
    start = datetime(2027, 3, 1, tzinfo=UTC)
    return RatedLine(
        line_id=line_id,
        product="h100-server",
        kind=kind,
        seller_id=UUID(int=9),
        quantity=Decimal(2),
        rate=Decimal(18000),
        start=start,
        end=start + timedelta(days=days),
        net_minor=net,
        tax_minor=0,
    )


def test_equal_sums_per_line_are_no_difference_however_they_are_cut() -> None:
    ours = [line(1_800_000, days=15), line(1_800_000, days=16)]
    assert compare(ours, [(LINE, 3_600_000)]) == []


def test_a_cent_too_much_is_a_difference_on_its_line() -> None:
    ours = [line(3_600_000), line(20_000, kind="usage", line_id=OTHER)]
    assert compare(ours, [(LINE, 3_600_001), (OTHER, 20_000)]) == [
        Difference(LINE, ours=3_600_000, theirs=3_600_001, allowed=0)
    ]


def test_a_missing_line_and_a_strange_one_are_differences() -> None:
    found = compare([line(100)], [(None, 7)])
    assert {(d.line_id, d.ours, d.theirs) for d in found} == {(LINE, 100, 0), (None, 0, 7)}


def test_what_the_delay_of_an_edit_explains_is_allowed_and_no_more() -> None:
    """36,000.00 over 31 days is 1.34 a second: five seconds explain seven cents."""
    ours = [line(3_600_000)]
    lag = timedelta(seconds=5)
    assert compare(ours, [(LINE, 3_600_007)], lag=lag) == []
    assert [d.delta for d in compare(ours, [(LINE, 3_600_008)], lag=lag)] == [8]
    assert [d.delta for d in compare(ours, [(LINE, 3_600_007)])] == [7]


def test_delay_explains_nothing_about_usage() -> None:
    ours = [line(20_000, kind="usage")]
    assert compare(ours, [(LINE, 20_001)], lag=timedelta(days=1)) != []


def test_a_pay_in_is_looked_at_for_sixty_days_and_ever_less_often() -> None:
    looks = []
    at: datetime | None = DUE
    while at := next_look(DUE, at):
        looks.append(at)
    assert looks[0] == DUE + timedelta(days=5), "until then the list of recent payments has it"
    assert looks[-1] == DUE + timedelta(days=60), "the window of an ACH return"
    pauses = [later - earlier for earlier, later in pairwise(looks)]
    assert pauses[:-1] == sorted(pauses[:-1])
    assert min(pauses[:-1]) >= timedelta(days=1)
    assert max(pauses) <= timedelta(days=12)
    assert 10 <= len(looks) <= 20


def test_a_look_that_was_missed_is_caught_up_and_the_last_is_not_lost() -> None:
    assert next_look(DUE, DUE + timedelta(days=59)) == DUE + timedelta(days=60)
    assert next_look(DUE, DUE + timedelta(days=60)) is None
    assert next_look(DUE, DUE + timedelta(days=90)) is None
