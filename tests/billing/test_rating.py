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
from contracts.rules.operations.products import AddProduct, RemoveProduct
from contracts.rules.operations.transfer import TransferOwnership
from contracts.rules.terms import Tax, Terms
from tests.contracts.logs import (
    HOURS,
    OTHER_SELLER,
    SELLER,
    SERVERS,
    SETUP,
    at,
    contract,
    hours,
    servers,
    usd,
)

OFF, DEAL, OTHER_BUYER = UUID(int=100), UUID(int=101), UUID(int=11)
TAXED = Terms(tax=Tax(rate=Decimal("0.0825")))


def rated(edits: Sequence[Edit], used: str = "0") -> list[RatedLine]:
    return owed(edits, 1, "2026-03-01", "2026-04-01", used)


def owed(edits: Sequence[Edit], owner_epoch: int, start: str, end: str, used: str = "0") -> list[RatedLine]:
    return rate_period(
        edits,
        owner_epoch=owner_epoch,
        start=at(start),
        end=at(end),
        usage=lambda line_id, since, until: Decimal(used),
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


REMOVED = ("remove_product", RemoveProduct(SETUP, when="date", unused="forfeit"), "2026-03-05")


SOLD = ("transfer_ownership", TransferOwnership("buyer", OTHER_BUYER), "2026-03-11")


def test_what_an_owner_forfeited_is_on_his_last_invoice_and_not_on_the_next_owners() -> None:
    dear = AddProduct(SETUP, "rack", SELLER, usd("1000.00", min_minor=500_000), 2)
    edits = contract("2026-01-01", [servers(), dear], REMOVED, SOLD)
    last = [line for line in owed(edits, 1, "2026-03-01", "2026-03-11") if line.line_id == SETUP]
    assert [(line.kind, line.start, line.net_minor) for line in last] == [
        ("recurring", at("2026-03-01"), 64_516),
        ("recurring", at("2026-03-11"), 135_484),
        ("true_up", at("2026-03-01"), 300_000),
    ]
    assert {line.line_id for line in owed(edits, 2, "2026-03-11", "2026-04-01")} == {SERVERS}
    assert owed(edits, 1, "2026-03-11", "2026-04-01") == [], "it is on no invoice twice"


def test_what_was_forfeited_is_due_then_also_where_the_next_owner_has_other_periods() -> None:
    moved = TransferOwnership("buyer", OTHER_BUYER, anchor="new_day", anchor_day=11)
    edits = contract("2026-01-01", [servers(), servers(line_id=SETUP)], REMOVED, (*SOLD[:1], moved, SOLD[2]))
    last = [line for line in owed(edits, 1, "2026-03-01", "2026-03-11") if line.line_id == SETUP]
    assert [(line.start, line.end) for line in last] == [
        (at("2026-03-01"), at("2026-03-11")),
        (at("2026-03-11"), at("2026-04-01")),
    ]
    assert {line.line_id for line in owed(edits, 2, "2026-03-11", "2026-04-11")} == {SERVERS}


def test_an_invoice_bills_its_owner_for_his_own_time_only() -> None:
    edits = contract("2026-03-01", [servers("3100.00", 1)], SOLD)
    month = "2026-03-01", "2026-04-01"
    assert [line.net_minor for line in owed(edits, 1, *month)] == [100_000]
    assert [line.net_minor for line in owed(edits, 2, *month)] == [210_000]
