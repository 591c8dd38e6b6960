"""Published worked examples of edits: history, suspension, cancellation, transfer, back-dating."""

from datetime import timedelta
from uuid import UUID

from contracts.rules.fold import fold
from contracts.rules.operations.correct import Correct
from contracts.rules.operations.holds import Resume, Suspend
from contracts.rules.operations.prices import ChangePrice
from contracts.rules.operations.products import AddProduct, ChangeQuantity, RemoveProduct
from contracts.rules.operations.terminate import Terminate
from contracts.rules.operations.transfer import TransferOwnership
from tests.contracts.logs import (
    BUYER,
    SELLER,
    SERVERS,
    Step,
    at,
    changed,
    contract,
    desired,
    log,
    servers,
    usd,
)
from tests.contracts.vectors import Vector, examples

PREMIUM, NEW_OWNER = UUID(int=4), UUID(int=11)


@examples("BT-01")
def test_what_was_believed_when_is_not_what_is_known_now(vector: Vector) -> None:
    first, second = vector["inputs"]["edits"]
    raised = ChangeQuantity(SERVERS, quantity=second["salary"])
    days = f"2021-{second['effective']}", f"2021-{second['recorded']}"
    created = contract("2021-01-01", [servers(quantity=first["salary"])])
    edits = log(("change_quantity", raised, *days), after=created)
    for record, actual, expected in vector["expected"]:
        state = fold(edits, valid_at=at(f"2021-{actual}"), known_at=at(f"2021-{record}"))
        assert state.lines[SERVERS].quantity == expected


def runs(*holds: Step) -> list[str]:
    """What is billed over the year of an upgrade in June, as days of each product, joined."""
    basic = servers("100.00", 1)
    premium = AddProduct(PREMIUM, "premium", SELLER, usd("200.00"))
    edits = contract(
        "2026-01-01", [basic],
        ("remove_product", RemoveProduct(SERVERS), "2026-06-01"), ("add_product", premium, "2026-06-01"),
        *holds,
    )  # fmt: skip
    found: list[list[object]] = []
    for line in sorted(desired(edits, "2026-01-01", "2027-01-01"), key=lambda line: line.start):
        name = "Premium" if line.line_id == PREMIUM else "Basic"
        if found and found[-1][0] == name and found[-1][2] == line.start:
            found[-1][2] = line.end
        else:
            found.append([name, line.start, line.end])
    day = timedelta(days=1)
    return [f"{name} {start:%m-%d}..{end - day:%m-%d}" for name, start, end in found]  # type: ignore[operator]


@examples("ZU-03")
def test_a_change_that_falls_into_a_suspension_is_billed_from_the_resumption(vector: Vector) -> None:
    expected = vector["expected"]
    for day in vector["inputs"]["resume"]:
        found = runs(
            ("suspend", Suspend("buyer", billing="stop"), f"2026-{vector['inputs']['suspend']}"),
            ("resume", Resume("buyer"), f"2026-{day}"),
        )
        spans = [
            f"{product.split()[0]} {span}"
            for product in expected[f"resume_{day}"].split("; ")
            for span in product.split(" ", 1)[1].split(" and ")
        ]
        assert found == spans


@examples("ZU-04")
def test_a_cancellation_that_is_withdrawn_gives_the_year_back(vector: Vector) -> None:
    yearly = contract("2025-01-01", [servers("100.00", 1)], months=12)
    cancelled = log(("terminate", Terminate("date"), vector["inputs"]["cancel"]), after=yearly)
    undone = log(("correct", Correct(len(cancelled), "void"), "2025-12-01"), after=cancelled)
    repriced = log(("change_price", ChangePrice(SERVERS, usd("300.00")), "2025-07-01"), after=yearly)

    def value(edits: list, start: str, end: str) -> int:  # type: ignore[type-arg]
        return sum(line.net_minor for line in desired(edits, start, end)) // 100

    expected = vector["expected"]
    assert value(cancelled, "2025-01-01", "2026-01-01") == expected["after_cancel"]
    assert value(undone, "2025-01-01", "2026-01-01") == expected["after_undo"]
    halves = [value(repriced, "2025-01-01", "2025-07-01"), value(repriced, "2025-07-01", "2026-01-01")]
    assert halves == expected["split"]


@examples("KB-16")
def test_a_transfer_gives_the_old_owner_back_what_the_new_one_is_charged(vector: Vector) -> None:
    given = vector["inputs"]
    lines = [servers(str(minor / 100), 1, UUID(int=no)) for no, minor in enumerate(given["lines_minor"], 1)]
    before = contract("2012-05-01", lines)
    transfer = TransferOwnership("buyer", NEW_OWNER)
    after = log(("transfer_ownership", transfer, given["transfer"]), after=before)
    found = changed(before, after, "2012-05-01", "2012-07-01")
    by_owner = {
        owner: sum(one.net_minor for one in found if one.owed.buyer_id == owner)
        for owner in (BUYER, NEW_OWNER)
    }
    assert by_owner[BUYER] == vector["expected"]["old_owner_credit_minor"]
    assert by_owner[NEW_OWNER] == vector["expected"]["new_owner_charge_minor"]
    assert {one.owed.period_start for one in found} == {at("2012-06-01")}
    assert {one.owed.owner_epoch for one in found} == {1, 2}


def grown(*then: Step) -> list:  # type: ignore[type-arg]
    """Four servers from 10 March, six from 16 April."""
    more = ("change_quantity", ChangeQuantity(SERVERS, delta=2), "2026-04-16")
    return contract("2026-03-10", [servers()], more, *then)


@examples("OW-02")
def test_two_servers_more_cost_their_part_of_the_month(vector: Vector) -> None:
    found = changed(contract("2026-03-10", [servers()]), grown(), "2026-03-10", "2026-05-01")
    assert [one.net_minor for one in found] == [vector["expected"]]


@examples("OW-03")
def test_a_price_lowered_afterwards_changes_each_period_that_was_posted(vector: Vector) -> None:
    given = vector["inputs"]
    cut = ChangePrice(SERVERS, usd(str(given["to"] / 100)))
    after = grown(("change_price", cut, given["effective"], given["recorded"]))
    found = changed(grown(), after, "2026-03-10", given["invoiced_through"])
    assert {f"{one.owed.period_start:%Y-%m}": one.net_minor for one in found} == vector["expected"]
