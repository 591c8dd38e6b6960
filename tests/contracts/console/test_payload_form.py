"""One form for every payload: what it shows of one, it reads back as the same."""

from typing import Any

import pytest
from django import forms
from django.http import QueryDict

from commerce.errors import FieldError
from contracts.admin.choices import Offered
from contracts.admin.payload_form import payload_form
from contracts.rules import schema
from contracts.rules.fold import NOTHING
from contracts.rules.operations import NAMES, named
from contracts.rules.state import evolve
from tests.contracts.conftest import Parties

pytestmark = pytest.mark.django_db
LINE, OTHER, MADE = (f"01956f1c-3c00-7000-8000-00000000a00{n}" for n in (1, 2, 3))
STATE = evolve(NOTHING, currency="USD")
AT = "2027-04-01T00:00:00Z"
TIERS = [
    {"up_to": "100", "rate": "2.5", "flat_minor": 1000},
    {"up_to": None, "rate": "1.125", "flat_minor": 0},
]
PAYLOADS: list[tuple[str, dict[str, Any]]] = [
    ("activate", {"stage": "signed", "signatures": [{"party": "buyer", "name": "A", "at": AT}]}),
    ("add_product", {"line_id": LINE, "product": "h100-server", "seller_id": "seller", "quantity": 3,
                     "price": {"model": "graduated", "tiers": TIERS, "min_minor": 5000, "included": "10"},
                     "unit_ids": ["u1", "u2"], "min_term_months": 6, "settlement": {"fee_rate": "0.1"}}),
    ("remove_product", {"line_id": LINE, "when": "date",
                        "early_fee": {"kind": "fixed", "amount_minor": 12345}}),
    ("change_quantity", {"line_id": LINE, "delta": -2}),
    ("change_price", {"line_id": LINE, "percent": "-0.055", "when": "next_period", "notice_given_at": AT}),
    ("change_price", {"line_id": LINE, "price": {"model": "volume", "tiers": TIERS}}),
    ("apply_discount", {"discount_id": MADE, "kind": "percent", "percent": "0.125", "scope": [LINE, OTHER],
                        "duration": {"kind": "periods", "periods": 3},
                        "funded_by": {"kind": "split", "seller_share": "0.4"}}),
    ("apply_discount", {"discount_id": MADE, "kind": "fixed_per_period",
                        "amount": {"amount_minor": 99999, "currency": "USD"}}),
    ("apply_discount", {"discount_id": MADE, "kind": "ramp",
                        "ramp": [{"from_month": 1, "percent": "0.5"}, {"from_month": 4, "percent": "0.25"}]}),
    ("set_commitment", {"commitment_id": MADE, "kind": "minimum_spend", "amount_minor": 5850000,
                        "window": "quarter", "overage_factor": "1.25", "scope": [LINE]}),
    ("attach_financing", {"financing_id": MADE, "principal_minor": 18000000, "apr": "0.09", "term_months": 24,
                          "first_due_on": "2027-05-01", "collateral": [LINE], "downpayment_minor": 6000000}),
    ("change_terms", {"payment": {"net_days": 30, "late_fee_minor": 2500}, "tax": {"rate": "0.0825"},
                      "references": {"po_number": "PO-1", "labels": ["a", "b"]},
                      "renewal": {"auto": True, "uplift": {"kind": "percent", "value": "0.035"}}}),
    ("renew", {"mode": "extend", "end_at": AT, "carry_discounts": False,
               "reprice": [{"line_id": LINE, "price": {"model": "unit", "rate": "17000.005"}}]}),
    ("suspend", {"reason": "abuse", "scope": [LINE], "billing": "stop", "access": "keep"}),
    ("resume", {"reason": "abuse"}),
    ("terminate", {"when": "immediate", "cause": "mutual", "unused": "forfeit"}),
    ("transfer_ownership", {"party": "buyer", "new_party_id": "partner", "anchor": "new_day",
                            "anchor_day": 15}),
    ("correct", {"target_seq": 4, "mode": "void"}),
    ("create", {"buyer_id": "buyer", "currency": "USD", "start_at": AT,
                "term": {"kind": "fixed", "months": 12},
                "terms": {"commitment": {"downpayment": {"amount_minor": 5000000, "currency": "USD"}}}}),
]  # fmt: skip
CASES = pytest.mark.parametrize(("operation", "payload"), PAYLOADS, ids=[name for name, _ in PAYLOADS])


