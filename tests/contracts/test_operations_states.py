"""Which operation is allowed in which status: the whole table, every pair of it."""

from typing import Any
from uuid import UUID

import pytest

from commerce.errors import StateConflict
from contracts.rules.operations import NAMES, REGISTRY, check_allowed
from contracts.rules.state import evolve
from tests.contracts.operating import ACTIVE, BUYER, HOURS, NOW, SERVERS, parsed

STATUSES = (
    "draft", "pending_signature", "pending_activation", "active", "suspended", "expired", "terminated",
    "cancelled",
)  # fmt: skip
EDITABLE = {"draft", "pending_activation", "active", "suspended"}
RUNNING = {"active", "suspended"}
LINE = {"line_id": str(SERVERS)}
ID = str(UUID(int=90))

ALLOWED: list[tuple[str, dict[str, Any], set[str]]] = [
    ("create", {"buyer_id": str(BUYER), "currency": "USD", "start_at": "2027-03-01T00:00:00Z"}, {"none"}),
    ("activate", {"stage": "submit"}, {"draft"}),
    ("activate", {"stage": "withdraw"}, {"pending_signature"}),
    ("activate", {"stage": "signed"}, {"pending_signature", "pending_activation"}),
    ("activate", {"stage": "live"}, {"pending_activation"}),
    ("add_product", {"line_id": ID}, EDITABLE),
    ("remove_product", LINE, EDITABLE),
    ("change_quantity", LINE, EDITABLE),
    ("change_price", LINE, EDITABLE),
    ("apply_discount", {"discount_id": ID}, EDITABLE),
    ("set_commitment", {"commitment_id": ID}, EDITABLE),
    ("attach_financing", {"financing_id": ID}, EDITABLE),
    ("change_terms", {"renewal": {"auto": True}}, EDITABLE),
    ("change_terms", {"payment": {"grace_days": 5}}, EDITABLE | {"expired"}),
    ("change_terms", {"references": {"notes": "x"}}, EDITABLE | {"expired", "terminated", "cancelled"}),
    ("renew", {}, RUNNING | {"expired"}),
    ("suspend", {"reason": "buyer"}, RUNNING),
    ("resume", {"reason": "buyer"}, RUNNING),
    ("terminate", {}, EDITABLE | {"pending_signature"}),
    ("transfer_ownership", {"party": "buyer", "new_party_id": ID}, {"pending_activation", "active"}),
    ("correct", {"target_seq": 2, "mode": "void"}, set(STATUSES)),
]


def test_the_table_names_every_operation() -> None:
    assert {name for name, _, _ in ALLOWED} == set(NAMES) == set(REGISTRY)


@pytest.mark.parametrize("status", ["none", *STATUSES])
@pytest.mark.parametrize(("name", "payload", "allowed"), ALLOWED)
def test_an_operation_is_allowed_in_these_statuses_and_in_no_other(
    name: str, payload: dict[str, Any], allowed: set[str], status: str
) -> None:
    state, value = evolve(ACTIVE, status=status), parsed(name, payload)
    if status in allowed:
        check_allowed(REGISTRY[name], state, value, NOW)
        return
    with pytest.raises(StateConflict) as raised:
        check_allowed(REGISTRY[name], state, value, NOW)
    over = name == "terminate" and status in ("terminated", "cancelled")
    assert raised.value.code == ("already_terminated" if over else "invalid_state")
    assert raised.value.extra == {"contract_status": status, "allowed": sorted(allowed)}


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("add_product", {"line_id": ID, "product": "x", "seller_id": ID, "price": {"model": "unit"}}),
        ("remove_product", {"line_id": str(HOURS)}),
        ("change_quantity", {**LINE, "quantity": 3}),
        ("change_price", {**LINE, "percent": "-0.1"}),
        ("apply_discount", {"discount_id": ID, "kind": "percent", "percent": "0.1"}),
        ("set_commitment", {"commitment_id": ID, "kind": "prepaid", "amount_minor": 1}),
        ("attach_financing",
         {"financing_id": ID, "principal_minor": 1, "term_months": 1, "first_due_on": "2027-09-01"}),
    ],
)  # fmt: skip
def test_what_was_signed_is_signed_again_when_it_changes(name: str, payload: dict[str, Any]) -> None:
    op, value = REGISTRY[name], parsed(name, payload)
    for status in ("draft", "active", "suspended"):
        assert not op.apply(evolve(ACTIVE, status=status), value, NOW).needs_resign
    assert op.apply(evolve(ACTIVE, status="pending_activation"), value, NOW).needs_resign
