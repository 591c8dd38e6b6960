"""apply_discount: kinds, durations, stacking, and who pays for it."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from contracts.rules.fold import Edit, fold
from contracts.rules.state import Billing, ContractState, Discount, RampStep
from tests.contracts.operating import (
    ACTIVE,
    DRAFT,
    HOURS,
    LINES,
    NOW,
    SERVERS,
    SIGNED,
    START,
    admit,
    approval,
    days,
    parsed,
    refusal,
)

ID = UUID(int=50)
OTHER = UUID(int=51)
TEN = {"discount_id": str(ID), "kind": "percent", "percent": "0.1"}


def discount(state: ContractState = ACTIVE, **payload: Any) -> Discount:
    return admit(state, "apply_discount", {**TEN, **payload}).discounts[ID]


def test_a_discount_is_in_force_from_its_instant_on_and_the_sellers_to_bear() -> None:
    assert discount() == Discount(ID, "all", "percent", since=NOW, percent=Decimal("0.1"))
    assert not approval(ACTIVE, "apply_discount", TEN)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"kind": "fixed_per_period", "amount": {"amount_minor": 500, "currency": "USD"}},
         {"amount_minor": 500}),
        ({"kind": "free_units", "units": "1.5", "scope": [str(HOURS)]},
         {"units": Decimal("1.5"), "scope": (HOURS,)}),
        ({"kind": "ramp",
          "ramp": [{"from_month": 1, "percent": "0.5"}, {"from_month": 4, "percent": "0.25"}]},
         {"ramp": (RampStep(1, Decimal("0.5")), RampStep(4, Decimal("0.25")))}),
        ({"kind": "percent", "percent": "0.2", "stack_order": 3, "coupon_code": "SPRING-27"},
         {"percent": Decimal("0.2"), "stack_order": 3, "coupon_code": "SPRING-27"}),
    ],
)  # fmt: skip
def test_a_discount_takes_off_a_share_an_amount_units_or_a_ramp(
    payload: dict[str, Any], expected: dict[str, Any]
) -> None:
    after = admit(ACTIVE, "apply_discount", {"discount_id": str(ID), **payload})
    scope = expected.pop("scope", "all")
    assert after.discounts == {ID: Discount(ID, scope, payload["kind"], since=NOW, **expected)}


@pytest.mark.parametrize(
    ("duration", "ends"),
    [
        ({"kind": "once"}, datetime(2027, 7, 1, tzinfo=UTC)),
        ({"kind": "periods", "periods": 3}, datetime(2027, 9, 1, tzinfo=UTC)),
        ({"kind": "until", "until": "2027-06-20T12:00:00Z"}, datetime(2027, 6, 20, 12, tzinfo=UTC)),
        ({"kind": "forever"}, None),
    ],
)
def test_it_lasts_for_whole_billing_periods_until_an_instant_or_for_good(
    duration: dict[str, Any], ends: datetime | None
) -> None:
    assert discount(duration=duration).ends_at == ends


def test_a_period_is_the_contracts_own() -> None:
    quarterly = replace(ACTIVE, billing=Billing(anchor_day=31, cadence="P3M"))
    assert discount(quarterly, duration={"kind": "once"}).ends_at == datetime(2027, 6, 30, tzinfo=UTC)


def test_what_is_agreed_before_the_start_begins_with_the_contract() -> None:
    early = START - days(20)
    after = admit(DRAFT, "apply_discount", {**TEN, "duration": {"kind": "once"}}, at=early)
    assert (after.discounts[ID].since, after.discounts[ID].ends_at) == (
        START,
        datetime(2027, 4, 1, tzinfo=UTC),
    )


def test_the_clock_ends_it() -> None:
    create = {"buyer_id": str(UUID(int=8)), "currency": "USD", "start_at": "2027-03-01T00:00:00Z"}
    line = {"line_id": str(SERVERS), "product": "h100", "seller_id": str(UUID(int=9)),
            "price": {"model": "unit", "rate": "1"}}  # fmt: skip
    steps = [
        ("create", {**create, "lines": [line]}, START),
        *(("activate", {"stage": stage}, START) for stage in ("submit", "signed", "live")),
        ("apply_discount", {**TEN, "duration": {"kind": "once"}}, NOW),
    ]
    log = [Edit(i, name, parsed(name, body), at, at) for i, (name, body, at) in enumerate(steps, 1)]
    end = datetime(2027, 7, 1, tzinfo=UTC)
    assert ID in fold(log, valid_at=end - days(0.01)).discounts
    assert fold(log, valid_at=end).discounts == {}


@pytest.mark.parametrize(
    ("funded_by", "share", "asks"),
    [
        ({"kind": "seller"}, "1", False),
        ({"kind": "platform"}, "0", True),
        ({"kind": "split", "seller_share": "0.4"}, "0.4", True),
    ],
)
@pytest.mark.parametrize("state", [DRAFT, ACTIVE])
def test_two_people_agree_to_what_the_platform_pays_for(
    state: ContractState, funded_by: dict[str, Any], share: str, asks: bool
) -> None:
    assert discount(state, funded_by=funded_by).seller_share == Decimal(share)
    assert bool(approval(state, "apply_discount", {**TEN, "funded_by": funded_by})) is asks


def test_to_end_a_discount_of_the_platform_takes_one_person() -> None:
    assert not approval(ACTIVE, "apply_discount", {"discount_id": str(ID), "mode": "end"})


def test_a_discount_is_replaced_from_its_instant_on_and_ended() -> None:
    state = admit(ACTIVE, "apply_discount", TEN, at=NOW - days(30))
    after = admit(state, "apply_discount", {**TEN, "mode": "replace", "percent": "0.2"})
    assert after.discounts == {ID: Discount(ID, "all", "percent", since=NOW, percent=Decimal("0.2"))}
    assert admit(after, "apply_discount", {"discount_id": str(ID), "mode": "end"}).discounts == {}


def test_a_discount_after_signature_must_be_signed_again() -> None:
    assert admit(SIGNED, "apply_discount", TEN).needs_resign
    assert not admit(ACTIVE, "apply_discount", TEN).needs_resign


@pytest.mark.parametrize(
    ("payload", "code", "pointer"),
    [
        ({"kind": None}, "required", "/kind"),
        ({"percent": "1.01"}, "percent_out_of_range", "/percent"),
        ({"percent": "-0.1"}, "percent_out_of_range", "/percent"),
        ({"percent": None}, "required", "/percent"),
        ({"units": "1"}, "field_misplaced", "/units"),
        ({"kind": "ramp", "percent": None, "ramp": [{"from_month": 1, "percent": "2"}]},
         "percent_out_of_range", "/ramp/0/percent"),
        ({"kind": "ramp", "percent": None,
          "ramp": [{"from_month": 2, "percent": "0.2"}, {"from_month": 2, "percent": "0.1"}]},
         "ramp_invalid", "/ramp"),
        ({"kind": "fixed_per_period", "percent": None, "amount": {"amount_minor": 1, "currency": "EUR"}},
         "currency_mismatch", "/amount/currency"),
        ({"kind": "fixed_per_period", "percent": None, "amount": {"amount_minor": -1, "currency": "USD"}},
         "amount_negative", "/amount/amount_minor"),
        ({"scope": []}, "line_not_found", "/scope"),
        ({"scope": [str(SERVERS), str(OTHER)]}, "line_not_found", "/scope/1"),
        ({"scope": [str(SERVERS), str(SERVERS)]}, "scope_invalid", "/scope"),
        ({"duration": {"kind": "periods"}}, "duration_invalid", "/duration/periods"),
        ({"duration": {"kind": "once", "until": "2027-07-01T00:00:00Z"}},
         "duration_invalid", "/duration/until"),
        ({"duration": {"kind": "until", "until": NOW.isoformat()}}, "duration_invalid", "/duration/until"),
        ({"funded_by": {"kind": "split"}}, "funding_split_invalid", "/funded_by/seller_share"),
        ({"funded_by": {"kind": "platform", "seller_share": "0.5"}},
         "funding_split_invalid", "/funded_by/seller_share"),
        ({"funded_by": {"kind": "split", "seller_share": "1"}},
         "funding_split_invalid", "/funded_by/seller_share"),
        ({"mode": "end"}, "discount_not_found", "/discount_id"),
        ({"mode": "replace"}, "discount_not_found", "/discount_id"),
    ],
)  # fmt: skip
def test_what_is_not_a_discount(payload: dict[str, Any], code: str, pointer: str) -> None:
    assert refusal(ACTIVE, "apply_discount", {**TEN, **payload}) == (code, pointer)


def test_an_id_and_a_coupon_are_in_force_once_on_a_contract() -> None:
    state = admit(ACTIVE, "apply_discount", {**TEN, "coupon_code": "SPRING-27"})
    assert refusal(state, "apply_discount", TEN) == ("discount_id_taken", "/discount_id")
    again = {**TEN, "discount_id": str(OTHER), "coupon_code": "SPRING-27"}
    assert refusal(state, "apply_discount", again) == ("coupon_exhausted", "/coupon_code")
    assert admit(state, "apply_discount", {**again, "coupon_code": "SUMMER-27"}).discounts.keys() == {
        ID,
        OTHER,
    }


def test_an_end_takes_the_id_only() -> None:
    state = admit(ACTIVE, "apply_discount", TEN)
    assert refusal(state, "apply_discount", {**TEN, "mode": "end"}) == ("field_misplaced", "/mode")


def test_shares_on_one_line_stay_within_the_whole_of_it() -> None:
    state = admit(ACTIVE, "apply_discount", {**TEN, "percent": "0.6", "scope": [str(SERVERS)]})
    rest = {**TEN, "discount_id": str(OTHER), "percent": "0.41"}
    assert refusal(state, "apply_discount", rest) == ("stacked_over_100", "/percent")
    assert refusal(
        state,
        "apply_discount",
        {"discount_id": str(OTHER), "kind": "ramp",
         "ramp": [{"from_month": 1, "percent": "0.1"}, {"from_month": 6, "percent": "0.5"}]},
    ) == ("stacked_over_100", "/ramp")  # fmt: skip
    assert len(admit(state, "apply_discount", {**rest, "scope": [str(HOURS)]}).discounts) == 2
    assert len(admit(state, "apply_discount", {**rest, "percent": "0.4"}).discounts) == 2
    replaced = {**TEN, "mode": "replace", "percent": "1"}
    assert admit(state, "apply_discount", replaced).discounts[ID].percent == 1


def test_a_removed_line_is_in_nobodys_scope() -> None:
    gone = ACTIVE.with_line(replace(LINES[SERVERS], live=False))
    scoped = {**TEN, "scope": [str(SERVERS)]}
    assert refusal(gone, "apply_discount", scoped) == ("line_not_live", "/scope/0")
