"""change_price: in full or by a share, on notice or by consent, never another model."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from commerce.money import MAX_MINOR
from contracts.rules.operations.prices import rises
from contracts.rules.state import Price, Tier
from tests.contracts.operating import (
    ACTIVE,
    DRAFT,
    HOURS,
    LINES,
    NOW,
    SERVERS,
    SIGNED,
    admit,
    approval,
    days,
    instant,
    refusal,
)

LINE = {"line_id": str(SERVERS)}
ANOTHER_MODEL = "price_model_change_needs_new_line"
LOWER = {**LINE, "price": {"model": "unit", "rate": "17000.00"}}
HIGHER = {**LINE, "percent": "0.035"}


def test_a_price_is_replaced_in_full_and_keeps_the_currency_of_the_contract() -> None:
    after = admit(ACTIVE, "change_price", LOWER)
    assert after.lines[SERVERS].price == Price("unit", Decimal("17000.00"), "USD")
    assert after.lines[SERVERS].quantity == 2
    assert not after.needs_resign


def test_a_share_moves_every_rate_of_the_price_and_leaves_other_lines_alone() -> None:
    """OW-08: 18,000.00 × 1.035 = 18,630.00."""
    after = admit(ACTIVE, "change_price", HIGHER)
    assert after.lines[SERVERS].price.rate == Decimal("18630.00")
    assert {id_: line for id_, line in after.lines.items() if id_ != SERVERS} == {
        id_: line for id_, line in LINES.items() if id_ != SERVERS
    }


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("effective", None),
        ("next_period", datetime(2027, 7, 1, tzinfo=UTC)),
        ("renewal", datetime(2028, 3, 1, tzinfo=UTC)),
    ],
)
def test_a_price_changes_now_with_the_next_period_or_with_the_next_term(when: str, expected: Any) -> None:
    assert instant(ACTIVE, "change_price", {**LOWER, "when": when}) == expected


def test_a_price_that_was_agreed_for_the_next_term_is_not_raised_once_more_by_its_renewal() -> None:
    end = ACTIVE.end_at
    assert end is not None
    uplift = {"uplift": {"kind": "percent", "value": "0.1"}}
    agreed = admit(ACTIVE, "change_price", {**LOWER, "when": "renewal"}, at=end)
    renewed = admit(agreed, "renew", uplift, at=end)
    assert renewed.lines[SERVERS].price.rate == Decimal("17000.00")
    assert renewed.lines[HOURS].price.rate == Decimal("2.20")
    again = admit(renewed, "renew", uplift, at=renewed.end_at)
    assert again.lines[SERVERS].price.rate == Decimal("18700.00")


def test_an_evergreen_contract_has_no_renewal_to_change_a_price_at() -> None:
    evergreen = replace(ACTIVE, end_at=None)
    with pytest.raises(Exception, match="not renewed") as raised:
        instant(evergreen, "change_price", {**LOWER, "when": "renewal"})
    assert raised.value.code == "term_required"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("payload", "code", "pointer"),
    [
        (LINE, "price_or_percent", "/price"),
        ({**LOWER, "percent": "0.1"}, "price_or_percent", "/price"),
        ({**LINE, "percent": "-1.01"}, "amount_negative", "/percent"),
        ({**LINE, "price": {"model": "unit", "rate": "-1"}}, "amount_negative", "/price/rate"),
        (
            {**LINE, "price": {"model": "unit", "rate": "1", "currency": "EUR"}},
            "currency_mismatch",
            "/price/currency",
        ),
        ({**LINE, "price": {"model": "flat", "rate": "1"}}, ANOTHER_MODEL, "/price/model"),
        (
            {**LINE, "price": {"model": "unit", "rate": "1", "tiers": [{"up_to": None, "rate": "1"}]}},
            "tiers_invalid",
            "/price/tiers",
        ),
        ({**LINE, "price": {"model": "unit", "rate": str(MAX_MINOR)}}, "amount_overflow", "/price"),
        ({"line_id": str(UUID(int=5)), "percent": "-0.1"}, "line_not_found", "/line_id"),
        ({**HIGHER, "notice_given_at": (NOW - days(29)).isoformat()}, "notice_too_short", "/notice_given_at"),
    ],
)  # fmt: skip
def test_what_a_price_may_not_become(payload: dict[str, Any], code: str, pointer: str) -> None:
    assert refusal(ACTIVE, "change_price", payload) == (code, pointer)


def test_a_removed_line_keeps_its_price() -> None:
    gone = ACTIVE.with_line(replace(LINES[SERVERS], live=False))
    assert refusal(gone, "change_price", LOWER) == ("line_not_live", "/line_id")


def test_a_rise_takes_thirty_days_notice_or_two_people() -> None:
    noticed = {**HIGHER, "notice_given_at": (NOW - days(30)).isoformat()}
    assert admit(ACTIVE, "change_price", noticed).lines[SERVERS].price.rate == Decimal("18630.00")
    assert not approval(ACTIVE, "change_price", noticed)
    assert "consent" in approval(ACTIVE, "change_price", HIGHER)
    assert not approval(ACTIVE, "change_price", LOWER)


def test_in_a_draft_nobody_has_agreed_to_a_price_yet() -> None:
    assert not approval(DRAFT, "change_price", HIGHER)
    late = {**HIGHER, "notice_given_at": NOW.isoformat()}
    assert admit(DRAFT, "change_price", late).lines[SERVERS].price.rate == Decimal("18630.00")


def test_a_price_changed_after_signature_must_be_signed_again() -> None:
    assert admit(SIGNED, "change_price", LOWER).needs_resign


@pytest.mark.parametrize("basis", ["index", "promo_end", "tier_move"])
def test_within_its_minimum_term_a_price_rises_by_renegotiation_only(basis: str) -> None:
    locked = ACTIVE.with_line(replace(LINES[SERVERS], min_term_until=NOW + days(1)))
    noticed = {**HIGHER, "notice_given_at": (NOW - days(60)).isoformat()}
    assert refusal(locked, "change_price", {**noticed, "basis": basis}) == ("price_locked", "/basis")
    assert admit(locked, "change_price", {**LOWER, "basis": basis}) != locked
    assert admit(locked, "change_price", noticed) != locked
    assert admit(locked, "change_price", {**noticed, "basis": basis}, at=NOW + days(1)) != locked


UNIT = Price("unit", Decimal(10), "USD")
TIERED = Price("graduated", currency="USD", tiers=(Tier(Decimal(5), Decimal(2)), Tier(None, Decimal(1))))


@pytest.mark.parametrize(
    ("old", "changes", "expected"),
    [
        (UNIT, {"rate": Decimal("9.99")}, False),
        (UNIT, {"rate": Decimal("10.01")}, True),
        (replace(UNIT, included=Decimal(5)), {"included": Decimal(4)}, True),
        (UNIT, {"included": Decimal(4)}, False),
        (UNIT, {"min_minor": 1}, True),
        (UNIT, {"max_minor": 1}, False),
        (replace(UNIT, max_minor=5), {"max_minor": None}, True),
        (replace(UNIT, max_minor=5), {"max_minor": 6}, True),
        (UNIT, {"prorate_bounds": True}, True),
        (replace(UNIT, model="package", package_size=Decimal(5)), {"package_size": Decimal(4)}, True),
        (TIERED, {"tiers": (Tier(Decimal(6), Decimal(2)), Tier(None, Decimal(1)))}, True),
        (TIERED, {"tiers": (Tier(Decimal(5), Decimal(2)), Tier(None, Decimal(1), 1))}, True),
        (TIERED, {"tiers": (Tier(Decimal(5), Decimal(1)), Tier(None, Decimal(1)))}, False),
        (TIERED, {"tiers": (Tier(None, Decimal(1)),)}, True),
    ],
)
def test_whatever_may_cost_the_buyer_more_is_a_rise(
    old: Price, changes: dict[str, Any], expected: bool
) -> None:
    assert rises(old, replace(old, **changes)) is expected
