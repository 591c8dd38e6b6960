"""Billing periods when the anchor or the cadence changes: one count for bills, dates and previews."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import services
from contracts.rules import schema
from contracts.rules.fold import Edit, at_instant, fold, timeline
from contracts.rules.operations import named
from contracts.rules.operations.commitment import SetCommitment
from contracts.rules.operations.products import RemoveProduct
from contracts.rules.operations.terms import ChangeTerms
from contracts.rules.schema import Patch
from contracts.rules.segments import periods_of
from contracts.rules.terms import Billing
from tests.contracts.conftest import OPERATOR, create, edit
from tests.contracts.logs import BUYER, SERVERS, at, contract, hours, servers
from tests.contracts.operating import instant, refusal

QUARTERS = Billing(cadence="P3M")


def to(day: str, **cycle: Any) -> tuple[str, ChangeTerms, str]:
    """The billing changes on that day."""
    return ("change_terms", ChangeTerms(billing=Patch(cycle)), day)


def spans(edits: list[Edit], start: str, end: str) -> list[tuple[str, str]]:
    found = periods_of(timeline(edits), at(start), at(end))
    return [(f"{period.start:%m-%d}", f"{period.end:%m-%d}") for period in found]


def test_quarters_are_counted_from_where_the_anchor_moved() -> None:
    """From 16 April by quarters: until 16 July, wherever the contract began."""
    edits = contract("2026-01-01", [servers()], to("2026-04-16", anchor_day=16), billing=QUARTERS)
    assert spans(edits, "2026-01-01", "2026-07-01") == [
        ("01-01", "04-01"), ("04-01", "04-16"), ("04-16", "07-16")
    ]  # fmt: skip
    state = fold(edits, valid_at=at("2026-05-01"))
    assert tuple(state.period(at("2026-05-01"))) == (at("2026-04-16"), at("2026-07-16"))
    assert tuple(state.period(at("2026-04-10"))) == (at("2026-04-01"), at("2026-04-16"))


@pytest.mark.parametrize(
    ("operation", "payload"),
    [
        ("terminate", {"when": "end_of_period"}),
        ("remove_product", {"line_id": str(SERVERS), "when": "end_of_period"}),
        ("change_quantity", {"line_id": str(SERVERS), "quantity": 2, "proration": "next_period"}),
        ("change_price", {"line_id": str(SERVERS), "percent": "-0.1", "when": "next_period"}),
    ],
)
def test_the_end_of_the_period_is_where_the_bill_ends(operation: str, payload: dict[str, Any]) -> None:
    edits = contract("2026-01-01", [servers()], to("2026-05-16", anchor_day=16), billing=QUARTERS)
    state = fold(edits, valid_at=at("2026-06-20"))
    assert instant(state, operation, payload, at("2026-06-20")) == at("2026-08-16")


def test_what_is_forfeited_ends_with_the_period_that_the_change_cut() -> None:
    """Removed at the instant from which another anchor counts, nothing of what came before is unused."""
    remove = ("remove_product", RemoveProduct(SERVERS, unused="forfeit"), "2026-04-16")
    then = (to("2026-04-16", anchor_day=1), remove)
    edits = contract("2026-01-10", [servers(), hours()], *then, billing=Billing(anchor_day=10))
    assert fold(edits, valid_at=at("2026-04-16")).lines[SERVERS].forfeited is None


def test_a_discount_of_so_many_periods_ends_where_a_period_ends() -> None:
    edits = contract("2026-01-01", [servers()], to("2026-02-16", cadence="P3M", anchor_day=16))
    payload = {"discount_id": str(BUYER), "kind": "percent", "percent": "0.1",
               "duration": {"kind": "periods", "periods": 2}}  # fmt: skip
    state = fold(edits, valid_at=at("2026-03-20"))
    op = named("apply_discount")
    after = op.apply(state, schema.parse(op.payload, payload), at("2026-03-20"))
    assert [one.ends_at for one in after.discounts.values()] == [at("2026-08-16")]


def test_a_commitments_window_of_a_period_is_the_billing_period() -> None:
    """Committed in February, in a quarter that began in January: the window ends with that quarter."""
    committed = SetCommitment(BUYER, kind="minimum_spend", amount_minor=100)
    edits = contract("2026-01-01", [servers()], ("set_commitment", committed, "2026-02-10"), billing=QUARTERS)
    moved = {"billing": {"anchor_day": 16}}
    for day in ("2026-03-01", "2026-05-10"):
        state = fold(edits, valid_at=at(day))
        assert refusal(state, "change_terms", moved, at(day)) == ("anchor_change_mid_commitment", "/billing")
    op = named("change_terms")
    op.check(
        fold(edits, valid_at=at("2026-04-01")),
        ChangeTerms(billing=Patch({"anchor_day": 16})),
        at("2026-04-01"),
    )


def test_what_is_agreed_before_the_start_holds_from_the_start() -> None:
    edits = contract("2026-01-01", [servers()], to("2026-01-01", cadence="P3M"))
    assert spans(edits, "2026-01-01", "2026-05-01") == [("01-01", "04-01"), ("04-01", "07-01")]
    assert fold(edits, valid_at=at("2026-01-01")).cycles == ()


changes = st.lists(
    st.tuples(
        st.integers(-5, 400),
        st.fixed_dictionaries(
            {}, optional={"anchor_day": st.integers(1, 31), "cadence": st.sampled_from(["P1M", "P3M", "P1Y"])}
        ),
    ),
    max_size=4,
)


@given(found=changes, days=st.integers(0, 700), cadence=st.sampled_from(["P1M", "P3M", "P1Y"]))
def test_a_state_counts_the_periods_as_the_bills_do(found: list[Any], days: int, cadence: Any) -> None:
    """Until the next change, which a state does not know of, cuts the period."""
    start = at("2026-01-31")
    then = [to(f"{start + timedelta(days=day):%Y-%m-%d}", **cycle) for day, cycle in found]
    edits = contract("2026-01-31", [servers()], *then, billing=Billing(anchor_day=31, cadence=cadence))
    instants = timeline(edits)
    moment = start + timedelta(days=days)
    (whole, *_) = (p for p in periods_of(instants, start, moment + timedelta(days=1)) if p.end > moment)
    seen = at_instant(instants, moment).period(moment)
    coming = [instant.at for instant in instants if instant.at > moment]
    assert replace(seen, end=min([seen.end, *(at for at in coming if at == whole.end)])) == whole
    assert whole.start <= moment < whole.end


@pytest.mark.django_db
def test_a_preview_shows_whole_periods_counted_from_the_change(payload: dict[str, Any]) -> None:
    """By quarters from 16 April: a cut in July changes the rest of that quarter and all of the next."""
    payload["billing"] = {"anchor_day": 1, "cadence": "P3M"}
    made = create(payload).contract
    for stage in ("submit", "signed", "live"):
        edit(made, "activate", {"stage": stage})
    edit(made, "change_terms", {"billing": {"anchor_day": 16}}, at=at("2027-04-16"))
    line_id = payload["lines"][0]["line_id"]

    preview = services.preview_edit(
        contract_id=made.pk, operation="change_price", payload={"line_id": line_id, "percent": "-0.1"},
        actor=OPERATOR, at=at("2027-08-16"), expected_version=None,
    )  # fmt: skip

    quantity, rate = payload["lines"][0]["quantity"], Decimal(payload["lines"][0]["price"]["rate"])
    quarter = int(-quantity * rate * 100 * 3 / 10)
    july, october = preview.bills
    assert (july.owed.period_start, october.owed.period_start) == (at("2027-07-16"), at("2027-10-16"))
    assert (july.net_minor, october.net_minor) == (round(Decimal(quarter) * 61 / 92), quarter)
