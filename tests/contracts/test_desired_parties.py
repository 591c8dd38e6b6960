"""Commitments and ends, party by party: who owes what falls short, who earns it, and what an end lets go."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from contracts.rules.operations.commitment import SetCommitment
from contracts.rules.operations.holds import Suspend
from contracts.rules.operations.products import RemoveProduct
from contracts.rules.operations.terminate import Terminate
from contracts.rules.operations.transfer import TransferOwnership
from tests.contracts.logs import (
    BUYER,
    HOURS,
    OTHER_SELLER,
    SELLER,
    SERVERS,
    Step,
    contract,
    desired,
    hours,
    servers,
    told,
    usd,
)

NEW_BUYER, DEAL, KEPT = UUID(int=11), UUID(int=50), UUID(int=5)
YEAR = "2027-03-01", "2028-03-01"
MARCH = "2027-03-01", "2027-04-01"


def spend(amount: int, **given: Any) -> Step:
    payload = SetCommitment(DEAL, kind="minimum_spend", amount_minor=amount, **given)
    return "set_commitment", payload, "2027-03-01"


def units(amount: int, **given: Any) -> Step:
    payload = SetCommitment(DEAL, kind="minimum_quantity", units=Decimal(amount), **given)
    return "set_commitment", payload, "2027-03-01"


def given_to(party: Any, new: UUID, when: str) -> Step:
    return "transfer_ownership", TransferOwnership(party, new), when


def ended(when: str, **given: Any) -> Step:
    return "terminate", Terminate("date", **given), when


def told_of(edits: Any, line_id: UUID) -> list[tuple[str, str, int]]:
    return told([line for line in desired(edits, *MARCH) if line.line_id == line_id])


def tops(edits: Any, *span: str, used: Any = None) -> list[tuple[UUID, UUID | None, str, int]]:
    return [
        (line.buyer_id, line.seller_id, f"{line.end:%m-%d}", line.net_minor)
        for line in desired(edits, *span, used)
        if line.kind == "true_up"
    ]


# Owners


@pytest.mark.parametrize("window", ["period", "quarter", "term"])
def test_each_owner_answers_for_what_fell_short_until_he_left(window: Any) -> None:
    """A year of twelve thousand, handed on after its first half: 184 of 366 days when it is one window."""
    amount = {"period": 100_000, "quarter": 300_000, "term": 1_200_000}[window]
    handed = given_to("buyer", NEW_BUYER, "2027-09-01")
    edits = contract(
        "2027-03-01", [hours()], spend(amount, window=window, true_up="term_end"), handed, months=12
    )
    first = 603_279 if window == "term" else 600_000
    owed = [(BUYER, SELLER, "09-01", first), (NEW_BUYER, SELLER, "03-01", 1_200_000 - first)]
    assert tops(edits, *YEAR) == owed
    assert tops(edits, "2027-03-01", "2027-09-01") == owed[:1]
    assert tops(edits, "2027-09-01", "2028-03-01") == owed[1:]


def test_what_one_owner_used_does_not_pay_for_another() -> None:
    handed = given_to("buyer", NEW_BUYER, "2027-09-01")
    edits = contract("2027-03-01", [hours(usd("1.00"))], spend(10_000, true_up="term_end"), handed, months=12)
    used = {HOURS: [("2027-04-05", "900"), ("2027-10-05", "250")]}
    assert tops(edits, *YEAR, used=used) == [(NEW_BUYER, SELLER, "03-01", 35_000)]


# Sellers


def test_what_falls_short_of_a_line_is_its_sellers_by_what_each_earned_of_it() -> None:
    sold = given_to("seller", OTHER_SELLER, "2027-03-30")
    used = {HOURS: [("2027-03-05", "300"), ("2027-03-30", "100")]}
    edits = contract("2027-03-01", [hours(usd("1.00"))], spend(80_000), sold)
    assert tops(edits, *MARCH, used=used) == [
        (BUYER, SELLER, "04-01", 30_000),
        (BUYER, OTHER_SELLER, "04-01", 10_000),
    ]
    only = {HOURS: [("2027-03-05", "400")]}
    assert tops(edits, *MARCH, used=only) == [(BUYER, SELLER, "04-01", 40_000)]


def test_sellers_of_a_line_that_came_to_nothing_share_what_falls_short_by_their_days() -> None:
    sold = given_to("seller", OTHER_SELLER, "2027-03-30")
    edits = contract("2027-03-01", [hours(usd("1.00"))], spend(31_000), sold)
    assert tops(edits, *MARCH) == [(BUYER, SELLER, "04-01", 29_000), (BUYER, OTHER_SELLER, "04-01", 2_000)]


def test_units_that_fall_short_are_told_apart_by_seller_too() -> None:
    sold = given_to("seller", OTHER_SELLER, "2027-03-30")
    used = {HOURS: [("2027-03-05", "300"), ("2027-03-30", "100")]}
    edits = contract("2027-03-01", [hours(usd("2.00"))], units(500), sold)
    lines = [line for line in desired(edits, *MARCH, used) if line.kind == "true_up"]
    assert [(line.seller_id, line.quantity, line.rate, line.net_minor) for line in lines] == [
        (SELLER, Decimal(75), Decimal("2.00"), 15_000),
        (OTHER_SELLER, Decimal(25), Decimal("2.00"), 5_000),
    ]


# Ends


@pytest.mark.parametrize(
    "day", ["2027-05-31", "2027-05-31T23:00:00", "2027-06-01", "2027-06-01T01:00:00", "2027-06-15"]
)
@pytest.mark.parametrize("how", ["agreed", "said"])
def test_what_is_waived_of_a_term_is_all_of_it_at_whatever_hour(day: str, how: str) -> None:
    agreed = {"on_termination": "waive"} if how == "agreed" else {}
    said = {"commitment": "waive"} if how == "said" else {}
    edits = contract(
        "2027-03-01", [hours()], spend(100_000, true_up="term_end", **agreed), ended(day, **said), months=12
    )
    assert desired(edits, *YEAR) == []


def test_the_last_window_is_waived_also_when_it_is_whole_and_those_before_it_are_not() -> None:
    for day in ("2027-05-15", "2027-06-01"):
        edits = contract("2027-03-01", [hours()], spend(100_000), ended(day, commitment="waive"), months=12)
        assert [owed[2] for owed in tops(edits, *YEAR)] == ["04-01", "05-01"]


def test_a_term_that_ran_to_its_end_did_not_end_early() -> None:
    for true_up, expected in (("window", [100_000] * 3), ("term_end", [300_000])):
        commitment = spend(100_000, true_up=true_up, on_termination="waive")
        edits = contract("2027-03-01", [hours()], commitment, ended("2027-06-01"), months=3)
        assert [owed[3] for owed in tops(edits, *YEAR)] == expected
        waived = contract(
            "2027-03-01", [hours()], commitment, ended("2027-06-01", commitment="waive"), months=3
        )
        assert [owed[3] for owed in tops(waived, *YEAR)] == expected[:-1]


@pytest.mark.parametrize("day", ["2027-03-31", "2027-03-31T23:59:59", "2027-04-01"])
def test_the_use_of_the_last_period_is_let_go_also_when_the_contract_ends_with_it(day: str) -> None:
    used = {HOURS: [("2027-03-05", "100")]}
    edits = contract("2027-02-01", [servers("100.00", 1), hours()], ended(day, final_usage="skip"))
    assert {line.kind for line in desired(edits, *MARCH, used)} == {"recurring"}
    billed = contract("2027-02-01", [servers("100.00", 1), hours()], ended(day, final_usage="bill"))
    assert [line.line_id for line in desired(billed, *MARCH, used)] == [SERVERS, HOURS]
    before = {HOURS: [("2027-02-28", "100")]}
    assert told(desired(edits, "2027-02-01", "2027-03-01", before))[1:] == [("usage", "02-01 03-01", 19_500)]


# What is forfeited


REMOVED: Step = ("remove_product", RemoveProduct(SERVERS, unused="forfeit"), "2027-03-10")
HALVED: Step = ("suspend", Suspend("buyer", billing="reduced", reduced_to=Decimal("0.5")), "2027-03-05")


def test_what_is_forfeited_costs_what_staying_would_have_cost() -> None:
    lines = [servers("3100.00", 1), servers("3100.00", 1, line_id=KEPT)]
    for end in (REMOVED, ended("2027-03-10", cause="mutual", unused="forfeit")):
        edits = contract("2027-03-01", lines, HALVED, end)
        found = [one for one in told_of(edits, SERVERS) if one[1] >= "03-05"]
        assert sum(one[2] for one in found) == 135_000
        stayed = [one for one in told_of(contract("2027-03-01", lines, HALVED), SERVERS) if one[1] >= "03-05"]
        assert sum(one[2] for one in stayed) == 135_000


def test_what_is_forfeited_is_owed_by_whoever_forfeited_it() -> None:
    lines = [servers("3100.00", 1), servers("3100.00", 1, line_id=KEPT)]
    edits = contract("2027-03-01", lines, REMOVED, given_to("buyer", NEW_BUYER, "2027-03-16"))
    found = [line for line in desired(edits, *MARCH) if line.line_id == SERVERS]
    assert {(line.buyer_id, line.owner_epoch) for line in found} == {(BUYER, 1)}
    assert sum(line.net_minor for line in found) == 310_000
    bought = [line for line in desired(edits, *MARCH) if line.buyer_id == NEW_BUYER]
    assert [(line.line_id, line.net_minor) for line in bought] == [(KEPT, 160_000)]


def test_what_a_former_owner_forfeited_is_not_spent_by_the_next_one() -> None:
    lines = [servers("3100.00", 1), servers("3100.00", 1, line_id=KEPT)]
    handed = given_to("buyer", NEW_BUYER, "2027-03-16")
    edits = contract("2027-03-01", lines, spend(620_000), REMOVED, handed)
    assert tops(edits, *MARCH) == [(NEW_BUYER, SELLER, "04-01", 160_000)]
