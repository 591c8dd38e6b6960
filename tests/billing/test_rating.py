"""Rating for invoices: the contract's desired lines as the buyer pays them."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from uuid import UUID

from billing.rules.rating import RatedLine, rate_period
from contracts.rules.fold import Edit
from contracts.rules.operations.commitment import SetCommitment
from contracts.rules.operations.discounts import ApplyDiscount
from contracts.rules.operations.financing import AttachFinancing
from contracts.rules.operations.transfer import TransferOwnership
from contracts.rules.terms import Tax, Terms
from tests.contracts.logs import HOURS, OTHER_SELLER, SELLER, SERVERS, at, contract, hours, servers, usd

OFF, DEAL = UUID(int=100), UUID(int=101)
TAXED = Terms(tax=Tax(rate=Decimal("0.0825")))


def rated(edits: Sequence[Edit], used: str = "0") -> list[RatedLine]:
    return rate_period(
        edits, start=at("2026-03-01"), end=at("2026-04-01"), usage=lambda line_id, since, until: Decimal(used)
    )


def test_an_invoice_line_is_what_is_left_of_a_charge_after_its_discounts_and_tax_is_of_that() -> None:
    half = ApplyDiscount(OFF, kind="percent", percent=Decimal("0.333"))
    edits = contract(
        "2026-03-01", [servers("100.01", 1)], ("apply_discount", half, "2026-03-01"), terms=TAXED
    )
    (line,) = rated(edits)
    assert (line.line_id, line.kind, line.seller_id) == (SERVERS, "recurring", SELLER)
    assert (line.quantity, line.rate) == (1, Decimal("100.01"))
    assert (line.net_minor, line.tax_minor) == (6_671, 550)


def test_what_is_missing_to_a_minimum_and_to_a_commitment_is_one_line_beside_what_was_used() -> None:
    committed = SetCommitment(DEAL, kind="minimum_spend", amount_minor=10_000)
    edits = contract(
        "2026-03-01", [hours(usd("1.00", min_minor=4_000))], ("set_commitment", committed, "2026-03-01")
    )
    assert [(line.kind, line.net_minor) for line in rated(edits, "15")] == [
        ("usage", 1_500),
        ("true_up", 8_500),
    ]
    assert {(line.line_id, line.start) for line in rated(edits, "15")} == {(HOURS, at("2026-03-01"))}


def test_what_nobody_used_and_what_a_lender_is_owed_are_on_no_invoice() -> None:
    loan = AttachFinancing(
        DEAL, principal_minor=100_000, apr=Decimal("0.09"), term_months=6, first_due_on=date(2026, 3, 15)
    )
    edits = contract("2026-02-15", [hours()], ("attach_financing", loan, "2026-02-15"))
    assert rated(edits) == []
    assert [line.net_minor for line in rated(edits, "2")] == [390]


def test_what_several_sellers_share_of_a_minimum_is_a_line_for_each_of_them() -> None:
    sold = TransferOwnership("seller", OTHER_SELLER, SELLER)
    edits = contract(
        "2026-03-01",
        [servers("100.00", 1, SERVERS), hours(usd("1.00", min_minor=90_000))],
        ("transfer_ownership", sold, "2026-03-11"),
    )
    assert [(line.kind, line.seller_id, line.net_minor) for line in rated(edits, "100")] == [
        ("recurring", SELLER, 3_226),
        ("recurring", OTHER_SELLER, 6_774),
        ("usage", SELLER, 10_000),
        ("usage", OTHER_SELLER, 10_000),
        ("true_up", SELLER, 35_000),
        ("true_up", OTHER_SELLER, 35_000),
    ]
