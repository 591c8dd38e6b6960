"""renew: terms follow each other at prices that the terms of renewal allow."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commerce.console.models import ReviewItem
from commerce.errors import CommerceError
from contracts import services
from contracts.models import Contract, ScheduledCommand
from contracts.rules import fold
from contracts.rules.charges import rises_over, uplifted
from contracts.rules.operations.renew import term_end
from contracts.rules.state import ContractState, Price, Tier
from tests.contracts.conftest import OPERATOR, edit
from tests.contracts.scheduling import day, events_of, renewing, rows, tick

UPLIFT = {"uplift": {"kind": "percent", "value": "0.035", "cap": "0.05"}}


def now(contract: Contract) -> ContractState:
    return Contract.objects.get(pk=contract.pk).current


def refused(contract: Contract, payload: dict[str, Any], at: datetime, **given: Any) -> tuple[str, str]:
    version = Contract.objects.get(pk=contract.pk).version
    with pytest.raises(CommerceError) as error:
        edit(contract, "renew", payload, at=at, **given)
    assert Contract.objects.get(pk=contract.pk).version == version
    return error.value.code, error.value.errors[0].pointer if error.value.errors else ""


def test_an_uplift_raises_every_recurring_and_metered_price_exactly(
    payload: dict[str, Any], servers: UUID
) -> None:
    contract = renewing(payload, "2027-03-01", months=12, renewal=UPLIFT)

    tick(day("2028-03-01"))

    prices = {line.product_code: line.price.rate for line in now(contract).live_lines}
    assert prices == {"h100-server": Decimal("18630"), "h100-burst": Decimal("2.07")}
    assert now(contract).term_no == 2
    tick(day("2029-03-01"))
    assert now(contract).lines[servers].price.rate == Decimal("19282.05")


def test_nobody_raises_prices_over_the_cap_by_uplift(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", renewal=UPLIFT)
    assert refused(contract, {"uplift": {"kind": "percent", "value": "0.06"}}, day("2027-03-02")) == (
        "uplift_over_cap", "/payload/uplift/value"
    )  # fmt: skip


@pytest.mark.parametrize(("policy", "status"), [("expire", "expired"), ("evergreen", "active")])
def test_a_renewal_over_the_cap_is_blocked_and_the_end_policy_holds(
    payload: dict[str, Any], servers: UUID, policy: str, status: str
) -> None:
    dear = {"line_id": str(servers), "price": {"model": "unit", "rate": "20000"}}
    contract = renewing(payload, "2027-03-01", renewal=UPLIFT, end_policy=policy)
    ScheduledCommand.objects.filter(kind="renewal").update(
        payload={"mode": "new_term", "term_no": 2, "trigger": "auto", "reprice": [dear]}
    )

    tick(day("2027-04-01"))

    command = ScheduledCommand.objects.get(kind="renewal")
    assert command.status == "blocked"
    assert ReviewItem.objects.get(kind="renewal_blocked").evidence["code"] == "uplift_over_cap"
    state = now(contract)
    assert (state.status, state.end_at) == (status, day("2027-04-01") if policy == "expire" else None)
    assert state.lines[servers].price.rate == Decimal("18000")


def test_a_person_may_agree_on_any_price_for_the_new_term(payload: dict[str, Any], servers: UUID) -> None:
    contract = renewing(payload, "2027-03-01", renewal=UPLIFT)
    dear = {"line_id": str(servers), "price": {"model": "unit", "rate": "20000"}}

    edit(contract, "renew", {"reprice": [dear]}, at=day("2027-03-15"))

    assert now(contract).lines[servers].price.rate == Decimal("18000"), "not before the term ends"
    tick(day("2027-04-01"))
    assert now(contract).lines[servers].price.rate == Decimal("20000")
    assert rows(contract, key__startswith="renew") == [
        ("renew:2", "2027-04-01", "cancelled"), ("renew:3", "2027-05-01", "planned")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("price", "pointer", "code"),
    [
        ({"model": "volume"}, "/model", "price_model_change_needs_new_line"),
        ({"model": "graduated"}, "/model", "price_model_change_needs_new_line"),
        ({"model": "package", "rate": "5"}, "/model", "price_model_change_needs_new_line"),
        ({"model": "one_off", "rate": "5"}, "/model", "price_model_change_needs_new_line"),
        ({"model": "unit", "rate": "1", "currency": "EUR"}, "/currency", "currency_mismatch"),
        ({"model": "unit", "tiers": [{"rate": "1"}]}, "/tiers", "tiers_invalid"),
        ({"model": "unit", "package_size": "5"}, "/package_size", "package_size_invalid"),
        ({"model": "unit", "min_minor": 500, "max_minor": 100}, "/max_minor", "bounds_invalid"),
        ({"model": "unit", "rate": "90000000000000"}, "", "amount_overflow"),
    ],
)
def test_a_price_of_the_new_term_is_one_that_the_line_may_have(
    payload: dict[str, Any], servers: UUID, price: dict[str, Any], pointer: str, code: str
) -> None:
    contract = renewing(payload, "2027-03-01")
    body = {"reprice": [{"line_id": str(servers), "price": price}]}
    assert refused(contract, body, day("2027-03-02")) == (code, f"/payload/reprice/0/price{pointer}")
    with pytest.raises(CommerceError) as previewed:
        services.preview_edit(
            contract_id=contract.pk, operation="renew", payload=body, actor=OPERATOR, at=day("2027-03-02"),
            expected_version=None,
        )  # fmt: skip
    assert previewed.value.code == code


def test_an_uplift_makes_of_no_price_more_than_money_can_say(payload: dict[str, Any]) -> None:
    payload["lines"][0]["price"]["rate"] = "40000000000000"
    contract = renewing(payload, "2027-03-01", renewal={"uplift": {"kind": "percent", "value": "1"}})
    assert refused(contract, {}, day("2027-03-02")) == ("amount_overflow", "/payload/uplift/value")


def test_a_term_is_renewed_once(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")
    edit(contract, "renew", {}, at=day("2027-03-15"))

    assert refused(contract, {}, day("2027-03-16"))[0] == "already_renewed"
    assert refused(contract, {"term_no": 2}, day("2027-04-02"))[0] == "already_renewed"
    assert refused(contract, {"term_no": 9}, day("2027-04-02")) == (
        "term_no_out_of_order", "/payload/term_no"
    )  # fmt: skip


def test_who_opted_out_is_not_renewed_by_the_clock_but_may_change_its_mind(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", renewal={"auto": False})
    assert refused(contract, {"trigger": "auto"}, day("2027-03-15")) == ("opted_out", "/payload/trigger")

    edit(contract, "renew", {}, at=day("2027-03-16"))

    tick(day("2027-04-02"))
    assert (now(contract).status, now(contract).end_at) == ("active", day("2027-05-01"))


def test_an_extension_moves_the_end_and_keeps_the_term(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", renewal=UPLIFT)

    edit(contract, "renew", {"mode": "extend", "term_months": 2}, at=day("2027-03-10"))

    assert rows(contract, kind="renewal") == [("renew:2", "2027-06-01", "planned")]
    tick(day("2027-04-01"))
    state = now(contract)
    assert (state.term_no, state.end_at) == (1, day("2027-06-01"))
    assert {line.price.rate for line in state.live_lines} == {Decimal("18000"), Decimal("2")}


def test_a_co_term_ends_where_another_contract_does_and_later_terms_have_their_old_length(
    payload: dict[str, Any],
) -> None:
    contract = renewing(payload, "2027-03-01")
    assert refused(contract, {"mode": "co_term"}, day("2027-03-10"))[0] == "term_invalid"

    edit(contract, "renew", {"mode": "co_term", "end_at": "2027-06-16T00:00:00Z"}, at=day("2027-03-10"))

    tick(day("2027-06-16"))
    state = now(contract)
    assert (state.term_no, state.term_start_at, state.end_at) == (3, day("2027-06-16"), day("2027-07-16"))


def test_an_evergreen_renewal_goes_on_without_an_end(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01")

    edit(contract, "renew", {"mode": "evergreen"}, at=day("2027-03-10"))

    tick(day("2027-12-01"))
    state = now(contract)
    assert (state.status, state.term_no, state.end_at, state.term_months) == ("active", 2, None, None)
    assert rows(contract, status="planned") == []


@pytest.mark.parametrize(
    ("gap", "start", "end"), [("bill", "2027-04-01", "2027-05-01"), ("skip", "2027-04-15", "2027-05-15")]
)
def test_an_expired_contract_is_taken_up_again_with_or_without_the_time_between(
    payload: dict[str, Any], gap: str, start: str, end: str
) -> None:
    contract = renewing(payload, "2027-03-01", renewal={"auto": False})
    tick(day("2027-04-02"))
    assert now(contract).status == "expired"

    edit(contract, "renew", {"gap": gap}, at=day("2027-04-15"), reason="They came back.")

    state = now(contract)
    assert (state.status, state.term_start_at, state.end_at) == ("active", day(start), day(end))
    between = fold.fold(services.contract_edits(contract.pk), valid_at=day("2027-04-10"))
    assert between.status == ("active" if gap == "bill" else "expired")


def test_an_expired_contract_is_taken_up_within_the_platforms_days_only(payload: dict[str, Any]) -> None:
    contract = renewing(payload, "2027-03-01", renewal={"auto": False})
    tick(day("2027-04-02"))
    days = services.platform_terms(day("2027-04-02")).limits.reinstate_days

    late = day("2027-04-01") + timedelta(days=days, seconds=1)
    assert refused(contract, {}, late, reason="Back.")[0] == "reinstate_too_late"


def test_discounts_and_commitments_are_carried_unless_said_otherwise(
    payload: dict[str, Any], servers: UUID
) -> None:
    discount = {
        "discount_id": "01956f1c-3c00-7000-8000-00000000d001", "kind": "percent", "percent": "0.1",
        "duration": {"kind": "forever"},
    }  # fmt: skip
    kept = renewing(payload, "2027-03-01")
    dropped = renewing(payload, "2027-03-01")
    for contract in (kept, dropped):
        edit(contract, "apply_discount", discount, at=day("2027-03-02"))
    edit(dropped, "renew", {"carry_discounts": False}, at=day("2027-03-10"))

    tick(day("2027-04-01"))

    assert len(now(kept).discounts) == 1
    assert now(dropped).discounts == {}


@pytest.mark.parametrize(("on_end", "status"), [("convert", "active"), ("expire", "terminated")])
def test_a_trial_ends_by_the_clock_and_a_contract_that_ends_with_it_is_not_renewed(
    payload: dict[str, Any], on_end: str, status: str
) -> None:
    contract = renewing(payload, "2027-03-01", months=2, trial={"days": 14, "on_end": on_end})
    assert bool(rows(contract, status="planned")) == (on_end == "convert")
    line = now(contract).live_lines[0]
    assert not now(contract).bills(line)

    tick(day("2027-03-15"))

    state = now(contract)
    assert (state.status, state.trial) == (status, None)
    assert events_of(contract)[-1][:2] == ("contract.took_effect", day("2027-03-15"))
    assert state.bills(line) == (on_end == "convert")
    tick(day("2027-05-01"))
    assert contract.edits.filter(operation="renew").exists() == (on_end == "convert")


@given(
    start=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)),
    months=st.integers(1, 12),
    terms=st.integers(1, 12),
)
def test_terms_in_a_row_end_where_one_long_term_would(start: datetime, months: int, terms: int) -> None:
    first = start.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=day("2027-01-01").tzinfo)
    end = first
    for _ in range(terms):
        end = term_end(end, months, first)
    assert end == term_end(first, months * terms, first)


@given(share=st.decimals("0", "1", places=4), rate=st.decimals("0", "100000", places=6))
def test_what_is_raised_by_a_share_is_within_that_cap_and_above_any_lower_one(
    share: Decimal, rate: Decimal
) -> None:
    tiers = (Tier(Decimal(10), rate, 100), Tier(None, rate / 2, 0))
    old = Price(model="graduated", rate=rate, currency="USD", tiers=tiers, min_minor=200)
    new = uplifted(old, share)
    assert not rises_over(old, new, share + Decimal("0.01"))
    if rate and share > Decimal("0.01"):
        assert rises_over(old, new, share - Decimal("0.01"))
    assert rises_over(old, Price(model="volume", rate=rate, currency="USD", tiers=tiers), Decimal(1))
