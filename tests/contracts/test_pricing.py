"""Periods, proration, usage, tax and splits, against published worked examples and as properties."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commerce.errors import InvalidInput
from contracts.rules.charges import charge
from contracts.rules.periods import add_months, billing_period
from contracts.rules.pricing import prorate, rounded, tax_on
from contracts.rules.splits import split_invoice
from contracts.rules.state import Price
from contracts.rules.terms import SettlementTerms

SELLER, PARTNER = UUID(int=1), UUID(int=2)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_what_is_given_back_is_rounded_as_what_is_charged() -> None:
    """OW-01: half away from zero, whichever the sign."""
    assert prorate(7_200_000, timedelta(days=22), timedelta(days=31)) == 5_109_677
    assert prorate(-7_200_000, timedelta(days=22), timedelta(days=31)) == -5_109_677
    assert [prorate(amount, timedelta(1), timedelta(2)) for amount in (1, -1)] == [1, -1]


@pytest.mark.parametrize(
    ("anchor_day", "start", "moment", "expected"),
    [
        pytest.param(31, "2026-01-31", "2026-01-31", ("2026-01-31", "2026-02-28"), id="clamps to February"),
        pytest.param(31, "2026-01-31", "2026-02-28", ("2026-02-28", "2026-03-31"), id="and returns"),
        pytest.param(31, "2024-01-31", "2024-02-15", ("2024-01-31", "2024-02-29"), id="leap year"),
        pytest.param(31, "2012-03-02", "2012-03-02", ("2012-03-02", "2012-03-31"), id="KB-06 leading stub"),
        pytest.param(15, "2026-12-20", "2026-12-31", ("2026-12-20", "2027-01-15"), id="over the year"),
        pytest.param(1, "2027-03-01", "2027-02-10", ("2027-03-01", "2027-04-01"), id="before the start"),
    ],
)
def test_a_period_starts_on_the_anchor_day_clamped_to_its_month(
    anchor_day: int, start: str, moment: str, expected: tuple[str, str]
) -> None:
    assert tuple(billing_period(anchor_day, at(start), at(moment))) == tuple(map(at, expected))


def test_a_leading_stub_is_priced_by_the_full_period_around_it() -> None:
    period = billing_period(31, at("2012-03-02"), at("2012-03-02"))
    assert (period.full_start, period.full_end) == (at("2012-02-29"), at("2012-03-31"))


@given(
    anchor_day=st.integers(1, 31),
    start=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    later=st.timedeltas(timedelta(0), timedelta(days=800)),
)
def test_periods_tile_time_without_gap_or_overlap(anchor_day: int, start: datetime, later: timedelta) -> None:
    moment = start + later
    period = billing_period(anchor_day, start, moment)
    assert period.start <= moment < period.end
    following = billing_period(anchor_day, start, period.end)
    assert following.start == period.end == period.full_end
    assert following.full_start == period.full_end
    assert timedelta(days=28) <= period.full <= timedelta(days=31)


def test_months_are_added_to_the_day_and_clamped() -> None:
    assert add_months(at("2027-03-01"), 12) == at("2028-03-01")
    assert add_months(at("2026-01-31"), 1) == at("2026-02-28")


def test_a_unit_price_is_never_rounded_before_it_is_multiplied() -> None:
    price = Price("unit", Decimal("0.004"), "USD")
    assert rounded(charge(price, 1000)) == 400
    assert rounded(charge(price, Decimal("1.25"))) == 1  # 0.5 minor units go up
    assert rounded(charge(Price("unit", Decimal("1.95"), "USD"), Decimal("26412.5"))) == 5_150_438
    assert rounded(charge(Price("unit", Decimal(3), "JPY"), 7)) == 21


def test_tax_is_rounded_once_half_away_from_zero() -> None:
    assert tax_on(10_800_000, Decimal("0.0825")) == 891_000  # OW-09
    assert tax_on(19_333, Decimal("0.25")) == 4_833  # LA-04
    assert tax_on(2, Decimal("0.25")) == 1
    assert tax_on(-2, Decimal("0.25")) == -1


def test_an_amount_beyond_2_53_is_refused_and_not_rounded() -> None:
    with pytest.raises(InvalidInput) as refused:
        rounded(charge(Price("unit", Decimal(10**15), "USD"), 10**9))
    assert refused.value.code == "amount_overflow"


def test_the_fee_is_taken_of_the_net_and_the_partner_paid_out_of_the_fee() -> None:
    terms = SettlementTerms(Decimal("0.125"), PARTNER, Decimal("0.05"), 7)
    split = split_invoice([(SELLER, 3_600_000, 297_000), (SELLER, 20_000, 1_650)], terms)
    assert split.sellers == {SELLER: 3_167_500}
    assert split.fee_minor == 429_875
    assert split.partner == (PARTNER, 22_625)
    assert split.tax_minor == 298_650


def test_without_a_partner_the_platform_keeps_the_whole_fee() -> None:
    split = split_invoice([(SELLER, 10_800_000, 891_000)], SettlementTerms(Decimal("0.125")))
    assert (split.fee_minor, split.partner) == (1_350_000, None)
    assert split.sellers == {SELLER: 9_450_000}


def test_a_seller_below_zero_cannot_be_split() -> None:
    with pytest.raises(InvalidInput):
        split_invoice([(SELLER, -1, 0)], SettlementTerms())


lines = st.lists(
    st.tuples(
        st.sampled_from([UUID(int=i) for i in range(1, 5)]), st.integers(0, 10**12), st.integers(0, 10**11)
    ),
    max_size=20,
)
shares = st.decimals(0, 1, places=4)


@given(lines=lines, fee_rate=shares, partner=st.none() | st.just(PARTNER), partner_share=shares)
def test_the_parts_of_a_split_add_up_to_what_was_collected(
    lines: list[tuple[UUID, int, int]], fee_rate: Decimal, partner: UUID | None, partner_share: Decimal
) -> None:
    split = split_invoice(lines, SettlementTerms(fee_rate, partner, partner_share, 7))
    assert split.total_minor == sum(net + tax for _, net, tax in lines)
    assert split.fee_minor >= 0
    assert all(part >= 0 for part in split.sellers.values())
    assert split.partner is None or split.partner[1] > 0