def with_parties(data: Any, parties: Parties) -> Any:
    known = {"buyer": parties.buyer, "seller": parties.seller, "partner": parties.partner}
    if isinstance(data, dict):
        return {
            key: str(known[value].pk) if key.endswith(("_id", "party")) and value in known and key != "party"
            else str(known[value].pk) if key == "party" and "name" in data
            else with_parties(value, parties)
            for key, value in data.items()
        }  # fmt: skip
    return [with_parties(one, parties) for one in data] if isinstance(data, list) else data


def entered(form: forms.Form) -> QueryDict:
    """What a browser would send of a form as it is shown."""
    sent = QueryDict(mutable=True)
    for bound in form:
        value = bound.value()
        if isinstance(value, list | tuple):
            sent.setlist(bound.html_name, [str(one) for one in value])
        elif value is not None:
            sent[bound.html_name] = str(value)
    return sent


@CASES
def test_a_payload_that_is_shown_is_read_back_the_same(
    operation: str, payload: dict[str, Any], parties: Parties
) -> None:
    kind = named(operation).payload
    given = with_parties(payload, parties)
    wanted = schema.parse(kind, given)
    offered = Offered(operation, None, STATE)
    shown = payload_form(kind, offered, initial=given)
    again = payload_form(kind, offered, initial=given, data=entered(shown))
    assert again.is_valid(), again.errors
    assert schema.parse(kind, again.payload()) == wanted


def test_every_operation_is_among_them() -> None:
    assert {name for name, _ in PAYLOADS} == set(NAMES)


def test_what_is_left_empty_is_left_out_and_what_is_wrong_is_said_at_its_field() -> None:
    offered = Offered("apply_discount", None, STATE)
    kind = named("apply_discount").payload
    sent = QueryDict("payload.discount_id=x&payload.mode=apply&payload.kind=percent&payload.percent=1,5")
    form = payload_form(kind, offered, data=sent)
    assert not form.is_valid()
    assert list(form.errors) == ["payload.percent"]
    sent = QueryDict(
        f"payload.discount_id={MADE}&payload.mode=apply&payload.kind=percent&payload.percent=12.5"
    )
    form = payload_form(kind, offered, data=sent)
    assert form.is_valid()
    assert form.payload() == {"discount_id": MADE, "mode": "apply", "kind": "percent", "percent": "0.125"}
    form.blame(
        [FieldError("/payload/percent", "x", "Too much."), FieldError("/payload/no", "y", "And?")], "No."
    )
    assert form.errors["payload.percent"] == ["Too much."]
    assert form.non_field_errors() == ["And?"]


def test_money_is_entered_in_major_units_of_the_contracts_currency() -> None:
    for currency, typed, minor in (("USD", "1234.5", 123450), ("JPY", "1234", 1234), ("KWD", "1.234", 1234)):
        offered = Offered("attach_financing", None, evolve(NOTHING, currency=currency))
        sent = QueryDict(f"payload.financing_id={MADE}&payload.principal_minor={typed}")
        form = payload_form(named("attach_financing").payload, offered, data=sent)
        assert form.is_valid(), form.errors
        assert form.payload()["principal_minor"] == minor
    half = QueryDict("payload.principal_minor=0.5")
    jpy = Offered("attach_financing", None, evolve(NOTHING, currency="JPY"))
    assert "payload.principal_minor" in payload_form(named("attach_financing").payload, jpy, data=half).errors
