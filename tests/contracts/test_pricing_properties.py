"""What holds for any price, loan, discount and commitment, beside the examples."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from contracts.rules import charges, commitments, discounts
from contracts.rules.amortisation import Due, amortise, due_dates, payoff, row_rates, settle
from contracts.rules.periods import billing_period, periods_between
from contracts.rules.pricing import prorate
from contracts.rules.state import Price, Tier

minor = st.integers(0, 10**12)
shares = st.decimals(0, 1, places=4)
units = st.decimals(0, 10**6, places=3)
rates = st.decimals(0, 10**5, places=4)
instants = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
cadences = st.sampled_from(["P1M", "P3M", "P1Y"])


@st.composite
def tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    bounds = sorted(draw(st.sets(st.integers(1, 1000), max_size=4)))
    return tuple(
        Tier(bound, draw(rates), draw(st.integers(0, 10**6)))
        for bound in [*(Decimal(bound) for bound in bounds), None]
    )


@given(tiers=tiers(), low=units, more=units)
def test_graduated_prices_never_fall_when_the_quantity_rises(
    tiers: tuple[Tier, ...], low: Decimal, more: Decimal
) -> None:
    price = Price("graduated", currency="USD", tiers=tiers)
    assert charges.charge(price, low) <= charges.charge(price, low + more)
    assert sum(part.units for part in charges.graduated(price, Fraction(low))) == Fraction(low)


def test_a_volume_price_may_fall_when_the_quantity_rises() -> None:
    price = Price("volume", currency="JPY", tiers=(Tier(Decimal(10), Decimal(5)), Tier(None, Decimal(4))))
    assert charges.charge(price, 10) > charges.charge(price, 11)


@given(quantity=units, more=units, rate=rates, size=st.integers(1, 100), included=units)
def test_packages_and_included_units_never_make_more_cost_less(
    quantity: Decimal, more: Decimal, rate: Decimal, size: int, included: Decimal
) -> None:
    for price in (
        Price("package", rate, "USD", package_size=Decimal(size), included=included),
        Price("unit", rate, "USD", included=included),
    ):
        assert charges.charge(price, included) == 0
        assert charges.charge(price, quantity) <= charges.charge(price, quantity + more)


@given(tiers=tiers(), quantity=units, part=st.fractions(0, 1), included=units)
def test_bounds_are_those_of_a_whole_period_unless_the_price_says_otherwise(
    tiers: tuple[Tier, ...], quantity: Decimal, part: Fraction, included: Decimal
) -> None:
    fixed = Price("graduated", currency="USD", tiers=tiers, included=included)
    assert charges.charge(fixed, quantity, part) == charges.charge(fixed, quantity)
    scaled = Price("graduated", currency="USD", tiers=tiers, included=included, prorate_bounds=True)
    flats = sum(tier.flat_minor for tier in tiers)
    whole = charges.charge(scaled, quantity) * part
    assert whole <= charges.charge(scaled, Fraction(quantity) * part, part) <= whole + flats


@given(amount=minor, low=minor, high=minor)
def test_a_charge_stays_between_its_minimum_and_its_maximum(amount: int, low: int, high: int) -> None:
    price = Price("unit", currency="USD", min_minor=min(low, high), max_minor=max(low, high))
    assert min(low, high) <= charges.within_bounds(price, Fraction(amount)) <= max(low, high)


@given(rate=st.decimals(0, 10**6, places=6), share=shares)
def test_an_uplift_does_not_round_a_unit_price_to_money(rate: Decimal, share: Decimal) -> None:
    raised = charges.uplifted(Price("unit", rate, "USD"), share).rate
    assert raised == raised.quantize(Decimal("1e-12"))
    assert abs(raised - rate * (1 + share)) <= Decimal("5e-13")


@given(posted=minor, retained=minor, adjusted=minor)
def test_what_is_retained_and_what_is_credited_are_what_was_posted(
    posted: int, retained: int, adjusted: int
) -> None:
    kept = min(posted, retained)
    assert kept - charges.credit(posted, kept) == posted
    assert charges.credit(posted, retained, -adjusted) >= -max(0, posted - adjusted)
    assert charges.credit(posted, posted + retained) == 0


@given(amount=minor, cuts=st.lists(st.integers(0, 2_592_000), max_size=6))
def test_the_parts_of_a_period_cost_what_the_whole_does_but_for_their_rounding(
    amount: int, cuts: list[int]
) -> None:
    full = timedelta(days=30)
    marks = [0, *sorted(cuts), 2_592_000]
    parts = [timedelta(seconds=later - earlier) for earlier, later in pairwise(marks)]
    assert sum(parts, timedelta()) == full
    assert 2 * abs(sum(prorate(amount, part, full) for part in parts) - amount) <= len(parts)


@given(anchor_day=st.integers(1, 31), start=instants, cadence=cadences, days=st.integers(0, 1500))
def test_periods_of_any_cadence_tile_time_and_only_the_first_is_a_stub(
    anchor_day: int, start: datetime, cadence: str, days: int
) -> None:
    periods = list(periods_between(anchor_day, start, start + timedelta(days=days), cadence))  # type: ignore[arg-type]
    for i, period in enumerate(periods):
        assert period.start == (periods[i - 1].end if i else start)
        assert period.end == period.full_end
        assert i == 0 or period.start == period.full_start
        middle = period.start + (period.end - period.start) / 2
        assert billing_period(anchor_day, start, middle, cadence) == period  # type: ignore[arg-type]


def test_a_quarter_that_begins_off_the_anchor_opens_with_a_stub_priced_by_the_quarter_before() -> None:
    first = billing_period(1, datetime(2026, 3, 10, tzinfo=UTC), datetime(2026, 3, 10, tzinfo=UTC), "P3M")
    assert [f"{day:%m-%d}" for day in (first.start, first.end, first.full_start)] == [
        "03-10",
        "04-01",
        "01-01",
    ]
    second = billing_period(1, first.start, first.end, "P3M")
    assert [f"{day:%m-%d}" for day in second] == ["04-01", "07-01"]


loans = st.tuples(minor, st.decimals(0, 1, places=4), st.integers(1, 84))


@given(loan=loans, interest_only=st.integers(0, 83), by_days=st.booleans())
def test_the_principals_of_a_loan_add_up_to_it_and_nothing_is_left(
    loan: tuple[int, Decimal, int], interest_only: int, by_days: bool
) -> None:
    principal, apr, count = loan
    dues = due_dates(date(2027, 1, 31), count)
    rates = row_rates(apr, date(2026, 12, 31), dues, "actual_365" if by_days else "30_360")
    rows = amortise(principal, rates, interest_only=min(interest_only, count - 1))
    assert sum(row.principal_minor for row in rows) == principal
    assert rows[-1].balance_minor == 0
    assert all(min(row.principal_minor, row.interest_minor, row.balance_minor) >= 0 for row in rows)
    assert all(row.payment_minor == row.interest_minor + row.principal_minor for row in rows)
    assert all(row.principal_minor == 0 for row in rows[: min(interest_only, count - 1)])


def test_first_due_dates_of_a_month_end_come_back_to_it() -> None:
    assert due_dates(date(2026, 1, 31), 3) == [date(2026, 1, 31), date(2026, 2, 28), date(2026, 3, 31)]


def test_a_payoff_penalty_is_a_share_of_the_balance() -> None:
    found = payoff(9_403_224, Fraction("0.09") / 12, elapsed=0, days=31, penalty=Decimal("0.02"))
    assert (found.interest_minor, found.penalty_minor, found.total_minor) == (0, 188_064, 9_591_288)


dues = st.lists(st.builds(Due, minor, minor, minor, minor), max_size=5)


@given(amount=minor, dues=dues)
def test_a_payment_settles_the_oldest_row_first_and_no_row_more_than_it_owes(
    amount: int, dues: list[Due]
) -> None:
    def parts(due: Due) -> list[int]:
        return [due.fees_minor, due.late_interest_minor, due.interest_minor, due.principal_minor]

    settled, left = settle(amount, dues)
    owed, paid = ([part for due in rows for part in parts(due)] for rows in (dues, settled))
    assert sum(paid) + left == amount
    assert all(0 <= got <= due for got, due in zip(paid, owed, strict=True))
    short = [i for i, (got, due) in enumerate(zip(paid, owed, strict=True)) if got < due]
    assert not short or not any(paid[short[0] + 1 :])
    assert not short or left == 0


@given(net=minor, percents=st.lists(shares, min_size=1, max_size=4), cut=st.fractions(0, 1))
def test_percents_take_off_what_the_ones_before_left_and_never_more_than_the_line(
    net: int, percents: list[Decimal], cut: Fraction
) -> None:
    off = [Fraction(percent) for percent in percents]
    taken = discounts.percents_off(net, [(cut, off), (1 - cut, off)])
    assert taken == discounts.percents_off(net, [(Fraction(1), off)])
    assert all(part >= 0 for part in taken)
    assert sum(taken) <= net
    left = Fraction(net)
    for percent in off:
        left *= 1 - percent
    assert abs(net - sum(taken) - left) <= Fraction(len(off), 2)


def test_ten_and_then_twenty_percent_are_twenty_eight() -> None:
    assert discounts.percents_off(10_000, [(Fraction(1), [Fraction("0.1"), Fraction("0.2")])]) == [1000, 1800]
    half = [(Fraction(1, 2), [Fraction("0.1")]), (Fraction(1, 2), [Fraction(0)])]
    assert discounts.percents_off(10_000, half) == [500]


@given(amount=minor, nets=st.lists(minor, min_size=1, max_size=6))
def test_a_fixed_discount_is_shared_whole_and_leaves_no_line_below_zero(amount: int, nets: list[int]) -> None:
    parts = discounts.fixed_off(amount, nets)
    assert sum(parts) == min(amount, sum(nets))
    assert all(0 <= part <= net for part, net in zip(parts, nets, strict=True))


@given(amount=minor, share=shares)
def test_the_funders_parts_are_the_discount(amount: int, share: Decimal) -> None:
    seller, platform = discounts.funded(amount, share)
    assert seller + platform == amount
    assert share != 1 or platform == 0
    assert share != 0 or seller == 0


@given(used=units, committed=units, rolled=units, cap=units)
def test_the_units_of_a_window_divide_without_loss(
    used: Decimal, committed: Decimal, rolled: Decimal, cap: Decimal
) -> None:
    found = commitments.units_of(Fraction(used), Fraction(committed), rolled=Fraction(rolled), cap=cap)
    assert found.within + found.covered + found.over == Fraction(used)
    assert found.within + found.short == Fraction(committed)
    assert found.covered <= Fraction(rolled)
    assert found.rolled <= min(found.short, Fraction(cap))
    assert not (found.over and found.short)


@given(committed=minor, used=minor, share=st.fractions(0, 1))
def test_a_true_up_brings_spending_to_the_commitment_and_is_never_negative(
    committed: int, used: int, share: Fraction
) -> None:
    missing = commitments.shortfall(committed, used, share)
    assert missing >= 0
    assert abs(max(used, committed * share) - used - missing) <= Fraction(1, 2)
    assert missing == 0 or commitments.surcharge(committed, used, Decimal("1.5"), share) == 0


@given(amount=minor, weights=st.lists(minor, min_size=1, max_size=6))
def test_a_true_up_is_split_over_sellers_whole_even_when_nothing_was_used(
    amount: int, weights: list[int]
) -> None:
    assert sum(commitments.by_weight(amount, weights)) == amount
    assert sum(commitments.by_weight(amount, [0] * len(weights))) == amount
