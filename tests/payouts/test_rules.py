"""The pure decisions: splits add up, progress is monotone, schedules and retries come when they say."""

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commerce.errors import InvalidInput
from payouts.rules.policy import approval_reason, next_run, poll_delay, retry_delay
from payouts.rules.progress import blocks_account, meaning, steps
from payouts.rules.splits import Share, allocate_oldest_first, check_shares, settlement_status

AMOUNTS = st.lists(st.integers(0, 10**9), min_size=1, max_size=6)
AFTER = {"accept": "in_transit", "confirm": "paid", "bounce": "returned", "fail": "failed"}


@given(AMOUNTS)
def test_shares_that_sum_to_the_total_become_legs_except_the_empty_ones(amounts):
    shares = [Share("seller", str(i), amount) for i, amount in enumerate(amounts)]
    kept = check_shares(sum(amounts), shares)
    assert sum(share.amount_minor for share in kept) == sum(amounts)
    assert all(share.amount_minor for share in kept)


@given(AMOUNTS, st.integers(1, 1000))
def test_shares_that_do_not_sum_to_the_total_are_refused(amounts, off):
    shares = [Share("seller", str(i), amount) for i, amount in enumerate(amounts)]
    with pytest.raises(InvalidInput) as refusal:
        check_shares(sum(amounts) + off, shares)
    assert [error.code for error in refusal.value.errors] == ["sum_mismatch"]


def test_a_repeated_or_negative_share_names_itself():
    with pytest.raises(InvalidInput) as refusal:
        check_shares(0, [Share("seller", "a", -5), Share("seller", "a", 5)])
    assert [(error.pointer, error.code) for error in refusal.value.errors] == [
        ("/legs/0/amount_minor", "amount_negative"),
        ("/legs/1", "duplicate_leg"),
    ]


@given(st.integers(0, 10**9), AMOUNTS)
def test_an_amount_falls_on_the_oldest_legs_and_never_on_more_than_they_need(amount, wanted):
    parts = allocate_oldest_first(amount, wanted)
    assert sum(parts) == min(amount, sum(wanted))
    assert all(0 <= part <= want for part, want in zip(parts, wanted, strict=True))
    first_short = next((i for i, part in enumerate(parts) if part < wanted[i]), len(parts))
    assert not any(parts[first_short + 1 :])


@pytest.mark.parametrize(
    ("legs", "status"),
    [
        ("seller:seasoning partner:paid_out tax:released", "seasoning"),
        ("seller:held partner:seasoning", "held"),
        ("seller:released partner:paid_out", "released"),
        ("seller:paid_out partner:paid_out fee:released", "completed"),
        ("fee:released tax:released", "completed"),
        ("seller:funded tax:released", "disbursing"),
        ("seller:reversed partner:reversed fee:released", "reversed"),
        ("seller:reversed partner:paid_out", "completed"),
    ],
)
def test_a_settlement_stands_where_its_legs_stand(legs, status):
    assert settlement_status(tuple(leg.split(":")) for leg in legs.split()) == status


def follow(start, seen):
    """Where a payout ends that is told these provider statuses in turn."""
    state = start
    for status in seen:
        for step in steps(state, meaning(status)) or ():
            state = AFTER[step]
    return state


@pytest.mark.parametrize("start", ["submitted", "unknown"])
def test_any_order_and_repetition_of_the_banks_words_ends_in_the_same_state(start):
    history = ["processing", "sent", "completed", "returned", "returned"]
    assert {follow(start, told) for told in permutations(history)} == {"returned"}
    assert {follow(start, told) for told in permutations(["pending", "sent", "completed", "completed"])} == {
        "paid"
    }
    assert {follow(start, told) for told in permutations(["approved", "processing", "failed"])} == {"failed"}


@pytest.mark.parametrize(
    ("state", "status"),
    [("paid", "failed"), ("failed", "completed"), ("failed", "returned"), ("returned", "cancelled"),
     ("cancelled", "sent"), ("in_transit", "reversed"), ("in_transit", "stopped"), ("paid", "brand_new")],
)  # fmt: skip
def test_what_contradicts_moves_nothing(state, status):
    assert steps(state, meaning(status)) is None


def test_only_codes_that_speak_of_the_account_block_it():
    assert [code for code in ("R03", "R04", "R20", "R01", "R17", "C01", "") if blocks_account(code)] == [
        "R03", "R04", "R20"
    ]  # fmt: skip


def test_a_schedule_runs_at_midnight_utc_of_its_day_after_now():
    monday = datetime(2027, 3, 1, 9, 30, tzinfo=UTC)
    assert next_run("weekly", 3, monday) == datetime(2027, 3, 3, tzinfo=UTC)
    assert next_run("weekly", 1, monday) == datetime(2027, 3, 8, tzinfo=UTC)
    assert next_run("monthly", 1, monday) == datetime(2027, 4, 1, tzinfo=UTC)
    assert next_run("monthly", 31, datetime(2027, 2, 1, tzinfo=UTC)) == datetime(2027, 2, 28, tzinfo=UTC)
    assert next_run("monthly", 31, datetime(2027, 2, 28, tzinfo=UTC)) == datetime(2027, 3, 31, tzinfo=UTC)


@given(
    st.sampled_from(["weekly", "monthly"]),
    st.integers(1, 7),
    st.datetimes(datetime(2026, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),
)
def test_the_next_run_is_always_later_and_within_its_cadence(cadence, day, after):
    run = next_run(cadence, day, after)
    assert after < run <= after + timedelta(days=7 if cadence == "weekly" else 31)


def test_a_failed_attempt_is_repeated_later_each_time_and_then_left_to_a_person():
    assert [retry_delay(n) for n in (1, 2, 3, 4)] == [timedelta(days=1), timedelta(days=2), None, None]


@given(st.timedeltas(timedelta(0), timedelta(days=90)), st.booleans())
def test_looks_at_the_bank_become_rarer_but_never_stop(waited, paid):
    shortest = timedelta(seconds=60)
    delay = poll_delay(waited, paid=paid, shortest=shortest)
    assert shortest <= delay <= timedelta(days=7)
    assert delay <= poll_delay(waited * 2, paid=paid, shortest=shortest)


def test_policy_alone_sends_what_is_small_known_and_not_asked_for_by_hand():
    def reason(amount=1, by_hand=False, new_account=False):
        return approval_reason(amount_minor=amount, limit_minor=100, by_hand=by_hand, new_account=new_account)

    assert reason(100) == ""
    assert reason(101) == "above the approval limit"
    assert "by hand" in reason(by_hand=True)
    assert "added after onboarding" in reason(new_account=True)
