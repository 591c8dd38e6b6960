"""The contract of the worked example, from draft to its expected period and its split."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from commerce.outbox.models import OutboxEvent
from contracts import services
from contracts.models import Contract, ContractEdit
from contracts.rules.desired import desired_lines, expected_period_total
from contracts.rules.periods import billing_period
from contracts.rules.splits import split_invoice
from tests.contracts.conftest import MARCH, Parties, create

APRIL = datetime(2027, 4, 1, tzinfo=UTC)

pytestmark = pytest.mark.django_db


def test_the_first_period_is_expected_at_28_970_after_the_downpayment(payload: dict[str, Any]) -> None:
    payload["terms"]["commitment"] = {"downpayment": {"amount_minor": 1000000, "currency": "USD"}}
    contract = create(payload).contract
    state = contract.current
    period = billing_period(state.billing.anchor_day, contract.start_at, MARCH)
    net, tax = expected_period_total(state, period)
    downpayment = state.terms.commitment.downpayment
    assert (period.start, period.end) == (MARCH, APRIL)
    assert (net, tax) == (3_600_000, 297_000)
    assert downpayment is not None
    assert net + tax - downpayment.amount_minor == 2_897_000


def test_the_invoice_of_the_first_period_is_rated_and_split_to_the_cent(
    active: Contract, parties: Parties
) -> None:
    edits = services.contract_edits(active.pk)
    state = active.current
    period = billing_period(1, active.start_at, MARCH)
    lines = desired_lines(
        edits, start=period.start, end=period.end, usage=lambda line_id, since, until: Decimal(100)
    )
    assert [line.net_minor for line in lines] == [3_600_000, 20_000]
    assert sum(line.tax_minor for line in lines) == 298_650
    split = split_invoice(
        [(line.seller_id, line.net_minor, line.tax_minor) for line in lines if line.seller_id],
        state.terms.settlement,
    )
    assert split.tax_minor == 298_650
    assert split.fee_minor == 429_875
    assert split.partner == (parties.partner.pk, 22_625)
    assert split.sellers == {parties.seller.pk: 3_167_500}
    assert split.total_minor == 3_918_650


def test_each_step_to_activation_is_one_edit_and_one_event(active: Contract) -> None:
    assert active.status == "active"
    assert active.version == 4
    assert list(ContractEdit.objects.order_by("seq").values_list("seq", "operation")) == [
        (1, "create"), (2, "activate"), (3, "activate"), (4, "activate"),
    ]  # fmt: skip
    events = OutboxEvent.objects.filter(aggregate_type="contract").order_by("sequence")
    assert [event.type for event in events] == [
        "contract.created", "contract.submitted", "contract.signed", "contract.activated",
    ]  # fmt: skip
    assert [event.payload["to_version"] for event in events] == [1, 2, 3, 4]
    assert events[3].payload["status"] == {"before": "pending_activation", "after": "active"}


def test_a_contract_gets_the_next_number_of_its_year_unless_it_brings_one(payload: dict[str, Any]) -> None:
    first = create(payload).contract
    second = create({**payload, "number": "ACME-7"}).contract
    assert first.number.startswith("C-2027-")
    assert second.number == "ACME-7"
